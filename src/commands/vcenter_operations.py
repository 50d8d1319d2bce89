"""Requests operations on a vCenter, and records how they ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from commands.handler import Command, must_exist
from commands.nodes import must_be_pool
from commands.registrations import NOT_VALID
from domain.claims import CLAIM, Claim, take_claim
from domain.core.errors import Unauthenticated
from domain.core.events import AnyStream, Event
from domain.nodes import NO_TOKEN, NODE, Node, NodeRegistered, NodeTokenRotated, NodeWentOffline
from domain.pools import POOL, Pool
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    Failure,
    Kind,
    VcenterMachineRegistered,
    VcenterOperation,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
    VcenterOperationStarted,
    VcenterRegistrationRenewed,
)
from domain.vcenter_vms import VCENTER_VMS, Inventory, VcenterVmsChanged, VirtualMachine, find_changes

REGISTRATION_LIFETIME = timedelta(hours=2)
"""Time for which a registration token of a virtual machine is valid. The time begins when the machine is requested, or
when a revert of the machine ends. It is long, since cloning may take an hour.
"""
MAX_CHANGED = 500
"""Largest number of changed machines, and of removed machines, in one event of the inventory (VcenterVmsChanged)."""


@dataclass(frozen=True)
class RequestVcenterOperation(Command):
    operation_id: int
    vcenter_id: int
    kind: Kind
    vm_id: str = ""
    vm_name: str = ""
    pool_id: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER.at(self.vcenter_id), POOL.at(self.pool_id or 0)

    def decide(self, operation: VcenterOperation | None, vcenter: Vcenter | None, pool: Pool | None) -> Iterable[Event]:
        if operation is not None:
            return
        must_be_pool(self.pool_id, pool)
        must_exist(vcenter, f"vCenter {self.vcenter_id}")
        yield self.event(VcenterOperationRequested)


@dataclass(frozen=True)
class StartVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records that a worker is about to ask the vCenter for the operation. With a `task_id`, records that the vCenter
    has begun the operation as this task.
    """

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
    """Records that the test of a vCenter succeeded. Ignores an operation that has ended."""

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
        yield from _split_changes(self.vcenter_id, changed, removed)
        yield self.event(
            VcenterOperationCompleted, synced_vms=len(self.vms), updated=len(changed) + len(removed), vm_id=""
        )


@dataclass(frozen=True)
class RecordVcenterVms(Command, of=VCENTER_VMS):
    """Records which machines the vCenter has. `before` is the inventory that was loaded before the vCenter was asked.
    Leaves out machines that have changed in the inventory since then, since an operation may have recorded a newer
    state of them.
    """

    vcenter_id: int
    vms: Sequence[VirtualMachine]
    before: Inventory

    def decide(self, known: Inventory) -> Iterable[Event]:
        changed, removed = find_changes(known, self.vms)
        kept = [vm for vm in changed if known.get(vm.vm_id) == self.before.get(vm.vm_id)]
        gone = [vm_id for vm_id in removed if known[vm_id] == self.before.get(vm_id)]
        yield from _split_changes(self.vcenter_id, kept, gone)


@dataclass(frozen=True)
class CompleteVmOperation(Command):
    """Records that an operation on a machine succeeded, and how the machine is now. Ignores an operation that has
    ended.
    """

    operation_id: int
    vcenter_id: int
    vm: VirtualMachine
    """State of the machine that the operation changed or cloned."""
    is_deleted: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER_VMS.at(self.vcenter_id)

    def decide(self, operation: VcenterOperation | None, known: Inventory) -> Iterable[Event]:
        if operation is None or operation.end is not None:
            return
        if self.is_deleted:
            if self.vm.vm_id in known:
                yield VcenterVmsChanged(vcenter_id=self.vcenter_id, removed=[self.vm.vm_id])
        elif known.get(self.vm.vm_id) != self.vm:
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


