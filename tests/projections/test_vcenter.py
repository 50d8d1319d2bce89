"""vCenter integrations as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import vcenter
from domain.core.events import Event
from domain.vcenter import VcenterConnected, VcenterCreated, VcenterDeleted, VcenterDisconnected, VcenterUpdated
from projections.vcenter import PROJECTION, VcenterRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
HOST = "vcenter.corp.local"
CREATED = VcenterCreated(
    at=NOW,
    vcenter_id=5,
    title="Prod",
    host=HOST,
    username="svc",
    sealed_password=b"p",
    datacenter="DC-East",
    cluster="C1",
)
ROW = VcenterRow(5, "Prod", HOST, "svc", "DC-East", "C1", False, NOW, NOW)


def test_an_integration_changes() -> None:
    assert given(CREATED).when(PROJECTION).one(VcenterRow) == ROW
    updated = VcenterUpdated(at=LATER, vcenter_id=5, title="Lab", insecure=True, sealed_password=b"q")
    row = VcenterRow(5, "Lab", HOST, "svc", "DC-East", "C1", True, NOW, LATER)
    assert given(CREATED, updated).when(PROJECTION).one(VcenterRow) == row


def test_the_last_error_is_shown_until_the_server_can_sign_in() -> None:
    failed = VcenterDisconnected(at=LATER, vcenter_id=5, error="no answer")
    connected = VcenterConnected(at=LATER, vcenter_id=5, version="8.0.2")
    row = given(CREATED, connected, failed).when(PROJECTION).one(VcenterRow)
    assert (row.version, row.last_error, row.last_error_at) == (None, "no answer", LATER)
    row = given(CREATED, failed, connected).when(PROJECTION).one(VcenterRow)
    assert (row.version, row.last_error, row.last_error_at) == ("8.0.2", None, None)


def test_what_is_deleted_leaves_no_row() -> None:
    assert given(CREATED, VcenterDeleted(vcenter_id=5)).when(PROJECTION).all(VcenterRow) == []


@hypothesis.given(histories(*vcenter.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
