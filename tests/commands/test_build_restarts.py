"""Tests of restarting a finished build."""

import dataclasses
from typing import Any

import hypothesis
import msgspec
import pytest

from commands.build_actions import RestartBuild
from commands.build_groups import RestartGroup
from domain import builds, jobs, pools, templates
from domain.builds import BuildAssigned, BuildDeleted, BuildFinished, BuildQueued, BuildStarted, ReportRecorded
from domain.claims import ClaimTaken
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jobs import Configuration, JobConfigured, JobCreated, JobDeleted, JobUpdated
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from domain.templates import TemplateCreated
from domain.triggers import BuildTrigger
from tests.support.spec import given, is_decided_once
from tests.support.strategies import commands, histories

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
CONFIGURATION = Configuration(command="pytest", env={"A": "build"}, secrets={"TOKEN": b"sealed"})
ROUTING: dict[str, Any] = {"required_tags": ["gpu"], "pool_labels": {"arch": "arm64"}, "quarantine_mode": "skip"}
JOB = JobCreated(job_id=5, project_id=2, title="Smoke")
NOW_CONFIGURED = JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="make test"))
QUEUED = BuildQueued(
    **IDS,
    **ROUTING,
    configuration=CONFIGURATION,
    branch="dev",
    repository="/srv/r.git",
    priority=8,
    timeout_minutes=30,
    job_title="Smoke",
)
ASSIGNED = BuildAssigned(**IDS, node_id=3, attempt=1)
STARTED = BuildStarted(**IDS, node_id=3, attempt=1, commit_sha="c0ffee")
FINISHED = BuildFinished(**IDS, status="failed", reason="tests_failed", node_id=3)
RAN = (JOB, QUEUED, ASSIGNED, STARTED, FINISHED)
RAN_ELSEWHERE = (
    BuildQueued(**IDS, branch="dev", repository="/srv/r.git", external=True),
    BuildStarted(**IDS, node_id=None, attempt=1, commit_sha="c0ffee"),
    BuildFinished(**IDS, status="failed"),
)


def again(test_ids: tuple[str, ...] | None = None) -> RestartBuild:
    return RestartBuild(2, restarted_from=1, job_id=5, test_ids=test_ids)


def test_the_same_commit_and_configuration_again() -> None:
    """Whatever the job says by now."""
    expected = BuildQueued(
        **IDS | {"build_id": 2},
        **ROUTING,
        configuration=CONFIGURATION,
        branch="dev",
        commit_sha="c0ffee",
        repository="/srv/r.git",
        priority=8,
        timeout_minutes=30,
        job_title="Smoke",
        restarted_from=1,
    )
    given(*RAN, NOW_CONFIGURED).when(again()).then(expected)
    given(*RAN, expected).when(again()).then_nothing()


@pytest.mark.parametrize("by_admin", [True, False])
def test_a_build_is_an_admins_if_an_admin_restarts_it(by_admin: bool) -> None:
    first = [
        msgspec.structs.replace(event, by_admin=not by_admin) if isinstance(event, BuildQueued) else event
        for event in RAN
    ]
    (queued,) = given(*first).when(dataclasses.replace(again(), by_admin=by_admin))
    assert isinstance(queued, BuildQueued)
    assert queued.by_admin == by_admin


def test_a_build_of_a_change_is_not_restarted_without_a_repository() -> None:
    """In an empty folder it could pass, and the commit would count as tested."""
    of_change = msgspec.structs.replace(QUEUED, repository="", trigger=BuildTrigger("push"))
    ran = [of_change if event is QUEUED else event for event in RAN]
    with pytest.raises(Conflict, match="Job 5 has no repository and its project no SCM endpoint"):
        given(*ran).when(dataclasses.replace(again(), project_repository=""))
    assert len(given(*ran).when(dataclasses.replace(again(), project_repository="https://git.example.com/a.git"))) == 1
    assert len(given(*RAN).when(dataclasses.replace(again(), project_repository=""))) == 1, "its job has one"


