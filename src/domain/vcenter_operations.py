"""Operations on a vCenter: what somebody asked for, and how it ended. A worker carries them out.

Each operation has its own stream, so loading the state of the vCenter does not load its operations.
"""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import vcenter_key
from domain.core.events import Category, Event

Kind = Literal["test"]
"""Kind of operation. These values are stored, so they must not change."""
Failure = Literal["missing", "refused", "outside", "timeout"]
"""Why an operation failed: the vCenter does not have the object, the object's state forbids it, the vCenter failed or
could not be reached, or it did not end in time. These values are stored, so they must not change.
"""


class VcenterOperationEvent(Event, frozen=True):
    operation_id: int
    vcenter_id: int

    @property
    def stream(self) -> str:
        return f"vcenter-operation-{self.operation_id}"

    @property
    def data_key(self) -> str | None:
        return vcenter_key(self.vcenter_id)


class VcenterOperationRequested(VcenterOperationEvent, frozen=True):
    name: ClassVar[str] = "vcenter.operation_requested"
    kind: Kind


class VcenterOperationCompleted(VcenterOperationEvent, frozen=True):
    name: ClassVar[str] = "vcenter.operation_completed"
    version: str = ""
    """Version of the vCenter; empty unless the operation is a test."""
    latency_ms: int = 0
    """Milliseconds that the vCenter took to answer; 0 unless the operation is a test."""

    @property
    def notifies(self) -> str:
        return end_notification(self.operation_id)


class VcenterOperationFailed(VcenterOperationEvent, frozen=True):
    name: ClassVar[str] = "vcenter.operation_failed"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    failure: Failure
    error: str = ""
    """A sentence that says what is wrong, without secrets."""

    @property
    def notifies(self) -> str:
        return end_notification(self.operation_id)


OperationEnd = VcenterOperationCompleted | VcenterOperationFailed


class VcenterOperation(msgspec.Struct, frozen=True):
    operation_id: int
    vcenter_id: int
    kind: Kind
    requested_at: datetime
    end: OperationEnd | None = None
    """The event that ended the operation; None while it is under way."""


def evolve(state: VcenterOperation | None, event: Event) -> VcenterOperation | None:
    match event:
        case VcenterOperationRequested():
            return VcenterOperation(event.operation_id, event.vcenter_id, event.kind, event.at)
        case VcenterOperationCompleted() | VcenterOperationFailed() if state is not None:
            return msgspec.structs.replace(state, end=event)
        case _:
            return state


def end_notification(operation_id: int) -> str:
    """Returns the payload that wakes the API requests which wait for the end of an operation."""
    return f"vcenter-operation:{operation_id}"


VCENTER_OPERATION = Category[VcenterOperation | None]("vcenter-operation", None, evolve)
EVENTS = (VcenterOperationRequested, VcenterOperationCompleted, VcenterOperationFailed)
