"""Untrusted builds: they have no secrets, wait for an approval, and run only in pools for them."""

import dataclasses
from typing import Any

import hypothesis
import msgspec
import pytest

from commands.build_actions import RestartBuild, SupersedeBuild
from commands.build_assignment import AcknowledgeBuild, AssignBuild
from commands.builds import StartBuild
from commands.untrusted_builds import ApproveBuild, may_have_token
from domain import builds
from domain.builds import BuildApproved, BuildAssigned, BuildDeleted, BuildFinished, BuildQueued, BuildStarted
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.dispatch import LeadershipTaken
from domain.jobs import CheckoutOptions, Configuration, JobConfigured, JobCreated
from domain.matrix import Matrix
from domain.nodes import BUILD_ACCOUNTS, NODE, NodeConnected, NodeRegistered, NodeUpdated
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from domain.templates import TemplateCreated
from domain.triggers import BuildTrigger
from tests.support.spec import given, is_decided_once
from tests.support.strategies import commands, histories, structs

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
FORK = BuildTrigger("pull_request", 3, 7, fork=True)
JOB = JobCreated(job_id=5, project_id=2, title="Smoke", node_pool_id=4, repository="https://github.com/acme/web")
POOL = PoolCreated(pool_id=4, project_id=2, title="outside", untrusted=True)
TRUSTED = PoolUpdated(pool_id=4, project_id=2, untrusted=False)
QUEUED = BuildQueued(**IDS, branch="refs/pull/7/head", commit_sha="c0ffee", untrusted=True)
APPROVED = BuildApproved(**IDS, commit_sha="c0ffee")
ASSIGNED = BuildAssigned(**IDS, node_id=3, attempt=1)
STARTED = BuildStarted(**IDS, node_id=3, attempt=1, commit_sha="c0ffee")
FINISHED = BuildFinished(**IDS, status="passed", node_id=3)
LED = LeadershipTaken(leader="me")
NODE_3 = NodeRegistered(node_id=3, title="n", pool_id=4)
ASSIGN = AssignBuild(1, 3, "me", pool_id=4)


def start(**more: Any) -> StartBuild:
    return StartBuild(1, 5, "refs/pull/7/head", "c0ffee", trigger=FORK, **more)


@hypothesis.given(structs(Configuration), structs(Configuration))
def test_no_secret_reaches_a_build_of_a_fork(of_job: Configuration, of_template: Configuration) -> None:
    """Neither one of the job, of its template, nor of the request; variables stay."""
    job = [
        msgspec.structs.replace(JOB, pipeline_template_id=8),
        POOL,
        TemplateCreated(template_id=8, title="t", creator_id=1, configuration=no_matrix(of_template)),
        JobConfigured(job_id=5, project_id=2, configuration=no_matrix(of_job, command="make")),
    ]
    events = given(*job).when(start(env={"A": "1"}, secrets={"KEY": b"sealed"}))
    (queued,) = events
    assert isinstance(queued, BuildQueued)
    assert queued.untrusted
    assert queued.configuration.secrets == {}
    assert queued.configuration.env == of_template.env | of_job.env | {"A": "1"}


def no_matrix(configuration: Configuration, **more: Any) -> Configuration:
    return msgspec.structs.replace(configuration, matrix=None, **more)


def test_no_build_of_a_matrix_has_secrets() -> None:
    configuration = Configuration(command="make", secrets={"KEY": b"sealed"}, matrix=Matrix({"os": ["a", "b"]}))
    history = (JOB, POOL, JobConfigured(job_id=5, project_id=2, configuration=configuration))
    queued = given(*history).when(start(more_ids=(2,)))
    assert [(event.untrusted, event.configuration.secrets) for event in queued if isinstance(event, BuildQueued)] == [
        (True, {}),
        (True, {}),
    ]


def test_the_pool_that_the_job_names_must_take_builds_of_forks() -> None:
    history = (JOB, POOL, TRUSTED, JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="make")))
    with pytest.raises(Conflict, match="runs no builds of pull requests from forks"):
        given(*history).when(start())
    assert len(given(*history).when(StartBuild(1, 5))) == 1, "other builds run there"


def test_an_approval_states_the_commit() -> None:
    given(QUEUED).when(ApproveBuild(1)).then(APPROVED)