def test_only_some_tests() -> None:
    (queued,) = given(*RAN).when(again(("a.py::test_ä", "a.py::test_b[1]")))
    assert isinstance(queued, BuildQueued)
    assert queued.test_ids == ["a.py::test_ä", "a.py::test_b[1]"]
    with pytest.raises(Conflict, match="nothing to run again"):
        given(*RAN).when(again(()))


def _report(**fields: Any) -> ReportRecorded:
    counts: dict[str, Any] = dict.fromkeys(("passed", "skipped", "known_issues", "duration_ms", "blocks"), 0)
    return ReportRecorded(**IDS, **counts, attempt=1, first_result_id=1, cases=1, failed=1, path="r.xml", **fields)


@pytest.mark.parametrize(
    ("report", "end", "missing"),
    [
        (_report(unreadable=True), FINISHED, "The report r.xml is incomplete or cannot be read."),
        (_report(unloaded=1), FINISHED, "1 test suite could not be loaded, ended early or failed as a whole."),
        (_report(missing=True), FINISHED, "No readable file of this build matches r.xml, which names reports."),
        (_report(), msgspec.structs.replace(FINISHED, reason="timeout"), "it ended early (timeout)."),
        (
            _report(),
            msgspec.structs.replace(FINISHED, status="aborted", reason="reported"),
            "it ended early (reported).",
        ),
        (_report(lost_tests=True), FINISHED, "The report r.xml says that it lacks tests."),
        (_report(), msgspec.structs.replace(FINISHED, exit_code=137), "do not account for exit code 137"),
    ],
)
def test_failed_tests_alone_do_not_stand_for_tests_without_a_result(
    report: ReportRecorded, end: BuildFinished, missing: str
) -> None:
    history = (*RAN[:-1], report, end)
    with pytest.raises(Conflict) as refused:
        given(*history).when(RestartBuild(2, 1, 5, ("a.py::test_b",), "failed"))
    assert missing in str(refused.value)
    for command in (again(), RestartBuild(2, 1, 5, ("a.py::test_b",), "flaky")):
        assert len(given(*history).when(command)) == 1
    (queued,) = given(*RAN[:-1], _report(), FINISHED).when(RestartBuild(2, 1, 5, ("a.py::test_b",), "failed"))
    assert isinstance(queued, BuildQueued)


def test_failed_tests_alone_do_not_stand_for_a_late_report() -> None:
    late = msgspec.structs.replace(_report(), path="late.xml", failed=0, cases=0)
    with pytest.raises(Conflict, match=r"The report late\.xml came after the end and does not count\."):
        given(*RAN[:-1], _report(), FINISHED, late).when(RestartBuild(2, 1, 5, ("a.py::test_b",), "failed"))


@pytest.mark.parametrize(("report", "refuses"), [(_report(), True), (_report(explained_exit_code=1), False)])
def test_failed_tests_alone_do_not_stand_for_tests_after_a_failure(report: ReportRecorded, refuses: bool) -> None:
    """The pytest plugin says itself which tests did not run."""
    queued = msgspec.structs.replace(QUEUED, configuration=Configuration(command="npx jest --bail"))
    history = (JOB, queued, ASSIGNED, STARTED, report, msgspec.structs.replace(FINISHED, exit_code=1))
    command = RestartBuild(2, 1, 5, ("a.py::test_b",), "failed")
    if not refuses:
        assert len(given(*history).when(command)) == 1
        return
    with pytest.raises(Conflict, match="With --bail other tests may not run"):
        given(*history).when(command)


def test_a_build_that_never_began_is_started_with_what_was_asked_for() -> None:
    asked = BuildQueued(**IDS, configuration=CONFIGURATION, branch="dev", commit_sha="beef", repository="/srv/r.git")
    (queued,) = given(JOB, asked, BuildFinished(**IDS, status="aborted", reason="stopped_by_user")).when(again())
    assert isinstance(queued, BuildQueued)
    assert queued.commit_sha == "beef"


