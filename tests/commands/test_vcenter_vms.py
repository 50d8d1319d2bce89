"""Decisions about the virtual machines that a vCenter has."""

import hypothesis

from commands.vcenter_operations import MAX_CHANGED, CompleteVmOperation, RecordVcenterSync, StartVcenterOperation
from domain import vcenter_vms
from domain.core.events import Event
from domain.vcenter_operations import VcenterOperationCompleted, VcenterOperationRequested, VcenterOperationStarted
from domain.vcenter_vms import VCENTER_VMS, VcenterVmsChanged, VirtualMachine
from tests.support.spec import folds, given
from tests.support.strategies import histories

VM = VirtualMachine("vm-7", "agent-7", "powered_on", "Resources")
SYNC = VcenterOperationRequested(operation_id=9, vcenter_id=5, kind="sync")
POWER = VcenterOperationRequested(operation_id=9, vcenter_id=5, kind="power_on", vm_id="vm-7")
KNOWN = VcenterVmsChanged(vcenter_id=5, changed=[VM])


def test_a_sync_records_changes() -> None:
    synced = VcenterOperationCompleted(operation_id=9, vcenter_id=5, synced_vms=1, updated=1, duration_ms=3)
    given(SYNC).when(RecordVcenterSync(9, 5, [VM], 3)).then(KNOWN, synced)
    same = VcenterOperationCompleted(operation_id=9, vcenter_id=5, synced_vms=1, updated=0, duration_ms=3)
    given(SYNC, KNOWN).when(RecordVcenterSync(9, 5, [VM], 3)).then(same)
    none = VcenterOperationCompleted(operation_id=9, vcenter_id=5, updated=1, duration_ms=3)
    gone = VcenterVmsChanged(vcenter_id=5, removed=["vm-7"])
    given(SYNC, KNOWN).when(RecordVcenterSync(9, 5, [], 3)).then(gone, none)
    given(SYNC, synced).when(RecordVcenterSync(9, 5, [VM], 3)).then_nothing()


def test_many_changes_are_several_events() -> None:
    vms = [VirtualMachine(f"vm-{number}", "x", "powered_on") for number in range(2 * MAX_CHANGED + 1)]
    *changes, end = given(SYNC).when(RecordVcenterSync(9, 5, vms, 3))
    assert [len(event.changed) for event in changes if isinstance(event, VcenterVmsChanged)] == [500, 500, 1]
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.synced_vms, end.updated) == (1_001, 1_001)


def test_an_operation_on_a_machine_records_its_state() -> None:
    done = VcenterOperationCompleted(operation_id=9, vcenter_id=5, vm_id="vm-7", power_state="powered_on")
    given(POWER).when(CompleteVmOperation(9, 5, VM)).then(KNOWN, done)
    given(POWER, KNOWN).when(CompleteVmOperation(9, 5, VM)).then(done)
    given(POWER, done).when(CompleteVmOperation(9, 5, VM)).then_nothing()


def test_a_start_is_recorded_once() -> None:
    asked = VcenterOperationStarted(operation_id=9, vcenter_id=5)
    begun = VcenterOperationStarted(operation_id=9, vcenter_id=5, task_id="task-3")
    given(POWER).when(StartVcenterOperation(9)).then(asked)
    given(POWER, asked).when(StartVcenterOperation(9)).then_nothing()
    given(POWER, asked).when(StartVcenterOperation(9, "task-3")).then(begun)
    given(POWER, asked, begun).when(StartVcenterOperation(9, "task-3")).then_nothing()


@hypothesis.given(histories(*vcenter_vms.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(VCENTER_VMS, history)
