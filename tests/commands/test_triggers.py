"""Triggers: which changes start a job, and the commands that set triggers and start the builds."""

import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from commands.jobs import DeleteJob
from commands.triggers import SetTriggers, StartBuildForChange, StartScheduledBuild, UnreadJobs
from domain import globs
from domain.builds import BuildQueued
from domain.claims import ClaimTaken
from domain.core.errors import Conflict, Invalid, NotFound
from domain.jobs import Configuration, JobConfigured, JobCreated, JobDeleted, JobTriggersChanged, JobUpdated
from domain.needs import Candidate, decide_starts
from domain.triggers import (
    BuildTrigger,
    CronTrigger,
    Evaluation,
    RepositoryChange,
    Triggers,
    evaluate,
    find_repository_path,
    find_skip_marker,
    may_be_repository,
)
from tests.support.spec import given, is_decided_once
from tests.support.strategies import commands, structs

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
CREATED = JobCreated(job_id=5, project_id=2, title="Smoke", repository="https://github.com/Acme/Web.git")
CONFIGURED = JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="make"))
MAIN = Triggers(branches=["main"], cron=[CronTrigger("0 * * * *")])
SET = JobTriggersChanged(job_id=5, project_id=2, triggers=MAIN, at=NOON)
PUSH = RepositoryChange("push", "main", "c0ffee")
PULL = RepositoryChange("pull_request", "fix", pull_request=7)
FORK = RepositoryChange("pull_request", "fix", pull_request=7, fork=True)


def push(branch: str = "main", **more: Any) -> RepositoryChange:
    return RepositoryChange("push", branch, **more)


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("main", ["main"], ["mains", "xmain", ""]),
        ("release/*", ["release/3"], ["release/3/fix", "release", "release3"]),
        ("release/**", ["release/3", "release/3/fix"], ["release"]),
        ("**", ["main", "a/b"], []),
        ("*", ["main"], ["a/b"]),
        ("v?.?", ["v1.0"], ["v1.10", "v1/0"]),
        ("v[0-9]*", ["v1", "v2-rc"], ["va", "v"]),
        ("v[!0-9]", ["va"], ["v1", "v/"]),
        ("[[]x[]]", ["[x]"], ["x"]),
        ("**/*.py", ["a.py", "src/a.py", "src/b/a.py"], ["a.pyc", "a.py/b"]),
        ("src/**/test_*.py", ["src/test_a.py", "src/a/b/test_a.py"], ["src/a.py", "test_a.py"]),
        ("lib/**", ["lib/a", "lib/a/b"], ["li/a", "lib"]),
        ("*.md", ["README.md"], ["lib/README.md"]),
    ],
)
def test_globs(glob: str, matching: list[str], others: list[str]) -> None:
    assert globs.find_fault(glob) is None
    for name in matching:
        assert globs.find_match([glob], name) == glob
    for name in others:
        assert globs.find_match([glob], name) is None


def test_later_globs_overrule_earlier_ones() -> None:
    chosen = ["src/**", "!src/lib/**", "src/lib/conf.py"]
    assert globs.find_match(chosen, "src/a.py") == "src/**"
    assert globs.find_match(chosen, "src/lib/index.md") is None
    assert globs.find_match(chosen, "src/lib/conf.py") == "src/lib/conf.py"


@hypothesis.given(st.text("*?/ab", max_size=7), st.text("/ab", max_size=7))
def test_globs_match_as_regular_expressions_do(glob: str, name: str) -> None:
    patterns = {"*": "[^/]*", "?": "[^/]", "**/": "(.*/)?"}
    parts: list[str] = globs.TOKEN.findall(glob)
    pattern = "".join(".*" if part.strip("*") == "" and len(part) > 1 else patterns.get(part, part) for part in parts)
    assert globs.GlobAutomaton(glob).matches(name) == bool(re.fullmatch(pattern, name))


def test_a_glob_of_many_stars_takes_no_longer() -> None:
    assert not globs.GlobAutomaton("*a" * 400 + "*b").matches("a" * 4_000)


