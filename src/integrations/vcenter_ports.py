"""Interface to vCenter servers. `integrations.ports` has the interfaces to other outside systems."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from domain.vcenter import Vcenter
from domain.vcenter_vms import PowerAction, VirtualMachine


class VcenterFailure(Exception):
    """A call of a vCenter failed. The message is a sentence that names the vCenter and the reason, without secrets.

    VcenterFailure
        ├── VcenterUnavailable   a later try may succeed
        ├── VcenterRejected      a later try succeeds only after somebody has changed the vCenter or the integration
        ├── VcenterMissing       the vCenter has no such object
        └── VcenterStateForbids  the state of the object forbids the call, such as the power state of a machine
    """


class VcenterUnavailable(VcenterFailure):
    pass


class VcenterRejected(VcenterFailure):
    pass


class VcenterMissing(VcenterFailure):
    pass


class VcenterStateForbids(VcenterFailure):
    pass


@dataclass(frozen=True)
class TaskState:
    """State of a task. A task is work that a vCenter carries out in the background."""

    is_done: bool
    progress: int = 0
    """Percentage of the work that is done."""
    vm_id: str = ""
    """Id of the machine that the task has made; empty for other tasks."""


@dataclass(frozen=True)
class NewMachine:
    """A virtual machine to clone from a template."""

    name: str
    template_id: str
    annotation: str
    guestinfo: Mapping[str, str] = field(repr=False)
    """Texts that programs in the machine can read: name -> text. They may be secret."""


class VcenterSession(Protocol):
    """A session of a signed-in user. Each call takes 10 s at most, unless stated otherwise, and raises
    VcenterFailure.
    """

    @property
    def version(self) -> str:
        """Version of the vCenter, such as `8.0.2`."""
        ...

    @property
    def latency_ms(self) -> int:
        """Milliseconds that the vCenter took to answer the first request, connecting included."""
        ...

    async def check(self) -> None:
        """Raises VcenterMissing if the account does not see the integration's datacenter and cluster."""
        ...

    async def fetch_vms(self) -> Sequence[VirtualMachine]:
        """Returns all machines and templates of the integration's datacenter. Takes 120 s at most."""
        ...

    async def find_vm(self, vm_id: str) -> VirtualMachine:
        """Returns a machine. Raises VcenterMissing if the integration's datacenter has no such machine."""
        ...

    async def find_vm_by_name(self, name: str) -> VirtualMachine | None: ...

    async def start_power_action(self, vm_id: str, action: PowerAction) -> str | None:
        """Begins to change the power state of a machine. Returns the id of the task; None if the vCenter makes
        no task.
        """
        ...

    async def start_clone(self, machine: NewMachine) -> str:
        """Begins to make a machine from a template. The new machine is powered off. Returns the id of the task. Raises
        VcenterStateForbids if there is already a machine of this name.
        """
        ...

    async def start_snapshot(self, vm_id: str, name: str) -> str:
        """Begins to take a snapshot of a machine's disks. Returns the id of the task."""
        ...

    async def start_revert(self, vm_id: str, name: str) -> str:
        """Begins to revert a machine to its newest snapshot of this name. Returns the id of the task. Raises
        VcenterMissing if there is no such snapshot.
        """
        ...

    async def start_reconfiguration(self, vm_id: str, guestinfo: Mapping[str, str]) -> str:
        """Begins to set texts that programs in the machine can read: name -> text. Returns the id of the task."""
        ...

    async def start_deletion(self, vm_id: str) -> str:
        """Begins to delete a machine, which must be powered off, with its disks. Returns the id of the task."""
        ...

    async def read_task(self, task_id: str) -> TaskState:
        """Returns the state of a task. Raises VcenterMissing if the vCenter does not know the task any more, and
        another VcenterFailure if the task failed.
        """
        ...


class Vcenters(Protocol):
    """Signs in to the vCenters of integrations."""

    async def check_host(self, host: str, *, is_admin: bool) -> None:
        """Raises Invalid if the text is no host, or if the host may not be called. Does not call the host."""
        ...

    def sign_in(self, vcenter: Vcenter) -> AbstractAsyncContextManager[VcenterSession]:
        """Context manager that signs in to the vCenter of an integration, and signs out at the end of the block.
        Signing in takes 10 s at most, and raises VcenterFailure.
        """
        ...