@pytest.mark.parametrize(
    ("history", "state"),
    [(RAN[:2], "queued"), (RAN[:3], "queued"), (RAN[:4], "running"), ((JOB, *RAN_ELSEWHERE[:2]), "running")],
)
def test_only_what_has_finished(history: tuple[Event, ...], state: str) -> None:
    with pytest.raises(Conflict, match=f"is {state}"):
        given(*history).when(again())


@pytest.mark.parametrize(
    "history", [(), RAN[1:], (*RAN, JobDeleted(job_id=5, project_id=2)), (*RAN, BuildDeleted(**IDS))]
)
def test_what_is_not_there(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="build 1"):
        given(*history).when(again())


def test_a_disabled_job_runs_nothing() -> None:
    with pytest.raises(Conflict, match="disabled"):
        given(*RAN, JobUpdated(job_id=5, project_id=2, enabled=False)).when(again())


def test_in_a_pool_that_is_gone_it_would_wait_for_ever() -> None:
    pool = PoolCreated(pool_id=7, project_id=2, title="linux")
    pooled = (JOB, BuildQueued(**IDS, configuration=CONFIGURATION, node_pool_id=7), FINISHED)
    (queued,) = given(pool, *pooled).when(again())
    assert isinstance(queued, BuildQueued)
    assert queued.node_pool_id == 7
    with pytest.raises(Conflict, match="pool 7"):
        given(pool, *pooled, PoolDeleted(pool_id=7, project_id=2)).when(again())
    foreign = msgspec.structs.replace(pool, project_id=9, shared=True)
    given(foreign, *pooled).when(again())
    with pytest.raises(Conflict, match="project 2 may not use node pool 7"):
        given(foreign, *pooled, PoolUpdated(pool_id=7, project_id=9, shared=False)).when(again())


def test_an_external_build_becomes_an_ordinary_one() -> None:
    (queued,) = given(JOB, NOW_CONFIGURED, *RAN_ELSEWHERE).when(again())
    assert isinstance(queued, BuildQueued)
    assert not queued.external
    assert (queued.configuration.command, queued.commit_sha, queued.branch) == ("make test", "c0ffee", "dev")
    with pytest.raises(Conflict, match="no command"):
        given(JOB, *RAN_ELSEWHERE).when(again())


def test_an_external_builds_job_may_take_its_command_from_a_template() -> None:
    job = JobCreated(job_id=5, project_id=2, title="Smoke", pipeline_template_id=3)
    template = TemplateCreated(template_id=3, creator_id=1, title="Jest", configuration=Configuration(command="jest"))
    (queued,) = given(job, template, *RAN_ELSEWHERE).when(again())
    assert isinstance(queued, BuildQueued)
    assert queued.configuration.command == "jest"


@hypothesis.given(commands(RestartBuild), histories(*builds.EVENTS, *jobs.EVENTS, *pools.EVENTS, *templates.EVENTS))
def test_deciding_again_does_nothing(command: RestartBuild, history: list[Event]) -> None:
    is_decided_once(command, history)


def test_a_group_is_restarted_once() -> None:
    first, second = (RestartGroup([dataclasses.replace(again(), build_id=new)], ["c"]) for new in (2, 3))
    taken, queued = given(*RAN).when(first)
    assert taken == ClaimTaken(claim="c", owner="build-2")
    given(*RAN, taken, queued).when(first).then_nothing()
    with pytest.raises(Conflict, match="restarted as build 2"):
        given(*RAN, taken, queued).when(second)
    ids: dict[str, Any] = IDS | {"build_id": 2}
    deleted = BuildDeleted(**ids, results=[])
    taken_again, _ = given(*RAN, taken, queued, deleted).when(second)
    assert taken_again == ClaimTaken(claim="c", owner="build-3"), "without build 2, build 1 counts again"
