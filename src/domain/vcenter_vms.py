"""Virtual machines of a vCenter, as the server knows them: its inventory."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import vcenter_key
from domain.core.events import Category, Event

PowerState = Literal["powered_on", "powered_off", "suspended"]
"""Power state of a virtual machine. These values are stored, so they must not change."""
PowerAction = Literal["power_on", "power_off", "reboot", "suspend"]


class VirtualMachine(msgspec.Struct, frozen=True):
    vm_id: str
    """Managed object id that the vCenter gave the machine, such as `vm-1042`."""
    name: str
    power_state: PowerState
    resource_pool: str = ""
    """Name of the machine's resource pool; empty for a template, which has none."""
    is_template: bool = False


class VcenterVmsChanged(Event, frozen=True):
    """The server noticed machines that are new, changed or gone."""

    name: ClassVar[str] = "vcenter.vms_changed"
    sealed: ClassVar[tuple[str, ...]] = ("changed",)
    vcenter_id: int
    changed: list[VirtualMachine] = []
    """Machines that are new or changed, as they are now."""
    removed: list[str] = []
    """Ids of the machines that are gone."""

    @property
    def stream(self) -> str:
        return f"vcenter-vms-{self.vcenter_id}"

    @property
    def data_key(self) -> str | None:
        return vcenter_key(self.vcenter_id)


Inventory = Mapping[str, VirtualMachine]
"""Id of a machine -> machine."""


def evolve(state: Inventory, event: Event) -> Inventory:
    match event:
        case VcenterVmsChanged():
            kept = {vm_id: vm for vm_id, vm in state.items() if vm_id not in event.removed}
            return kept | {vm.vm_id: vm for vm in event.changed}
        case _:
            return state


def find_changes(known: Inventory, vms: Iterable[VirtualMachine]) -> tuple[list[VirtualMachine], list[str]]:
    """Returns the machines that are new or changed, and the ids of those that are gone."""
    found = {vm.vm_id: vm for vm in vms}
    return [vm for vm in found.values() if known.get(vm.vm_id) != vm], [vm_id for vm_id in known if vm_id not in found]


VCENTER_VMS = Category[Inventory]("vcenter-vms", {}, evolve)
EVENTS = (VcenterVmsChanged,)
