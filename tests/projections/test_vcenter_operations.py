"""Operations on vCenters as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import vcenter, vcenter_operations
from domain.core.events import Event
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import VcenterOperationCompleted, VcenterOperationFailed, VcenterOperationRequested
from projections.vcenter_operations import PROJECTION, VcenterOperationRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
REQUESTED = VcenterOperationRequested(at=NOW, operation_id=9, vcenter_id=5, kind="test")


def test_an_operation_ends() -> None:
    row = given(REQUESTED).when(PROJECTION).one(VcenterOperationRow)
    assert (row.status, row.requested_at, row.ended_at) == ("running", NOW, None)
    completed = VcenterOperationCompleted(at=LATER, operation_id=9, vcenter_id=5, version="8.0.2")
    row = given(REQUESTED, completed).when(PROJECTION).one(VcenterOperationRow)
    assert (row.status, row.ended_at, row.error) == ("completed", LATER, "")
    failed = VcenterOperationFailed(at=LATER, operation_id=9, vcenter_id=5, failure="outside", error="no answer")
    row = given(REQUESTED, failed).when(PROJECTION).one(VcenterOperationRow)
    assert (row.status, row.ended_at, row.error) == ("failed", LATER, "no answer")


def test_the_operations_of_a_deleted_vcenter_leave_no_rows() -> None:
    assert given(REQUESTED, VcenterDeleted(vcenter_id=5)).when(PROJECTION).all(VcenterOperationRow) == []


@hypothesis.given(histories(*vcenter.EVENTS, *vcenter_operations.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
