"""Scopes of caches: which builds find the caches of which others."""

from typing import Any

import msgspec
import pytest

from commands.build_actions import RestartBuild
from commands.build_caches import CacheScopes, find_cache_scopes
from commands.builds import StartBuild
from domain.builds import BuildAssigned, BuildFinished, BuildQueued, BuildStarted
from domain.jobs import JOB, Configuration, Job, JobConfigured, JobCreated
from domain.matrix import Matrix
from domain.triggers import BuildTrigger
from tests.support.spec import given

REPOSITORY = "https://github.com/acme/web"
CREATED = JobCreated(job_id=5, project_id=2, title="Smoke", repository=REPOSITORY)
CONFIGURED = JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="make"))
IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
PUSH, TAG = BuildTrigger("push", 3), BuildTrigger("tag", 3)
PULL_REQUEST, TIME = BuildTrigger("pull_request", 3, 7), BuildTrigger("schedule")


def queue(branch: str | None = None, trigger: BuildTrigger | None = None, **more: Any) -> BuildQueued:
    (queued,) = given(CREATED, CONFIGURED).when(StartBuild(1, 5, branch, trigger=trigger, **more))
    assert isinstance(queued, BuildQueued)
    return queued


def scopes_of(queued: BuildQueued, default_branch: str = "main") -> CacheScopes:
    job = JOB.at(5).fold([CREATED])
    assert isinstance(job, Job)
    return find_cache_scopes(queued, msgspec.structs.replace(job, default_branch=default_branch))


MAIN = scopes_of(queue("main", PUSH, commit_sha="c0ffee")).primary


@pytest.mark.parametrize(
    "queued",
    [
        queue(),
        queue("main"),
        queue("refs/heads/main"),
        queue("main", TIME),
        queue(None, TIME),
        queue("refs/heads/main", PUSH, commit_sha="decade"),
    ],
)
def test_builds_of_the_default_branch_share_one_scope(queued: BuildQueued) -> None:
    assert scopes_of(queued)[1:] == (MAIN, None)


OTHERS = [
    queue("feature", PUSH, commit_sha="c0ffee"),
    queue("Main", PUSH, commit_sha="c0ffee"),
    queue("main", TAG, commit_sha="c0ffee"),
    queue("main", PULL_REQUEST, commit_sha="c0ffee"),
    queue("other", BuildTrigger("pull_request", 4, 8), commit_sha="c0ffee"),
    queue("main", commit_sha="c0ffee"),
    queue("feature", env={"A": "1"}),
    queue("refs/pull/7/head"),
]


def test_no_build_of_another_ref_saves_into_the_scope_of_a_branch() -> None:
    """Not even one whose tag, pull request or start by hand names the branch `main`."""
    found = [scopes_of(queued) for queued in OTHERS]
    assert len({MAIN, *(scopes.primary for scopes in found)}) == len(OTHERS) + 1
    assert {scopes.fallback for scopes in found} == {MAIN}


@pytest.mark.parametrize("chosen", [{"commit_sha": "c0ffee"}, {"env": {"A": "1"}}, {"secrets": {"A": b"sealed"}}])
def test_builds_that_were_started_by_hand_share_a_scope_for_each_branch(chosen: dict[str, Any]) -> None:
    assert scopes_of(queue("main", **chosen)) == scopes_of(OTHERS[5])
    assert scopes_of(queue("feature", **chosen)) == scopes_of(OTHERS[6])


def test_the_values_of_a_matrix_are_nobodys_choice() -> None:
    configured = JobConfigured(
        job_id=5, project_id=2, configuration=Configuration(command="make", matrix=Matrix({"os": ["a", "b"]}))
    )
    for queued in given(CREATED, configured).when(StartBuild(1, 5, more_ids=(2,))):
        assert isinstance(queued, BuildQueued)
        assert scopes_of(queued).primary == MAIN


@pytest.mark.parametrize("original", [queue("main", PUSH, commit_sha="c0ffee"), *OTHERS])
def test_a_restart_has_the_scope_of_its_original(original: BuildQueued) -> None:
    history = (
        original,
        BuildAssigned(**IDS, node_id=3, attempt=1),
        BuildStarted(**IDS, node_id=3, attempt=1, commit_sha="c0ffee"),
        BuildFinished(**IDS, status="failed", node_id=3),
    )
    (again,) = given(CREATED, *history).when(RestartBuild(2, restarted_from=1, job_id=5))
    assert isinstance(again, BuildQueued)
    assert scopes_of(again) == scopes_of(original)


@pytest.mark.parametrize(
    ("trigger", "shared"), [(PUSH, True), (TAG, False), (PULL_REQUEST, False), (TIME, True), (None, False)]
)
def test_of_older_events_only_triggers_are_known(trigger: BuildTrigger | None, shared: bool) -> None:
    queued = BuildQueued(**IDS, branch="main", repository=REPOSITORY, trigger=trigger)
    assert (scopes_of(queued).primary == MAIN) is shared


def test_the_fallback_follows_the_default_branch_of_the_job() -> None:
    feature = scopes_of(OTHERS[0]).primary
    assert scopes_of(queue("main"), default_branch="feature") == ("2-members", MAIN, feature)
    assert scopes_of(OTHERS[0], default_branch="refs/heads/feature").fallback is None


def test_caches_cross_neither_trust_nor_repositories() -> None:
    feature = BuildQueued(**IDS, branch="feature", trigger=PUSH, repository=REPOSITORY)
    kinds: list[dict[str, Any]] = [
        {"untrusted": True},
        {"untrusted": True, "by_admin": True},
        {"by_admin": True},
        {},
        {"repository": "https://github.com/acme/other"},
        {"repository": None},
    ]
    found = [scopes_of(msgspec.structs.replace(feature, **kind)) for kind in kinds]
    assert [scopes.trust for scopes in found] == ["2-untrusted"] * 2 + ["2-admins"] + ["2-members"] * 3
    assert found[0] == found[1]
    assert found[0].fallback is None, "a build of a fork reads no trusted cache"
    trusted = [scope for _, *both in found[2:] for scope in both]
    assert len({*trusted, found[0].primary}) == 9
    assert all(
        scope.startswith(f"{scopes.trust}-")
        for scopes in found
        for scope in (scopes.primary, scopes.fallback or scopes.primary)
    )


def test_each_pull_request_of_a_fork_has_caches_of_its_own() -> None:
    one, other = (
        BuildQueued(**IDS, branch=f"refs/pull/{number}/head", untrusted=True, cache_ref=f"pull request {number}")
        for number in (7, 8)
    )
    assert scopes_of(one).primary != scopes_of(other).primary
