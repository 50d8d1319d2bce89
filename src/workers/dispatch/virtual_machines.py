"""The dispatcher's memory of virtual machines that were cloned for node pools. No input or output."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from domain.core.events import Event
from domain.docker_agents import DockerAgentStatus, Operation
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    VcenterOperation,
    VcenterOperationEvent,
    VcenterOperationFailed,
    VcenterOperationRequested,
    find_operation_id,
    has_failed,
    has_succeeded,
)

BOOT_TIMEOUT = timedelta(minutes=10)
"""Time from the start of a machine until its agent must have registered."""


class ClonedMachine(NamedTuple):
    """A virtual machine. The fields mean the same as those of `DockerAgent`."""

    status: DockerAgentStatus
    pending: Operation | None
    error: str
    node_id: int | None
    registration_until: datetime


@dataclass
class VirtualMachines:
    deleted_vcenters: set[int] = field(default_factory=set)
    """Ids of integrations that were deleted. The server cannot do anything about their machines any more."""
    removals: dict[int, VcenterOperation] = field(default_factory=dict)
    """Id of the operation that has cloned a machine -> the last operation that was to delete it."""
    _clones: dict[int, VcenterOperation] = field(default_factory=dict)
    _clone_of_removal: dict[int, int] = field(default_factory=dict)

    def apply(self, event: Event, *, is_ours: bool) -> None:
        """Takes an event. `is_ours` says whether the machine, if the event is about one, is of a node pool."""
        match event:
            case VcenterDeleted():
                self.deleted_vcenters.add(event.vcenter_id)
            case VcenterOperationRequested(kind="delete") if event.vm_name:
                clone_id = find_operation_id(event.vm_name)
                if clone_id in self._clones:
                    self._clone_of_removal[event.operation_id] = clone_id
                    self._fold(self.removals, clone_id, event)
            case VcenterOperationEvent() if event.operation_id in self._clone_of_removal:
                self._fold(self.removals, self._clone_of_removal[event.operation_id], event)
            case VcenterOperationEvent() if is_ours:
                self._fold(self._clones, event.operation_id, event)
            case _:
                pass

    def find(self, clone_id: int, *, is_leaving: bool) -> ClonedMachine | None:
        """Returns the machine that an operation clones; None if it is gone. `is_leaving` says whether it was decided
        that it goes: one that could not be made is gone from then on.
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
        until = clone.end.at + BOOT_TIMEOUT
        if isinstance(clone.end, VcenterOperationFailed):
            return ClonedMachine("error", pending, clone.end.error, clone.node_id, until)
        return ClonedMachine("running", pending, "", clone.node_id, until)

    def forget(self, clone_id: int) -> None:
        """Forgets a machine that is gone."""
        self._clones.pop(clone_id, None)
        if (removal := self.removals.pop(clone_id, None)) is not None:
            self._clone_of_removal.pop(removal.operation_id, None)

    def _fold(self, states: dict[int, VcenterOperation], key: int, event: VcenterOperationEvent) -> None:
        state = VCENTER_OPERATION.evolve(states.get(key), event)
        if state is not None:
            states[key] = state
