"""Virtual machines of vCenters as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import vcenter, vcenter_vms
from domain.core.events import Event
from domain.vcenter import VcenterDeleted
from domain.vcenter_vms import VcenterVmsChanged, VirtualMachine
from projections.vcenter_vms import PROJECTION, VcenterVmRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
VMS = [VirtualMachine("vm-7", "agent-7", "powered_on", "Resources"), VirtualMachine("vm-8", "base", "powered_off")]
CHANGED = VcenterVmsChanged(at=NOW, vcenter_id=5, changed=VMS)


def test_machines_come_and_go() -> None:
    row = VcenterVmRow(5, "vm-7", "agent-7", "powered_on", "Resources", False, NOW)
    assert row in given(CHANGED).when(PROJECTION).all(VcenterVmRow)
    removed = VcenterVmsChanged(at=NOW, vcenter_id=5, removed=["vm-8"])
    assert given(CHANGED, removed).when(PROJECTION).all(VcenterVmRow) == [row]
    assert given(CHANGED, VcenterDeleted(vcenter_id=5)).when(PROJECTION).all(VcenterVmRow) == []


@hypothesis.given(histories(*vcenter.EVENTS, *vcenter_vms.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
