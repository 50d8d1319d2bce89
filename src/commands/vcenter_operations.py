"""Requests operations on a vCenter, and records how they ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from domain.core.events import AnyStream, Event
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    Failure,
    Kind,
    VcenterOperation,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
    VcenterOperationStarted,
)
from domain.vcenter_vms import VCENTER_VMS, Inventory, VcenterVmsChanged, VirtualMachine, find_changes

MAX_CHANGED = 500
"""Largest number of machines in one event."""


@dataclass(frozen=True)
class RequestVcenterOperation(Command):
    operation_id: int
    vcenter_id: int
    kind: Kind
    vm_id: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER.at(self.vcenter_id)

    def decide(self, operation: VcenterOperation | None, vcenter: Vcenter | None) -> Iterable[Event]:
        if operation is not None:
            return
        must_exist(vcenter, f"vCenter {self.vcenter_id}")
        yield self.event(VcenterOperationRequested)


@dataclass(frozen=True)
class StartVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records that the vCenter is about to be asked for the change (without a `task_id`), or that it has begun it."""

    operation_id: int
    task_id: str = ""

    def decide(self, operation: VcenterOperation | None) -> Iterable[Event]:
        if operation is None or operation.end is not None:
            return
        if not operation.is_started or operation.task_id != self.task_id:
            yield VcenterOperationStarted(
                operation_id=self.operation_id, vcenter_id=operation.vcenter_id, task_id=self.task_id
            )


@dataclass(frozen=True)
class CompleteVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records that a test succeeded. Ignores an operation that has ended."""

    operation_id: int
    version: str
    latency_ms: int

    def decide(self, operation: VcenterOperation | None) -> Iterable[Event]:
        if operation is not None and operation.end is None:
            yield self.event(VcenterOperationCompleted, operation)


@dataclass(frozen=True)
class RecordVcenterSync(Command):
    """Records which machines the vCenter has, as the result of an operation. Ignores an operation that has ended."""

    operation_id: int
    vcenter_id: int
    vms: Sequence[VirtualMachine]
    duration_ms: int

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER_VMS.at(self.vcenter_id)

    def decide(self, operation: VcenterOperation | None, known: Inventory) -> Iterable[Event]:
        if operation is None or operation.end is not None:
            return
        changed, removed = find_changes(known, self.vms)
        parts = range(0, max(len(changed), len(removed)), MAX_CHANGED)
        for start in parts:
            part = slice(start, start + MAX_CHANGED)
            yield VcenterVmsChanged(vcenter_id=self.vcenter_id, changed=changed[part], removed=removed[part])
        yield self.event(
            VcenterOperationCompleted, synced_vms=len(self.vms), updated=len(changed) + len(removed), vm_id=""
        )


@dataclass(frozen=True)
class CompleteVmOperation(Command):
    """Records that an operation on a machine succeeded, and how the machine is now. Ignores an operation that has
    ended.
    """

    operation_id: int
    vcenter_id: int
    vm: VirtualMachine

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER_VMS.at(self.vcenter_id)

    def decide(self, operation: VcenterOperation | None, known: Inventory) -> Iterable[Event]:
        if operation is None or operation.end is not None:
            return
        if known.get(self.vm.vm_id) != self.vm:
            yield VcenterVmsChanged(vcenter_id=self.vcenter_id, changed=[self.vm])
        yield self.event(VcenterOperationCompleted, vm_id=self.vm.vm_id, power_state=self.vm.power_state)


@dataclass(frozen=True)
class FailVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records why an operation failed. Ignores an operation that has ended."""

    operation_id: int
    failure: Failure
    error: str

    def decide(self, operation: VcenterOperation | None) -> Iterable[Event]:
        if operation is not None and operation.end is None:
            yield self.event(VcenterOperationFailed, operation)
