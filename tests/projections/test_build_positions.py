"""When a build was queued, started, ended and deleted, as positions of the log."""

from typing import Any

from domain.builds import (
    BuildAssigned,
    BuildDeleted,
    BuildFinished,
    BuildPinned,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
)
from domain.core.events import UNSTAMPED
from domain.jobs import JobDeleted
from projections.build_positions import NEVER, PROJECTION, BuildPositionsRow, DeletedJobRow
from tests.support.spec import given

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 3}
QUEUED = BuildPositionsRow(7, 5, 3, UNSTAMPED, queued=1)


def test_a_build_takes_turns_of_running_and_waiting() -> None:
    rows = given(
        BuildQueued(**IDS),
        BuildAssigned(**IDS, node_id=1, attempt=1),
        BuildRequeued(**IDS, node_id=1, attempt=1, reason="not_acknowledged"),
        BuildAssigned(**IDS, node_id=1, attempt=2),
        BuildStarted(**IDS, node_id=1, attempt=2),
        BuildRequeued(**IDS, node_id=1, attempt=2, reason="agent_lost"),
        BuildStarted(**IDS, node_id=2, attempt=3),
        BuildPinned(**IDS),
        BuildFinished(**IDS, status="failed", node_id=2),
        BuildDeleted(**IDS),
    ).when(PROJECTION)
    expected = BuildPositionsRow(7, 5, 3, UNSTAMPED, queued=1, turns=[5, 6, 7], ended=9, verdict="failed", deleted=10)
    assert rows.all(BuildPositionsRow) == [expected]


def test_a_build_that_waits_has_no_end() -> None:
    rows = given(BuildQueued(**IDS)).when(PROJECTION)
    assert rows.all(BuildPositionsRow) == [QUEUED]
    assert QUEUED.ended == QUEUED.deleted == NEVER


def test_a_job_is_deleted_with_its_builds() -> None:
    rows = given(BuildQueued(**IDS), JobDeleted(job_id=5, project_id=3), BuildFinished(**IDS, status="aborted")).when(
        PROJECTION
    )
    assert rows.all(DeletedJobRow) == [DeletedJobRow(5, 2)]
    assert rows.all(BuildPositionsRow)[0].ended == 3
