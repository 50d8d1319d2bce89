"""Operations on a vCenter: what somebody asked for, and how it ended. A worker carries them out.

Each operation has its own stream, so loading the state of the vCenter does not load its operations.
"""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import vcenter_key
from domain.core.events import Category, Event, copy_fields
from domain.vcenter_vms import PowerState

Kind = Literal["test", "sync", "power_on", "power_off", "reboot", "suspend", "clone", "revert", "delete"]
"""Kind of operation. The values are stored, so they must not change."""
MACHINE_ID_PREFIX = "vm-"
VM_NAME_PREFIX = "testhide-"
FIRST_REGISTRATION = "0"
"""Id of the first registration of each machine."""
CARRYING_OUT = "carry_out_a_vcenter_operation"
"""Name of the reaction that carries out operations. The name is stored, so it must not change."""
Failure = Literal["missing", "refused", "outside", "timeout"]
"""Why an operation failed. `missing`: the vCenter does not have the object. `refused`: the object's state forbids the
operation. `outside`: the vCenter failed or could not be reached. `timeout`: the operation did not end in time. These
values are stored, so they must not change.
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
    vm_id: str = ""
    """Id of the virtual machine, or of the template to clone; empty for an operation on the whole vCenter."""
    vm_name: str = ""
    """For a clone: name of the new machine (`make_vm_name`). It is chosen when the clone is requested, so that a second
    try finds the machine of the first try. For a deletion or revert by autoscaling: name of the machine; such a
    deletion has no `vm_id`. Empty for any other operation.
    """

    pool_id: int | None = None
    """Id of the node pool that the new machine's node joins; None for no pool."""
    single_use: bool = False
    """Whether the new machine's node gets one build at most (`domain.autoscaling`)."""


class VcenterOperationStarted(VcenterOperationEvent, frozen=True):
    """A worker is about to ask the vCenter for the change, or the vCenter has begun it as a task."""

    name: ClassVar[str] = "vcenter.operation_started"
    task_id: str = ""
    """Id of the vCenter's task; empty until the vCenter has answered."""


class VcenterOperationCompleted(VcenterOperationEvent, frozen=True):
    name: ClassVar[str] = "vcenter.operation_completed"
    version: str = ""
    """Version of the vCenter; empty unless the operation is a test."""
    latency_ms: int = 0
    """Milliseconds that the vCenter took to answer; 0 unless the operation is a test."""
    synced_vms: int = 0
    """Number of machines that the vCenter has; 0 unless the operation is a sync."""
    updated: int = 0
    """Number of machines that were new, changed or gone; 0 unless the operation is a sync."""
    duration_ms: int = 0
    """Duration of the sync in milliseconds; 0 unless the operation is a sync."""
    vm_id: str = ""
    power_state: PowerState | None = None
    """Power state of the machine after the operation; None for an operation on the whole vCenter."""

    @property
    def notifies(self) -> str:
        return end_notification(self.operation_id)


class VcenterMachineRegistered(VcenterOperationEvent, frozen=True):
    """The agent in a cloned machine has used its registration token: from now on it is the agent of the node."""

    name: ClassVar[str] = "vcenter.machine_registered"
    sealed: ClassVar[tuple[str, ...]] = ("token_hash",)
    node_id: int
    token_hash: bytes = b""


class VcenterRegistrationRenewed(VcenterOperationEvent, frozen=True):
    """The machine that this operation has cloned was reverted and gets a new registration token. Its earlier tokens are
    invalid.
    """

    name: ClassVar[str] = "vcenter.registration_renewed"
    registration_id: str
    registration_until: datetime


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
    vm_id: str = ""
    vm_name: str = ""
    pool_id: int | None = None
    single_use: bool = False
    node_id: int | None = None
    """Id of the cloned machine's node; None until its agent has registered."""
    registration_id: str = FIRST_REGISTRATION
    """Id of the cloned machine's current registration, which its registration token contains."""
    registration_until: datetime | None = None
    """Time until which the current registration token is valid; None before the first renewal."""
    token_hash: bytes = b""
    """Hash of the node token that the registration token was exchanged for; empty before the exchange."""
    is_started: bool = False
    """Whether a worker may have asked the vCenter for the change."""
    task_id: str = ""
    """Id of the vCenter's task; empty if there is none, or if the vCenter's answer was lost."""
    end: OperationEnd | None = None
    """The event that ended the operation; None while it is under way."""


def evolve(state: VcenterOperation | None, event: Event) -> VcenterOperation | None:
    match event:
        case VcenterOperationRequested():
            return copy_fields(VcenterOperation, event, requested_at=event.at)
        case VcenterMachineRegistered() if state is not None:
            return msgspec.structs.replace(state, node_id=event.node_id, token_hash=event.token_hash)
        case VcenterRegistrationRenewed() if state is not None:
            renewed = {"registration_id": event.registration_id, "registration_until": event.registration_until}
            return msgspec.structs.replace(state, **renewed, token_hash=b"")
        case VcenterOperationStarted() if state is not None:
            return msgspec.structs.replace(state, is_started=True, task_id=event.task_id)
        case VcenterOperationCompleted() | VcenterOperationFailed() if state is not None:
            return msgspec.structs.replace(state, end=event)
        case _:
            return state


def make_vm_name(operation_id: int, mark: str) -> str:
    """Returns the name of the machine that an operation clones. `mark` is random, so that another server that uses the
    same vCenter makes no machine of this name.
    """
    return f"{VM_NAME_PREFIX}{operation_id}-{mark}"


def find_operation_id(vm_name: str) -> int | None:
    """Returns the id of the operation that cloned the machine of this name; None if `make_vm_name` did not make the
    name.
    """
    number = vm_name.removeprefix(VM_NAME_PREFIX).partition("-")[0]
    is_made = vm_name.startswith(VM_NAME_PREFIX) and number.isascii() and number.isdigit() and len(number) < 16
    return int(number) if is_made else None


def make_machine_id(operation_id: int) -> str:
    """Returns the id of the machine that an operation clones. Its registration token contains this id."""
    return f"{MACHINE_ID_PREFIX}{operation_id}"


def read_machine_id(machine_id: str) -> int | None:
    """Returns the id of the operation that clones the machine with this id; None if it is not the id of a virtual
    machine.
    """
    number = machine_id.removeprefix(MACHINE_ID_PREFIX)
    is_ours = machine_id.startswith(MACHINE_ID_PREFIX) and number.isascii() and number.isdigit() and len(number) < 16
    return int(number) if is_ours else None


def has_failed(operation: VcenterOperation) -> bool:
    return isinstance(operation.end, VcenterOperationFailed)


def has_succeeded(operation: VcenterOperation) -> bool:
    return isinstance(operation.end, VcenterOperationCompleted)


def end_notification(operation_id: int) -> str:
    """Returns the payload of the notification that wakes the API requests which wait for the end of an operation."""
    return f"vcenter-operation:{operation_id}"


VCENTER_OPERATION = Category[VcenterOperation | None]("vcenter-operation", None, evolve)
EVENTS = (
    VcenterOperationRequested,
    VcenterOperationStarted,
    VcenterMachineRegistered,
    VcenterRegistrationRenewed,
    VcenterOperationCompleted,
    VcenterOperationFailed,
)
