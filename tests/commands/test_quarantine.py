"""A job's quarantine, and what it means for a build's verdict."""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.builds import FinishBuild, FinishExternalBuild
from commands.handler import Command
from commands.quarantine import AddToQuarantine, RecordExpiry, RecordRecovery, RemoveFromQuarantine
from commands.results import RecordReport
from domain import jobs, quarantine
from domain.builds import BUILD, BuildFinished, BuildStarted, ReportRecorded
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted
from domain.quarantine import (
    QUARANTINE,
    Quarantine,
    QuarantineBecameHealthy,
    QuarantinedTestsRan,
    QuarantineExpired,
    QuarantineLifted,
    TestsQuarantined,
    filter_quarantined,
    possible_entries,
    split_by_outcome,
)
from domain.results import ResultsRecorded
from tests.commands.test_results import FAILURE, IDS, QUEUED, STARTED, command, report, state
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
DAY = timedelta(days=1)
JOB = JobCreated(job_id=5, project_id=1, title="Smoke")
OF_JOB: dict[str, Any] = {"job_id": 5, "project_id": 1}
A, B, C = (f"t/test_x.py::test_{name}" for name in "abc")


def quarantined(*node_ids: str, first_id: int = 1, **more: Any) -> TestsQuarantined:
    return TestsQuarantined(**OF_JOB, first_id=first_id, node_ids=list(node_ids), reason="flaky", **more)


def add(*node_ids: str, first_id: int = 10, **more: Any) -> AddToQuarantine:
    return AddToQuarantine(5, first_id, node_ids, NOW, **more)


def test_add() -> None:
    event = quarantined(A, first_id=10, expires_at=NOW + DAY, owner="ann")
    given(JOB).when(add(A, expires_at=NOW + DAY, owner="ann")).then(event)
    given(JOB, event).when(add(A, expires_at=NOW + DAY, owner="ann")).then_nothing()


def test_what_is_there_already() -> None:
    with pytest.raises(Conflict, match="test_a is in the quarantine"):
        given(JOB, quarantined(A)).when(add(A))
    given(JOB, quarantined(A)).when(add(A, B, A, B, skip_known=True)).then(quarantined(B, first_id=10))
    given(JOB, quarantined(A)).when(add(A, skip_known=True)).then_nothing()


def test_an_expired_entry_gives_way() -> None:
    expired = quarantined(A, expires_at=NOW)
    lifted = QuarantineLifted(**OF_JOB, ids=[1], node_ids=[A], why="expired")
    given(JOB, expired).when(add(A)).then(lifted, quarantined(A, first_id=10))
    with pytest.raises(Invalid, match="expires_at"):
        given(JOB).when(add(A, expires_at=NOW))


def test_expiry_is_said_once() -> None:
    history = (
        JOB,
        quarantined(A, expires_at=NOW),
        quarantined(B, first_id=2, expires_at=NOW + DAY),
        quarantined(C, first_id=3),
    )
    (reported,) = given(*history).when(RecordExpiry(5, NOW))
    assert reported == QuarantineExpired(**OF_JOB, ids=[1])
    given(*history, reported).when(RecordExpiry(5, NOW)).then_nothing()
    given(*history, reported).when(RecordExpiry(5, NOW + DAY)).then(QuarantineExpired(**OF_JOB, ids=[2]))


def test_each_recovery_is_said_once() -> None:
    history: tuple[Event, ...] = (JOB, quarantined(A, B))
    for failures in (0, 3):
        recovered = RecordRecovery(5, {1: failures, 7: 0}, NOW)
        (reported,) = given(*history).when(recovered)
        assert reported == QuarantineBecameHealthy(**OF_JOB, ids=[1], failures=[failures])
        history = (*history, reported)
        given(*history).when(recovered).then_nothing()
    assert given(*history).when(RecordRecovery(5, {1: 2}, NOW)) == [], "recorded before the last failure"
    given(*history, QuarantineLifted(**OF_JOB, ids=[1], node_ids=[A])).when(
        RecordRecovery(5, {1: 9}, NOW)
    ).then_nothing()


def test_what_has_expired_does_not_recover() -> None:
    given(JOB, quarantined(A, expires_at=NOW)).when(RecordRecovery(5, {1: 0}, NOW)).then_nothing()


@pytest.mark.parametrize("asked", [RecordExpiry(5, NOW), RecordRecovery(5, {1: 0}, NOW)])
def test_nothing_is_said_of_deleted_jobs(asked: Command) -> None:
    gone = JobDeleted(job_id=5, project_id=1)
    given(JOB, quarantined(A, expires_at=NOW), quarantined(B, first_id=1), gone).when(asked).then_nothing()


