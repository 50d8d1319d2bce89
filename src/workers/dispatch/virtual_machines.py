"""The dispatcher's memory of virtual machines that were cloned for node pools. No input or output."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from domain.core.events import Event
from domain.docker_agents import DockerAgentStatus, Operation
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    VcenterMachineRegistered,
    VcenterOperation,
    VcenterOperationEvent,
    VcenterOperationFailed,
    VcenterOperationRequested,
    VcenterRegistrationRenewed,
    find_operation_id,
    has_failed,
    has_succeeded,
)

BOOT_TIMEOUT = timedelta(minutes=10)
"""Time from the start of a machine, also after a revert, until its agent must have registered."""


class ClonedMachine(NamedTuple):
    """A virtual machine: its status, the operation that is not carried out yet, why it failed, its node, and the time
    until which its agent must have registered.
    """

    status: DockerAgentStatus
    pending: Operation | None
    error: str
    node_id: int | None
    registration_until: datetime


@dataclass
class VirtualMachines:
    deleted_vcenters: set[int] = field(default_factory=set)
    """Ids of vCenter integrations that were deleted. The server cannot do anything about the machines of these vCenters
    any more.
    """
    removals: dict[int, VcenterOperation] = field(default_factory=dict)
    """Id of the operation that has cloned a machine -> the last operation that was requested to delete the machine."""
    _clones: dict[int, VcenterOperation] = field(default_factory=dict)
    _reverts: dict[int, VcenterOperation] = field(default_factory=dict)
    """Id of the operation that has cloned a machine -> the last operation that was requested to revert the machine
    after its build.
    """
    _renewed_at: dict[int, datetime] = field(default_factory=dict)
    """Id of the operation that has cloned a machine -> when the machine was reverted; only until its agent has
    registered again.
    """
    _clone_of: dict[int, int] = field(default_factory=dict)
    """Id of an operation that deletes or reverts a machine -> id of the operation that has cloned the machine."""

    def apply(self, event: Event, *, is_ours: bool) -> None:
        """Updates the machines by an event. `is_ours` says whether the event is about a machine of a node pool."""
        match event:
            case VcenterDeleted():
                self.deleted_vcenters.add(event.vcenter_id)
            case VcenterOperationRequested(kind="delete") if event.vm_name:
                self._record_request(self.removals, find_operation_id(event.vm_name), event)
            case VcenterOperationRequested(kind="revert") if event.vm_name:
                self._record_request(self._reverts, find_operation_id(event.vm_name), event)
            case VcenterOperationEvent() if (clone_id := self._clone_of.get(event.operation_id)) is not None:
                for states in (self.removals, self._reverts):
                    if clone_id in states and states[clone_id].operation_id == event.operation_id:
                        self._fold(states, clone_id, event)
            case VcenterOperationEvent() if is_ours:
                self._fold(self._clones, event.operation_id, event)
                if isinstance(event, VcenterRegistrationRenewed):
                    self._renewed_at[event.operation_id] = event.at
                elif isinstance(event, VcenterMachineRegistered):
                    self._renewed_at.pop(event.operation_id, None)
            case _:
                pass

    def get_clone(self, clone_id: int) -> VcenterOperation | None:
        """Returns the operation that has cloned a machine of a node pool; None if there is none."""
        return self._clones.get(clone_id)

    def find(self, clone_id: int, *, is_leaving: bool) -> ClonedMachine | None:
        """Returns the machine that an operation clones; None if it is gone. `is_leaving` says whether the machine's
        removal was decided. A machine that could not be made counts as gone from that decision on.
        """
        clone = self._clones.get(clone_id)
        if clone is None or clone.vcenter_id in self.deleted_vcenters:
            return None
        removal = self.removals.get(clone_id)
        if removal is not None and has_succeeded(removal):
            return None
        if is_leaving and has_failed(clone) and not clone.is_started:
            return None
        if clone.end is None:
            return ClonedMachine("starting", "spawn", "", clone.node_id, clone.requested_at)
        pending: Operation | None = None if removal is None else "destroy"
        revert = self._reverts.get(clone_id)
        end = clone.end if revert is None else revert.end
        if end is None:
            # It has no node until it is registered again, so that it counts as one that is starting.
            return ClonedMachine("starting", pending or "start", "", None, clone.end.at)
        renewed_at = self._renewed_at.get(clone_id)
        node_id = clone.node_id if renewed_at is None else None
        until = max(end.at, renewed_at or end.at) + BOOT_TIMEOUT
        if isinstance(end, VcenterOperationFailed):
            return ClonedMachine("error", pending, end.error, node_id, until)
        return ClonedMachine("running", pending, "", node_id, until)

    def forget(self, clone_id: int) -> None:
        """Forgets a machine that is gone."""
        self._clones.pop(clone_id, None)
        self._renewed_at.pop(clone_id, None)
        for states in (self.removals, self._reverts):
            if (last := states.pop(clone_id, None)) is not None:
                self._clone_of.pop(last.operation_id, None)

    def _record_request(
        self, states: dict[int, VcenterOperation], clone_id: int | None, event: VcenterOperationRequested
    ) -> None:
        """Records in `states` the request to delete or revert a machine of a node pool. Ignores requests for other
        machines.
        """
        if clone_id is not None and clone_id in self._clones:
            if (before := states.get(clone_id)) is not None:
                self._clone_of.pop(before.operation_id, None)
            self._clone_of[event.operation_id] = clone_id
            self._fold(states, clone_id, event)

    def _fold(self, states: dict[int, VcenterOperation], key: int, event: VcenterOperationEvent) -> None:
        state = VCENTER_OPERATION.evolve(states.get(key), event)
        if state is not None:
            states[key] = state
