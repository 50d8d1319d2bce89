"""Builds: from the queue to a verdict."""

from typing import Any, get_args

import hypothesis
import msgspec
import pytest

from commands.build_assignment import AcknowledgeBuild, AssignBuild, LoseBuild
from commands.builds import AbortBuild, FinishBuild, FinishExternalBuild, MissingIds, StartBuild
from commands.verdicts import decide_verdict
from domain import builds, dispatch, jobs
from domain.build_reasons import Reason
from domain.builds import (
    BUILD,
    BuildAssigned,
    BuildFinished,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    ReportRecorded,
    Status,
    Verdict,
    status_of,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.dispatch import LeadershipTaken
from domain.jobs import Configuration, JobConfigured, JobCreated, JobDeleted, JobUpdated
from domain.matrix import Matrix
from domain.pools import PoolCreated, PoolUpdated
from store.tables.build_logs import LogEnd
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
CONFIGURATION = Configuration(command="pytest", env={"A": "job", "B": "job"}, secrets={"TOKEN": b"job"})
JOB = (
    JobCreated(
        job_id=5, project_id=2, title="Smoke", timeout_minutes=30, repository="/srv/r.git", default_branch="dev"
    ),
    JobConfigured(job_id=5, project_id=2, configuration=CONFIGURATION),
)
QUEUED = BuildQueued(**IDS, configuration=CONFIGURATION, branch="dev")
LED = LeadershipTaken(leader="me")
ASSIGNED = BuildAssigned(**IDS, node_id=3, attempt=1)
STARTED = BuildStarted(**IDS, node_id=3, attempt=1, commit_sha="c0ffee")
EXTERNAL = (
    BuildQueued(**IDS, configuration=CONFIGURATION, branch="dev", external=True),
    BuildStarted(**IDS, node_id=None, attempt=1),
)
ABORTED = BuildFinished(**IDS, status="aborted", reason="stopped_by_user", node_id=3)


def requeued(attempt: int = 1, reason: Any = "agent_lost") -> BuildRequeued:
    return BuildRequeued(**IDS, node_id=3, attempt=attempt, reason=reason)


def reported(failed: int, known_issues: int = 0, attempt: int = 1) -> ReportRecorded:
    counts: dict[str, Any] = {"cases": 9, "passed": 9 - failed, "failed": failed, "skipped": 0}
    counts |= {"known_issues": known_issues, "duration_ms": 1, "blocks": 1}
    return ReportRecorded(**IDS, attempt=attempt, path="r.xml", first_result_id=1, **counts)


def finish(**changes: Any) -> FinishBuild:
    fields: dict[str, Any] = {"build_id": 1, "node_id": 3, "attempt": 1, "exit_code": 0, "reason": None, "detail": None}
    fields |= {"log": LogEnd(7, b"", 0), **changes}
    return FinishBuild(**fields)


# ----- start -----


def test_a_build_carries_what_it_will_run_with() -> None:
    (queued,) = given(*JOB).when(StartBuild(1, 5, env={"B": "build"}, secrets={"KEY": b"build"}, priority=9))
    assert queued == BuildQueued(
        **IDS,
        configuration=Configuration(
            command="pytest", env={"A": "job", "B": "build"}, secrets={"TOKEN": b"job", "KEY": b"build"}
        ),
        branch="dev",
        cache_ref="refs/heads/dev by hand",
        repository="/srv/r.git",
        priority=9,
        timeout_minutes=30,
        job_title="Smoke",
    )


@pytest.mark.parametrize("secrets", [{}, {"TOKEN": b"build"}])
def test_a_variable_that_a_secret_would_hide_is_refused(secrets: dict[str, bytes]) -> None:
    with pytest.raises(Conflict, match="variable TOKEN of `env` is also a secret"):
        given(*JOB).when(StartBuild(1, 5, env={"TOKEN": "plain"}, secrets=secrets))


def test_branch_and_commit_can_be_given() -> None:
    (queued,) = given(*JOB).when(StartBuild(1, 5, branch="main", commit_sha="c0ffee"))
    assert isinstance(queued, BuildQueued)
    assert (queued.branch, queued.commit_sha) == ("main", "c0ffee")


def test_a_matrix_queues_a_build_for_each_combination() -> None:
    matrix = Matrix({"python-version": ["3.11", "3.12"]}, include=[{"python-version": "3.12", "os": "bsd"}])
    configured = JobConfigured(job_id=5, project_id=9, configuration=Configuration(command="make", matrix=matrix))
    tagged = JobUpdated(job_id=5, project_id=9, required_tags=["py{{matrix.python-version}}"])
    history = (*JOB, configured, tagged)
    builds = given(*history).when(StartBuild(1, 5, env={"A": "b"}, more_ids=(2, 3)))
    assert [
        (build.build_id, build.group_id, build.matrix, build.configuration.env, build.required_tags, build.branch)
        for build in builds
        if isinstance(build, BuildQueued) and build.configuration.matrix is None
    ] == [
        (1, 1, {"python-version": "3.11"}, {"A": "b", "PYTHON_VERSION": "3.11"}, ["py3.11"], "dev"),
        (
            2,
            1,
            {"python-version": "3.12", "os": "bsd"},
            {"A": "b", "PYTHON_VERSION": "3.12", "OS": "bsd"},
            ["py3.12"],
            "dev",
        ),
    ]
    (external, _) = given(*history).when(StartBuild(1, 5, external=True))
    assert isinstance(external, BuildQueued)
    assert (external.group_id, external.matrix) == (None, {})
    with pytest.raises(MissingIds, match="1 ids"):
        given(*history).when(StartBuild(1, 5))
    with pytest.raises(Conflict, match="sets the variable PYTHON_VERSION"):
        given(*history).when(StartBuild(1, 5, env={"PYTHON_VERSION": "2.7"}, more_ids=(2,)))
    other = JobUpdated(job_id=5, project_id=9, required_tags=["{{matrix.os}}"])
    with pytest.raises(Conflict, match="stands for the value os"):
        given(*history, other).when(StartBuild(1, 5, more_ids=(2,)))


def test_a_tag_that_stands_for_a_value_needs_a_matrix() -> None:
    tagged = JobUpdated(job_id=5, project_id=9, required_tags=["{{matrix.os}}"])
    with pytest.raises(Conflict, match="stands for the value os of the matrix"):
        given(*JOB, tagged).when(StartBuild(1, 5))
    assert len(given(*JOB, tagged).when(StartBuild(1, 5, external=True))) == 2


def test_an_external_build_runs_at_once_and_needs_no_command() -> None:
    queued, started = given(JOB[0]).when(StartBuild(1, 5, commit_sha="c0ffee", external=True))
    assert isinstance(queued, BuildQueued)
    assert queued.external
    assert started == BuildStarted(**IDS, node_id=None, attempt=1, commit_sha="c0ffee")


def test_a_build_is_started_once() -> None:
    given(*JOB, QUEUED).when(StartBuild(1, 5)).then_nothing()


@pytest.mark.parametrize("history", [(), (*JOB, JobDeleted(job_id=5, project_id=2))])
def test_no_job_no_build(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        given(*history).when(StartBuild(1, 5))


def test_a_pool_that_is_no_longer_shared_is_not_used() -> None:
    job = (msgspec.structs.replace(JOB[0], node_pool_id=7), JOB[1])
    pool = PoolCreated(pool_id=7, project_id=9, title="linux", shared=True)
    given(pool, *job).when(StartBuild(1, 5))
    with pytest.raises(Conflict, match="of project 2 may not use node pool 7"):
        given(pool, *job, PoolUpdated(pool_id=7, project_id=9, shared=False)).when(StartBuild(1, 5))


@pytest.mark.parametrize(
    ("history", "says"),
    [(JOB[:1], "no command"), ((*JOB, JobUpdated(job_id=5, project_id=2, enabled=False)), "disabled")],
)
def test_a_job_that_cannot_run_says_why(history: tuple[Event, ...], says: str) -> None:
    with pytest.raises(Conflict, match=says):
        given(*history).when(StartBuild(1, 5))


# ----- what an agent does not hold -----


@pytest.mark.parametrize("command", [AcknowledgeBuild(1, 3, 1, None), finish()])
@pytest.mark.parametrize(
    "history",
    [
        (QUEUED,),
        (QUEUED, BuildAssigned(**IDS, node_id=4, attempt=1)),
        (QUEUED, ASSIGNED, requeued()),
        (QUEUED, ASSIGNED, requeued(), BuildAssigned(**IDS, node_id=3, attempt=2)),
        EXTERNAL,
    ],
)
def test_an_agent_has_no_say_in_what_it_does_not_hold(command: Any, history: tuple[Event, ...]) -> None:
    with pytest.raises((Conflict, NotFound)):
        given(*history).when(command)


@pytest.mark.parametrize(
    "command", [AcknowledgeBuild(1, 3, 1, None), finish(), FinishExternalBuild(1, "passed"), AbortBuild(1, "timeout")]
)
def test_there_is_no_such_build(command: Any) -> None:
    with pytest.raises(NotFound):
        given().when(command)


# ----- finish -----


@pytest.mark.parametrize(
    ("exit_code", "reason", "failed", "expected"),
    [
        (0, None, 0, ("passed", None)),
        (0, None, 1, ("failed", "tests_failed")),
        (1, None, 2, ("failed", "tests_failed")),
        (1, None, 0, ("failed", "command_failed")),
        (-9, None, 0, ("failed", "command_failed")),
        (None, None, 0, ("failed", "command_failed")),
        (None, None, 1, ("failed", "tests_failed")),
        (None, "setup_failed", 0, ("failed", "setup_failed")),
        (None, "checkout_failed", 0, ("failed", "checkout_failed")),
        (0, "timeout", 0, ("failed", "timeout")),
        (None, "timeout", 5, ("failed", "timeout")),
        (None, "agent_stopped", 0, ("aborted", "agent_stopped")),
        (0, "agent_stopped", 3, ("aborted", "agent_stopped")),
    ],
)
def test_verdicts(
    exit_code: int | None, reason: Reason | None, failed: int, expected: tuple[Verdict, Reason | None]
) -> None:
    assert decide_verdict(exit_code, reason, failed) == expected
    history = (QUEUED, ASSIGNED, STARTED, reported(failed))
    (finished,) = given(*history).when(finish(exit_code=exit_code, reason=reason, detail="said"))
    assert finished == BuildFinished(
        **IDS,
        status=expected[0],
        reason=expected[1],
        detail="said",
        exit_code=exit_code,
        log_lines=7,
        node_id=3,
    )


def test_green_needs_exit_code_0_no_reason_and_no_failure() -> None:
    reasons: list[Reason | None] = [None, "timeout", "setup_failed", "checkout_failed", "agent_stopped"]
    green = [
        (exit_code, reason, failed)
        for exit_code in (None, -15, 0, 1)
        for reason in reasons
        for failed in (0, 1)
        if decide_verdict(exit_code, reason, failed)[0] == "passed"
    ]
    assert green == [(0, None, 0)]


def test_known_issues_do_not_fail_a_build() -> None:
    (finished,) = given(QUEUED, ASSIGNED, STARTED, reported(3, known_issues=3)).when(finish())
    assert isinstance(finished, BuildFinished)
    assert finished.detail == "3 failures that their reporter calls known issues were ignored."
    assert finished.status == "passed"


def test_failures_of_an_attempt_that_was_lost_do_not_fail_the_next() -> None:
    again = (BuildAssigned(**IDS, node_id=3, attempt=2), BuildStarted(**IDS, node_id=3, attempt=2))
    history = (QUEUED, ASSIGNED, STARTED, reported(3), requeued(), *again)
    (finished,) = given(*history, reported(0, attempt=2)).when(finish(attempt=2))
    assert isinstance(finished, BuildFinished)
    assert finished.status == "passed"


def test_a_build_can_end_before_it_began() -> None:
    (finished,) = given(QUEUED, ASSIGNED).when(finish(exit_code=None, reason="checkout_failed"))
    assert isinstance(finished, BuildFinished)
    assert finished.reason == "checkout_failed"


def test_the_agents_last_word_may_come_twice() -> None:
    history = (QUEUED, ASSIGNED, STARTED)
    again = given(*history).when(finish())
    given(*history, *again).when(finish()).then_nothing()
    assert given(*history, ABORTED).when(finish(exit_code=1)) == [], "it was stopped meanwhile"


@pytest.mark.parametrize(
    ("status", "failed", "expected"),
    [
        ("passed", 0, ("passed", None)),
        ("passed", 2, ("failed", "tests_failed")),
        ("failed", 0, ("failed", "reported")),
        ("aborted", 0, ("aborted", "reported")),
    ],
)
def test_an_external_build_ends_as_it_is_told(
    status: Verdict, failed: int, expected: tuple[Verdict, Reason | None]
) -> None:
    (finished,) = given(*EXTERNAL, reported(failed)).when(FinishExternalBuild(1, status))
    assert finished == BuildFinished(**IDS, status=expected[0], reason=expected[1])


def test_an_external_build_ends_once() -> None:
    finished = given(*EXTERNAL).when(FinishExternalBuild(1, "failed"))
    given(*EXTERNAL, *finished).when(FinishExternalBuild(1, "failed")).then_nothing()
    with pytest.raises(Conflict, match="already failed"):
        given(*EXTERNAL, *finished).when(FinishExternalBuild(1, "passed"))


@pytest.mark.parametrize("report", [reported(2), msgspec.structs.replace(reported(0), unreadable=True)])
def test_a_verdict_that_the_reports_overruled_may_be_sent_again(report: ReportRecorded) -> None:
    finished = given(*EXTERNAL, report).when(FinishExternalBuild(1, "passed"))
    given(*EXTERNAL, report, *finished).when(FinishExternalBuild(1, "passed")).then_nothing()
    given(*EXTERNAL, report, *finished).when(FinishExternalBuild(1, "failed")).then_nothing()
    with pytest.raises(Conflict, match="already failed"):
        given(*EXTERNAL, report, *finished).when(FinishExternalBuild(1, "aborted"))


def test_unreadable_reports_cannot_be_ignored_later() -> None:
    report = msgspec.structs.replace(reported(0), unreadable=True)
    finished = given(*EXTERNAL, report).when(FinishExternalBuild(1, "passed"))
    with pytest.raises(Conflict, match="already failed"):
        given(*EXTERNAL, report, *finished).when(FinishExternalBuild(1, "passed", ignore_unreadable=True))


def test_a_build_that_an_agent_ended_is_not_ended_from_outside() -> None:
    finished = BuildFinished(**IDS, status="passed", exit_code=0, node_id=3)
    with pytest.raises(Conflict, match="ran on a node"):
        given(QUEUED, ASSIGNED, STARTED, finished).when(FinishExternalBuild(1, "passed"))


@pytest.mark.parametrize("history", [(QUEUED,), (QUEUED, ASSIGNED), (QUEUED, ASSIGNED, STARTED)])
def test_only_external_builds_are_ended_from_outside(history: tuple[Event, ...]) -> None:
    with pytest.raises(Conflict, match="runs on a node"):
        given(*history).when(FinishExternalBuild(1, "passed"))


# ----- abort -----


@pytest.mark.parametrize(
    ("history", "node_id"),
    [((QUEUED,), None), ((QUEUED, ASSIGNED), 3), ((QUEUED, ASSIGNED, STARTED), 3), (EXTERNAL, None)],
)
def test_what_has_not_ended_can_be_aborted(history: tuple[Event, ...], node_id: int | None) -> None:
    command = AbortBuild(1, "stopped_by_user", "by Ann", {0: LogEnd(2, b"", 0), 1: LogEnd(2, b"", 0)})
    aborted = BuildFinished(
        **IDS, status="aborted", reason="stopped_by_user", detail="by Ann", log_lines=2, node_id=node_id
    )
    given(*history).when(command).then(aborted)
    assert aborted.notifies == (None if node_id is None else "3:1")
    with pytest.raises(Conflict, match="already aborted"):
        given(*history, aborted).when(command)


def test_an_abort_seals_the_log_of_the_attempt_that_it_ends() -> None:
    command = AbortBuild(1, "stopped_by_user", logs={1: LogEnd(4, b"first", 0), 2: LogEnd(9, b"second", 0)})
    again = BuildAssigned(**IDS, node_id=4, attempt=2)
    (aborted,) = given(QUEUED, ASSIGNED, requeued(), again).when(command)
    assert isinstance(aborted, BuildFinished)
    assert (aborted.node_id, aborted.log_lines, aborted.log_digest) == (4, 9, b"second")
    assert aborted.notifies == "4:1"


@pytest.mark.parametrize(
    "finished",
    [
        BuildFinished(**IDS, status="failed", reason="timeout", node_id=3),
        BuildFinished(**IDS, status="aborted", reason="agent_stopped", node_id=3),
        BuildFinished(**IDS, status="aborted", reason="agent_lost", node_id=3),
        BuildFinished(**IDS, status="aborted", reason="not_acknowledged", node_id=3),
    ],
)
def test_an_agent_that_ended_the_build_itself_is_not_notified(finished: BuildFinished) -> None:
    assert finished.notifies is None


@pytest.mark.parametrize(
    "kind",
    [StartBuild, AssignBuild, AcknowledgeBuild, FinishBuild, FinishExternalBuild, AbortBuild, LoseBuild],
)
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*builds.EVENTS, *jobs.EVENTS, *dispatch.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*builds.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(BUILD, history)
    for build_id in (1, 2, 3):
        state = BUILD.at(build_id).fold(event for event in history if event.stream == f"build-{build_id}")
        assert (state is None) or status_of(state) in get_args(Status)


def test_the_end_of_a_build_is_told_only_to_its_own_node() -> None:
    given(QUEUED, ASSIGNED, STARTED, ABORTED).when(finish()).then_nothing()
    with pytest.raises(NotFound):
        given(QUEUED, ASSIGNED, STARTED, ABORTED).when(finish(node_id=4))