def test_an_approval_is_of_all_builds_of_the_group_that_wait() -> None:
    def ids(build_id: int) -> dict[str, Any]:
        return IDS | {"build_id": build_id}

    def queued(build_id: int, commit: str = "c0ffee", group_id: int | None = 1, *, untrusted: bool = True) -> Event:
        return BuildQueued(**ids(build_id), branch="x", commit_sha=commit, group_id=group_id, untrusted=untrusted)

    def approved(build_id: int) -> Event:
        return BuildApproved(**ids(build_id), commit_sha="c0ffee")

    ended = BuildFinished(**ids(6), status="aborted", reason="superseded")
    history = (queued(1), queued(2), queued(3, "decade"), queued(4, group_id=4), queued(5, untrusted=False), queued(6))
    approve = ApproveBuild(1, others=(1, 2, 3, 4, 5, 6, 7, 2))
    given(*history, ended).when(approve).then(approved(1), approved(2))
    given(*history, ended, approved(1)).when(approve).then(approved(2))


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_an_approval_that_comes_again_changes_nothing(length: int) -> None:
    given(*(QUEUED, APPROVED, ASSIGNED, STARTED, FINISHED)[:length]).when(ApproveBuild(1)).then_nothing()


def test_what_waits_for_no_approval() -> None:
    superseded = BuildFinished(**IDS, status="aborted", reason="superseded")
    with pytest.raises(Conflict, match="is aborted"):
        given(QUEUED, superseded).when(ApproveBuild(1))
    with pytest.raises(Conflict, match="needs no approval"):
        given(BuildQueued(**IDS)).when(ApproveBuild(1))
    for history in ((), (QUEUED, superseded, BuildDeleted(**IDS))):
        with pytest.raises(NotFound):
            given(*history).when(ApproveBuild(1))


@hypothesis.given(commands(ApproveBuild), histories(*builds.EVENTS))
def test_approving_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


def test_an_approved_build_is_assigned_to_a_node_of_an_untrusted_pool() -> None:
    given(LED, POOL, NODE_3, QUEUED, APPROVED).when(ASSIGN).then(ASSIGNED)


@pytest.mark.parametrize(
    "history",
    [
        (POOL, NODE_3, QUEUED),
        (POOL, TRUSTED, NODE_3, QUEUED, APPROVED),
        (POOL, NODE_3, QUEUED, APPROVED, TRUSTED),
        (POOL, NODE_3, QUEUED, APPROVED, PoolDeleted(pool_id=4, project_id=2)),
        (POOL, NODE_3, QUEUED, APPROVED, NodeUpdated(node_id=3, pool_id=9)),
        (POOL, NODE_3, QUEUED, APPROVED, NodeUpdated(node_id=3, cleared=("pool_id",))),
        (NODE_3, QUEUED, APPROVED),
    ],
)
def test_whatever_the_dispatcher_knows_no_other_node_gets_it(history: tuple[Event, ...]) -> None:
    given(LED, *history).when(ASSIGN).then_nothing()
    given(LED, *history).when(dataclasses.replace(ASSIGN, pool_id=None)).then_nothing()


def test_an_agent_cannot_make_it_a_build_of_another_commit() -> None:
    given(QUEUED, APPROVED, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "decade")).then(STARTED)


def test_the_restart_of_an_approved_build_is_approved() -> None:
    runs = msgspec.structs.replace(QUEUED, configuration=Configuration(command="make"), trigger=FORK)
    restart = RestartBuild(2, restarted_from=1, job_id=5, by_admin=True)
    queued, approved = given(JOB, runs, APPROVED, ASSIGNED, STARTED, FINISHED).when(restart)
    assert isinstance(queued, BuildQueued)
    assert (queued.untrusted, queued.commit_sha, queued.by_admin) == (True, "c0ffee", False)
    assert queued.trigger is None
    assert approved == BuildApproved(**{**IDS, "build_id": 2}, commit_sha="c0ffee")
    stopped = BuildFinished(**IDS, status="aborted", reason="stopped_by_user")
    (waiting,) = given(JOB, runs, stopped).when(restart)
    assert isinstance(waiting, BuildQueued)
    assert waiting.untrusted, "nobody has approved it"
    (ended,) = given(waiting).when(SupersedeBuild(2, 4, only_unapproved=True))
    assert isinstance(ended, BuildFinished)
    assert ended.reason == "superseded", "the pull request has a newer commit"


@pytest.mark.parametrize(
    ("untrusted", "features", "submodules", "expected"),
    [
        (False, [], True, True),
        (True, [BUILD_ACCOUNTS], False, True),
        (True, [], False, False),
        (True, ["shell"], False, False),
        (True, [BUILD_ACCOUNTS], True, False),
    ],
)
def test_which_checkouts_have_a_token(untrusted: bool, features: list[str], submodules: bool, expected: bool) -> None:
    configuration = Configuration(checkout=CheckoutOptions(submodules=submodules))
    about: dict[str, Any] = {"version": "1", "platform": "linux", "hostname": "h", "cpu_cores": 1, "ram_gb": 1.0}
    node = NODE.at(3).fold([NODE_3, NodeConnected(node_id=3, session="s", features=features, **about)])
    assert may_have_token(BuildQueued(**IDS, configuration=configuration, untrusted=untrusted), node) is expected
