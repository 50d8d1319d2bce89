"""Quarantine as rows."""

from datetime import UTC, datetime

from hypothesis import given

from domain import quarantine
from domain.base import Event
from domain.jobs import JobDeleted
from domain.quarantine import QuarantineLifted, TestsQuarantined
from projections.quarantine import PROJECTION, QuarantineRow
from tests.commands.given import histories
from tests.projections.memory import MemoryRows

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ADDED = TestsQuarantined(
    at=NOW, actor="user:7", job_id=5, project_id=1, first_id=10, node_ids=["a", "b"], reason="wip", owner="ann"
)


def test_entries_are_numbered_in_their_order() -> None:
    assert MemoryRows(PROJECTION).apply(ADDED).all(QuarantineRow) == [
        QuarantineRow(10, 5, 1, "a", "wip", NOW, "user:7", None, "ann"),
        QuarantineRow(11, 5, 1, "b", "wip", NOW, "user:7", None, "ann"),
    ]


def test_lifted_entries_and_those_of_deleted_jobs_are_gone() -> None:
    rows = MemoryRows(PROJECTION).apply(ADDED, QuarantineLifted(job_id=5, project_id=1, ids=[10], node_ids=["a"]))
    assert [row.node_id for row in rows.all(QuarantineRow)] == ["b"]
    assert rows.apply(JobDeleted(job_id=5, project_id=1)).all(QuarantineRow) == []


@given(histories(*quarantine.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    MemoryRows(PROJECTION).apply(*history)