@dataclass(frozen=True)
class RenewVcenterRegistration(Command, of=VCENTER_OPERATION):
    """Makes a new registration token valid for a machine that was reverted. `operation_id` is the operation that has
    cloned the machine. The machine's node goes offline, so builds that ran on the node are queued again. The node's
    token becomes invalid, since a build may have read the token in the machine.
    """

    operation_id: int
    registration_id: str
    registration_until: datetime

    def then_reads(self, operation: VcenterOperation | None) -> Sequence[AnyStream]:
        return () if operation is None or operation.node_id is None else (NODE.at(operation.node_id),)

    def decide(self, operation: VcenterOperation | None, node: Node | None = None) -> Iterable[Event]:
        if operation is None or operation.registration_id == self.registration_id:
            return
        yield self.event(VcenterRegistrationRenewed, vcenter_id=operation.vcenter_id)
        if node is not None and not node.deleted and operation.token_hash:
            yield NodeTokenRotated(node_id=node.node_id, token_hash=NO_TOKEN)
        if node is not None and node.session is not None:
            yield NodeWentOffline(node_id=node.node_id, session=node.session, reason="its machine was reverted")


@dataclass(frozen=True)
class RegisterVcenterMachine(Command):
    """Exchanges the registration token of a cloned machine for a token of the machine's node. The agent itself has made
    the token of the node, so it may repeat the request if the answer was lost.

    The first time, the command registers the node, with the id `node_id`. After a revert of the machine, the command
    gives the node a new token.
    """

    operation_id: int
    registration_id: str
    token_hash: bytes
    node_id: int
    claim: str
    """Id of the claim that keeps the node's name unique."""
    now: datetime

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), CLAIM.at(self.claim)

    def then_reads(self, operation: VcenterOperation | None, claim: Claim) -> Sequence[AnyStream]:
        if operation is None:
            return ()
        node = NODE.at(operation.node_id or self.node_id)
        return POOL.at(operation.pool_id or 0), VCENTER.at(operation.vcenter_id), node

    def decide(
        self,
        operation: VcenterOperation | None,
        claim: Claim,
        pool: Pool | None = None,
        vcenter: Vcenter | None = None,
        node: Node | None = None,
    ) -> Iterable[Event]:
        if operation is None or operation.kind != "clone" or vcenter is None or vcenter.deleted:
            raise Unauthenticated(NOT_VALID)
        if operation.registration_id != self.registration_id:
            raise Unauthenticated(NOT_VALID)
        if operation.token_hash:
            if operation.token_hash != self.token_hash:
                raise Unauthenticated("The registration token was used before: it works once.")
            return
        if self.now > (operation.registration_until or operation.requested_at + REGISTRATION_LIFETIME):
            raise Unauthenticated(NOT_VALID)
        if node is not None and not node.deleted:
            yield NodeTokenRotated(node_id=node.node_id, token_hash=self.token_hash)
            if node.session is not None:
                yield NodeWentOffline(node_id=node.node_id, session=node.session, reason="its machine was reverted")
            yield self.event(VcenterMachineRegistered, vcenter_id=operation.vcenter_id, node_id=node.node_id)
            return
        must_be_pool(operation.pool_id, pool)
        title = operation.vm_name
        taken = f"There already is a node called {title!r}: rename it."
        yield from take_claim(self.claim, claim, NODE.at(self.node_id).name, taken)
        yield self.event(NodeRegistered, title=title, pool_id=operation.pool_id, single_use=operation.single_use)
        yield self.event(VcenterMachineRegistered, vcenter_id=operation.vcenter_id)


def _split_changes(vcenter_id: int, changed: list[VirtualMachine], removed: list[str]) -> Iterable[Event]:
    for start in range(0, max(len(changed), len(removed)), MAX_CHANGED):
        part = slice(start, start + MAX_CHANGED)
        yield VcenterVmsChanged(vcenter_id=vcenter_id, changed=changed[part], removed=removed[part])