def test_remove() -> None:
    history = (JOB, quarantined(A, B))
    given(*history).when(RemoveFromQuarantine(5, (B, C, B))).then(QuarantineLifted(**OF_JOB, ids=[2], node_ids=[B]))
    by_id = QuarantineLifted(**OF_JOB, ids=[1], node_ids=[A])
    given(*history).when(RemoveFromQuarantine(5, quarantine_id=1)).then(by_id)
    given(*history, by_id).when(RemoveFromQuarantine(5, quarantine_id=1)).then_nothing()


@pytest.mark.parametrize("asked", [add(A), RemoveFromQuarantine(5, (A,))])
@pytest.mark.parametrize("history", [(), (JOB, JobDeleted(job_id=5, project_id=1))])
def test_a_quarantine_needs_its_job(asked: Command, history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="job 5"):
        given(*history).when(asked)


@pytest.mark.parametrize(
    ("entry", "node_id", "is_covered"),
    [
        (A, A, True),
        (A, A + "[1]", True),
        (A, A + "_more", False),
        ("t/test_x.py", A, True),
        ("t/test_x", A, False),
        ("t", A, False),
        ("t/test_x.py::TestDeep", "t/test_x.py::TestDeep::test_a[x::y[z]]", True),
        (A + "[x::y[z]]", A + "[x::y[z]]", True),
        (A + "[1]", A, False),
        ("module.Class.method", "module.Class.method", True),
        ("module.Class", "module.Class.method", False),
        ("", "::x", True),
    ],
)
def test_prefixes_as_pytest_understands_them(entry: str, node_id: str, is_covered: bool) -> None:
    assert bool(filter_quarantined([node_id], [entry])) is is_covered


@hypothesis.given(st.text("a:[]x", max_size=12), st.text("a:[]x", max_size=12))
def test_prefixes_are_what_they_are_said_to_be(entry: str, node_id: str) -> None:
    rest = node_id.removeprefix(entry)
    is_covered = node_id.startswith(entry) and (not rest or rest.startswith(("::", "[")))
    # `a:::b` is seen as `a` and `:b`: no reporter writes that.
    if ":::" not in node_id:
        assert bool(filter_quarantined([node_id], [entry])) is is_covered


def test_an_evil_id_is_looked_at_only_so_far() -> None:
    assert len(list(possible_entries("[" * 4_096))) <= 65


@pytest.mark.parametrize("kind", [AddToQuarantine, RemoveFromQuarantine, RecordExpiry, RecordRecovery])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    fixed = {} if kind is RemoveFromQuarantine else {"now": st.sampled_from([NOW, NOW - DAY])}

    @hypothesis.given(commands(kind, **fixed), histories(*quarantine.EVENTS, *jobs.EVENTS))
    def holds(asked: Any, history: list[Event]) -> None:
        is_decided_once(asked, history)

    holds()