def test_a_glob_of_many_folders_takes_no_longer() -> None:
    folders = globs.GlobAutomaton("**/" * 330 + "b")
    assert folders.matches("a/" * 2_000 + "b")
    assert not folders.matches("a/" * 2_000 + "ab")


def test_globs_take_the_steps_that_they_may_take() -> None:
    budget = globs.StepBudget(10)
    assert globs.find_match(["src/*.py", "*.py"], "lib/a.md", budget) is None
    assert budget.left == 10, "neither begins and ends as the path does"
    assert globs.find_match(["*.py"], "main.py", budget) == "*.py"
    with pytest.raises(globs.TooManySteps):
        globs.find_match(["*.py"], "main.py", budget)


def test_too_many_paths_count_as_matching() -> None:
    paths = [f"src/{number:0400}.py" for number in range(2_000)]
    evaluation = evaluate(push(paths=paths), Triggers(branches=["main"], paths=["**/x*.py"]))
    assert evaluation.starts
    assert "too many to compare" in evaluation.why


@pytest.mark.parametrize("glob", ["*a" * 33, "", "!", "/main", "refs/heads/main", "release/[0-9", "a\nb"])
def test_faulty_globs(glob: str) -> None:
    assert globs.find_fault(glob) is not None


@pytest.mark.parametrize(
    ("change", "triggers", "starts", "why"),
    [
        (push("release/3"), Triggers(["x", "release/*"]), True, "because branch release/3 matches release/*"),
        (push("fix"), Triggers(["main"]), False, "branch fix matches not main"),
        (push("fix"), Triggers(["main", "release/*"]), False, "branch fix matches none of main, release/*"),
        (push(), Triggers(tags=["*"]), False, "the job has no globs of branches"),
        (push(deleted=True), MAIN, False, "branch main was deleted"),
        (push(skip_marker="[skip ci]"), MAIN, False, "skipped: the commit message says [skip ci]"),
        (push(paths=["src/a.py"]), Triggers(["main"], paths=["src/**"]), True, "path src/a.py matches src/**"),
        (push(paths=["a.md"]), Triggers(["main"], paths=["src/**"]), False, "no changed path matches src/**"),
        (push(paths=[]), Triggers(["main"], paths=["a", "b"]), False, "no changed path matches any of a, b"),
        (push(paths=None), Triggers(["main"], paths=["src/**"]), True, "count as matching"),
        (push(repository="acme/api"), MAIN, False, "the job builds acme/web, not acme/api"),
        (push(repository="acme/web"), MAIN, True, "because branch main matches main"),
        (RepositoryChange("tag", "v1"), Triggers(tags=["v*"], paths=["x"]), True, "because tag v1 matches v*"),
        (RepositoryChange("tag", "v1"), Triggers(["**"]), False, "the job has no globs of tags"),
        (PULL, Triggers(pull_requests=True), True, "pull request 7 changed"),
        (PULL, Triggers(["**"]), False, "leave pull requests out"),
        (PULL, Triggers(fork_pull_requests=True), False, "leave pull requests out"),
        (FORK, Triggers(pull_requests=True), False, "no fork_pull_requests"),
        (FORK, Triggers(fork_pull_requests=True), True, "pull request 7 from a fork changed; the build waits for an"),
    ],
)
def test_evaluation(change: RepositoryChange, triggers: Triggers, starts: bool, why: str) -> None:
    found = evaluate(change, triggers, "acme/web")
    assert found.starts is starts
    assert why in found.why


@hypothesis.given(structs(RepositoryChange), structs(Triggers), st.sampled_from(["", "a", "b"]))
def test_every_evaluation_says_why(change: RepositoryChange, triggers: Triggers, repository: str) -> None:
    found = evaluate(change, triggers, repository)
    assert found.why.startswith("would start because " if found.starts else ("does not start: ", "skipped: "))
    if found.starts:
        assert not change.deleted
        assert not change.skip_marker
        assert not change.fork or change.kind != "pull_request" or triggers.fork_pull_requests


