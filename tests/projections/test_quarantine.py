"""Quarantine as rows."""

from datetime import UTC, datetime, timedelta

import hypothesis
import msgspec

from domain import quarantine
from domain.core.events import Event
from domain.jobs import JobDeleted
from domain.quarantine import (
    HEALTHY_AFTER,
    QuarantineBecameHealthy,
    QuarantinedTestsRan,
    QuarantineExpired,
    QuarantineLifted,
    TestsQuarantined,
)
from projections.quarantine import PROJECTION, QuarantineRow, status_at
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ADDED = TestsQuarantined(
    at=NOW, actor="user:7", job_id=5, project_id=1, first_id=10, node_ids=["a", "b"], reason="wip", owner="ann"
)


def test_entries_are_numbered_in_their_order() -> None:
    assert given(ADDED).when(PROJECTION).all(QuarantineRow) == [
        QuarantineRow(10, 5, 1, "a", "wip", NOW, "user:7", None, "ann"),
        QuarantineRow(11, 5, 1, "b", "wip", NOW, "user:7", None, "ann"),
    ]


def test_lifted_entries_and_those_of_deleted_jobs_are_gone() -> None:
    rows = given(ADDED, QuarantineLifted(job_id=5, project_id=1, ids=[10], node_ids=["a"])).when(PROJECTION)
    assert [row.node_id for row in rows.all(QuarantineRow)] == ["b"]
    assert rows.apply(JobDeleted(job_id=5, project_id=1)).all(QuarantineRow) == []


def ran(build_id: int, *, failed: bool = False) -> QuarantinedTestsRan:
    at = NOW + timedelta(hours=build_id)
    ids: list[int] = [10]
    return QuarantinedTestsRan(
        at=at, build_id=build_id, job_id=5, project_id=1, passed=[] if failed else ids, failed=ids if failed else []
    )


def healthy(failures: int) -> QuarantineBecameHealthy:
    return QuarantineBecameHealthy(at=NOW, job_id=5, project_id=1, ids=[10], failures=[failures])


def first(*events: Event) -> QuarantineRow:
    return given(ADDED, *events).when(PROJECTION).all(QuarantineRow)[0]


def test_builds_that_pass_in_a_row_are_counted_once() -> None:
    passed = [ran(build_id) for build_id in range(1, HEALTHY_AFTER + 3)]
    assert first(*passed).passed_in == list(range(3, HEALTHY_AFTER + 3)), "no more than are needed"
    assert first(ran(1), ran(2), ran(1), ran(2)).passed_in == [1, 2], "reports of builds at once"
    assert first(ran(1), ran(2), ran(2, failed=True)).passed_in == []
    again = first(ran(2, failed=True), ran(2), ran(2, failed=True), ran(3))
    assert (again.passed_in, again.failures, again.failed_in) == ([3], 1, 2), "what failed in one report failed"


def test_an_entry_is_healthy_until_it_fails() -> None:
    row = first(ran(1, failed=True), ran(2), healthy(1))
    assert status_at(row, NOW) == ("healthy", NOW)
    row = first(ran(1), healthy(0), ran(2), ran(3, failed=True))
    assert status_at(row, NOW) == ("active", NOW + timedelta(hours=3))
    row = first(ran(1), ran(3, failed=True), healthy(0))
    assert status_at(row, NOW)[0] == "active", "it was said too late"
    assert status_at(first(), NOW) == ("active", NOW)


def test_an_entry_expires_whether_the_expiry_is_recorded_or_not() -> None:
    soon = NOW + timedelta(minutes=1)
    added = msgspec.structs.replace(ADDED, expires_at=soon)
    recorded_expiry = QuarantineExpired(at=soon, job_id=5, project_id=1, ids=[10])
    for row in given(added, healthy(0), recorded_expiry).when(PROJECTION).all(QuarantineRow):
        assert [status_at(row, now)[0] for now in (NOW, soon)] == ["healthy" if row.id == 10 else "active", "expired"]
        assert row.expired_at == (soon if row.id == 10 else None)


@hypothesis.given(histories(*quarantine.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