@hypothesis.given(histories(*quarantine.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(QUARANTINE, history)


# Verdicts.


def recorded(asked: RecordReport, *history: Event, held: tuple[Event, ...] = ()) -> list[Event]:
    return list(asked.decide(state(*history), QUARANTINE.at(5).fold(held)))


def finished(exit_code: int, *history: Event, **more: Any) -> BuildFinished:
    asked = FinishBuild(7, 3, 1, exit_code=exit_code, reason=more.get("reason"), detail=more.get("detail"))
    (event,) = asked.decide(BUILD.at(7).fold(history))
    assert isinstance(event, BuildFinished)
    return event


def test_a_report_reads_its_jobs_quarantine() -> None:
    asked = command(report(("s", "a", FAILURE)))
    assert [stream.name for stream in asked.then_reads(state(QUEUED))] == ["quarantine-5"]  # type: ignore[union-attr]


def test_quarantined_failures_are_counted_apart() -> None:
    read = report(("s", "a", FAILURE), ("s", "b", FAILURE), ("s", "c", ""), ("s", "a", FAILURE))
    read.known_issues[1] = 1
    block, _, summary = recorded(command(read), QUEUED, STARTED, held=(quarantined(A, B, C),))
    assert isinstance(block, ResultsRecorded)
    assert block.quarantined == b"\1\0\0\1", "what is known anyway needs no quarantine, what passed neither"
    assert isinstance(summary, ReportRecorded)
    assert (summary.failed, summary.known_issues, summary.quarantined) == (2, 1, 1)
    build = BUILD.at(7).fold([QUEUED, STARTED, block, summary])
    assert build is not None
    assert (build.failed, build.known_issues, build.quarantined) == (0, 1, 1)


def test_without_a_quarantine_nothing_is_stored_of_it() -> None:
    for held in ((), (quarantined(C),), (quarantined(A, expires_at=NOW),)):
        block, summary = recorded(command(report(("s", "a", FAILURE)), now=NOW), QUEUED, STARTED, held=held)
        assert isinstance(block, ResultsRecorded)
        assert isinstance(summary, ReportRecorded)
        assert (block.quarantined, summary.quarantined) == (b"", 0)


def test_quarantined_failures_do_not_fail_a_build() -> None:
    reported = recorded(command(report(("s", "a", FAILURE), ("s", "c", ""))), QUEUED, STARTED, held=(quarantined(A),))
    for exit_code in (0, 1):
        event = finished(exit_code, QUEUED, STARTED, *reported)
        assert (event.status, event.reason, event.detail) == ("passed", None, "1 quarantined failure was ignored.")
    two = finished(2, QUEUED, STARTED, *reported)
    assert (two.status, two.reason) == ("failed", "command_failed"), "pytest's 2 is no failed test"
    timeout = finished(1, QUEUED, STARTED, *reported, reason="timeout")
    assert (timeout.status, timeout.reason, timeout.detail) == ("failed", "timeout", None)


def test_other_failures_do() -> None:
    reported = recorded(
        command(report(("s", "a", FAILURE), ("s", "b", FAILURE))), QUEUED, STARTED, held=(quarantined(A),)
    )
    event = finished(1, QUEUED, STARTED, *reported)
    assert (event.status, event.reason, event.detail) == ("failed", "tests_failed", None)


def test_a_failed_command_without_a_failure_stays_one() -> None:
    reported = recorded(command(report(("s", "a", ""))), QUEUED, STARTED, held=(quarantined(A),))
    assert finished(1, QUEUED, STARTED, *reported).reason == "command_failed"


def test_an_external_build_passes_with_quarantined_failures() -> None:
    external = BuildStarted(**IDS, node_id=None, attempt=1)
    reported = recorded(command(report(("s", "a", FAILURE))), QUEUED, external, held=(quarantined("t/test_x.py"),))
    (event,) = FinishExternalBuild(7, "passed").decide(BUILD.at(7).fold([QUEUED, external, *reported]))
    assert isinstance(event, BuildFinished)
    assert (event.status, event.detail) == ("passed", "1 quarantined failure was ignored.")


# How entries fare.


def ran(*cases: tuple[str, str, str], held: Event, **more: Any) -> list[QuarantinedTestsRan]:
    events = recorded(command(report(*cases), **more), QUEUED, STARTED, held=(held,))
    return [event for event in events if isinstance(event, QuarantinedTestsRan)]


def test_a_report_says_how_the_entries_that_count_fared() -> None:
    skipped, held = "<skipped/>", quarantined(A, B, C, "t/test_x.py", "t/test_other.py")
    cases = (("s", "a", ""), ("s", "b", FAILURE), ("s", "c", skipped))
    assert ran(*cases, held=held) == [QuarantinedTestsRan(**IDS, passed=[1], failed=[2, 4])]
    assert ran(("s", "a", FAILURE), ("s", "a", ""), held=held)[0].failed == [1, 4], "an earlier attempt counts"
    assert ran(("s", "c", skipped), held=held) == []
    assert ran(*cases, held=quarantined(A, B, expires_at=NOW), now=NOW) == []


def test_the_summary_counts_what_lies_beside_the_results() -> None:
    *blocks, summary = recorded(command(report(("s", "a", ""))), QUEUED, STARTED, held=(quarantined(A),))
    assert isinstance(summary, ReportRecorded)
    assert [event.stream for event in blocks].count("results-7") == summary.blocks == 2


@hypothesis.given(st.dictionaries(st.sampled_from([A, A + "[1]", A + "[2]", B]), st.booleans()))
def test_an_entry_passes_when_all_its_tests_do(outcomes: dict[str, bool]) -> None:
    entries = QUARANTINE.at(5).fold([quarantined(A, B, "t/test_x.py")]).entries
    passed, failed = split_by_outcome(outcomes.items(), entries)
    for node_id, entry in entries.items():
        covered = [is_failure for test, is_failure in outcomes.items() if filter_quarantined([test], [node_id])]
        assert (entry.quarantine_id in passed) == (bool(covered) and not any(covered))
        assert (entry.quarantine_id in failed) == any(covered)


def test_no_entries() -> None:
    assert Quarantine().active(NOW) == []