@hypothesis.given(structs(RepositoryChange), structs(Triggers))
def test_paths_only_ever_take_changes_out(change: RepositoryChange, triggers: Triggers) -> None:
    with_paths = evaluate(change, triggers)
    without = evaluate(change, msgspec.structs.replace(triggers, paths=[]))
    assert without.starts or not with_paths.starts


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://github.com/Acme/Web.git", "acme/web"),
        ("git@github.com:acme/web.git", "acme/web"),
        ("ssh://git@git.example.com:7999/proj/web.git", "proj/web"),
        ("https://git.example.com/scm/PROJ/web.git", "proj/web"),
        ("https://gitlab.com/group/sub/web/", "group/sub/web"),
        ("file:///srv/git/web.git", "srv/git/web"),
        ("acme/web", "acme/web"),
        ("", ""),
    ],
)
def test_paths_of_repositories(address: str, path: str) -> None:
    assert find_repository_path(address) == path


def test_hosts_may_serve_repositories_below_a_folder() -> None:
    assert may_be_repository("gitlab/acme/web", "acme/web")
    assert not may_be_repository("not-acme/web", "acme/web")


@pytest.mark.parametrize("message", ["Fix [skip ci]", "[CI skip] x", "x\n\n[no ci]"])
def test_messages_that_ask_for_no_builds(message: str) -> None:
    assert find_skip_marker(message)
    assert not find_skip_marker(message.replace("[", "("))


def test_triggers_are_set() -> None:
    given(CREATED).when(SetTriggers(5, MAIN)).then(JobTriggersChanged(job_id=5, project_id=2, triggers=MAIN))
    given(CREATED, SET).when(SetTriggers(5, MAIN)).then_nothing()
    with pytest.raises(NotFound):
        given().when(SetTriggers(5, MAIN))


def for_change(change: RepositoryChange = PUSH, claim: str = "c") -> StartBuildForChange:
    trigger = BuildTrigger("push", change_id=3)
    return StartBuildForChange(9, 5, change.branch, change.commit, claim=claim, change=change, trigger=trigger)


def at(time: datetime) -> StartScheduledBuild:
    trigger = BuildTrigger("schedule", scheduled_at=time)
    return StartScheduledBuild(9, 5, claim="c", time_table=MAIN.cron[0], scheduled_at=time, trigger=trigger)


def test_a_change_starts_one_build() -> None:
    history = (CREATED, CONFIGURED, SET)
    queued, taken = given(*history).when(for_change())
    assert isinstance(queued, BuildQueued)
    assert (queued.branch, queued.commit_sha, queued.trigger) == ("main", "c0ffee", BuildTrigger("push", 3))
    assert taken == ClaimTaken(claim="c", owner="build-9")
    given(*history, ClaimTaken(claim="c", owner="build-8")).when(for_change()).then_nothing()


def test_a_change_starts_nothing_that_is_not_wanted() -> None:
    disabled = JobUpdated(job_id=5, project_id=2, enabled=False)
    given(CREATED, CONFIGURED, SET).when(for_change(push("fix"))).then_nothing()
    given(CREATED, CONFIGURED, SET, disabled).when(for_change()).then_nothing()
    given().when(for_change()).then_nothing()
    with pytest.raises(Conflict, match="no command"):
        given(CREATED, SET).when(for_change())


def test_a_job_without_a_repository_builds_that_of_its_project() -> None:
    history = (msgspec.structs.replace(CREATED, repository=None), CONFIGURED, SET)
    with pytest.raises(Conflict, match="has no repository"):
        given(*history).when(for_change())
    with pytest.raises(Conflict, match="has no repository"):
        given(*history).when(for_change(push()))
    ours = replace(for_change(push(repository="acme/web")), project_repository="https://github.com/acme/web.git")
    assert len(given(*history).when(ours)) == 2
    other = replace(ours, change=push(repository="acme/api"))
    given(*history).when(other).then_nothing()
    of_job = replace(ours, project_repository="https://github.com/acme/api")
    assert len(given(CREATED, CONFIGURED, SET).when(of_job)) == 2


def test_a_time_starts_a_build_if_it_came_after_the_time_table() -> None:
    history = (CREATED, CONFIGURED, SET)
    queued, _ = given(*history).when(at(NOON.replace(hour=13)))
    assert isinstance(queued, BuildQueued)
    assert queued.branch == "main"
    given(*history).when(at(NOON)).then_nothing()
    enabled = JobUpdated(job_id=5, project_id=2, enabled=True, at=NOON.replace(hour=14))
    given(*history, enabled).when(at(NOON.replace(hour=13))).then_nothing()
    other = JobTriggersChanged(job_id=5, project_id=2, triggers=Triggers(cron=[CronTrigger("1 1 * * *")]), at=NOON)
    given(*history, other).when(at(NOON.replace(hour=13))).then_nothing()


def test_needs_are_other_jobs_of_the_project() -> None:
    other = JobCreated(job_id=6, project_id=2)
    elsewhere, deleted = JobCreated(job_id=7, project_id=3), JobDeleted(job_id=6, project_id=2)
    needs = SetTriggers(5, Triggers(needs=[6]))
    (changed,) = given(CREATED, other).when(needs)
    assert changed == JobTriggersChanged(job_id=5, project_id=2, triggers=Triggers(needs=[6]))
    for history, triggers, message in (
        ((CREATED, other, deleted), [6], "no job 6 in project 2"),
        ((CREATED, elsewhere), [7], "no job 7 in project 2"),
        ((CREATED,), [5], "is the job itself"),
    ):
        with pytest.raises(Invalid, match=message):
            given(*history).when(SetTriggers(5, Triggers(needs=triggers)))


def test_jobs_may_not_need_each_other_in_a_circle() -> None:
    others = [JobCreated(job_id=job_id, project_id=2) for job_id in (6, 7)]
    needs = [
        JobTriggersChanged(job_id=job_id, project_id=2, triggers=Triggers(needs=[need]))
        for job_id, need in ((6, 7), (7, 5))
    ]
    with pytest.raises(UnreadJobs) as unread:
        given(CREATED, *others, *needs).when(SetTriggers(5, Triggers(needs=[6])))
    assert unread.value.job_ids == [7]
    with pytest.raises(Invalid, match="circle"):
        given(CREATED, *others, *needs).when(SetTriggers(5, Triggers(needs=[6]), [7]))


def test_a_job_that_others_need_stays() -> None:
    needs = JobTriggersChanged(job_id=6, project_id=2, triggers=Triggers(needs=[5]))
    other = JobCreated(job_id=6, project_id=2)
    with pytest.raises(Conflict, match="Job 6 needs job 5"):
        given(CREATED, other, needs).when(DeleteJob(5, [6]))
    given(CREATED, other, needs, JobDeleted(job_id=6, project_id=2)).when(DeleteJob(5, [6])).then(
        JobDeleted(job_id=5, project_id=2)
    )


RUNS = st.dictionaries(st.integers(1, 6), st.tuples(st.booleans(), st.lists(st.integers(1, 7), max_size=3)))


@hypothesis.given(RUNS)
def test_a_job_starts_if_all_that_it_needs_start(jobs: dict[int, tuple[bool, list[int]]]) -> None:
    """Whatever needs what, circles too."""
    candidates = {job_id: Candidate(Evaluation(starts, "x"), needs) for job_id, (starts, needs) in jobs.items()}
    decided = {job_id: evaluation.starts for job_id, evaluation in decide_starts(candidates).items()}
    assert decided.keys() == jobs.keys()
    for job_id, (starts, needs) in jobs.items():
        all_start = all(decided.get(need, False) for need in needs)
        assert decided[job_id] <= (starts and all_start)
        assert decided[job_id] or not (starts and all_start)


@hypothesis.given(
    commands(SetTriggers, more_jobs=st.just((1, 2, 3))) | commands(StartBuildForChange) | commands(StartScheduledBuild)
)
def test_commands_are_decided_once(command: Any) -> None:
    for count in range(3):
        for history in itertools.combinations((CREATED, CONFIGURED, SET), count):
            is_decided_once(command, history)
