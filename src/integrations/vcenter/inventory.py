"""Reads the virtual machines of a datacenter. All functions block, and raise the errors of pyVmomi or VcenterFailure.

`content` is the ServiceContent of a signed-in session.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim, vmodl

from domain.vcenter_vms import PowerState, VirtualMachine
from integrations.vcenter_ports import VcenterMissing, VcenterRejected

PAGE_SIZE = 500
"""Number of objects that are read at once."""
MAX_OBJECTS = 50_000
"""Largest number of objects of a kind that are read. No vCenter can have so many machines."""
MAX_TEXT_LENGTH = 300
"""Largest number of characters of an id or a name. Names in a vCenter have at most 80, and `%2f` stands for a slash."""
MAX_DEPTH = 100
"""Largest number of folders between a machine and its datacenter."""
VM_PROPERTIES = ("name", "runtime.powerState", "config.template", "resourcePool")
COLLECTOR = vmodl.query.PropertyCollector
POWER_STATES: dict[str, PowerState] = {
    "poweredOn": "powered_on",
    "poweredOff": "powered_off",
    "suspended": "suspended",
}


def find_datacenter(content: Any, name: str) -> Any:
    """Returns the datacenter of this name, which may be in folders. Raises VcenterMissing."""
    for datacenter, properties in read_all(content, content.rootFolder, vim.Datacenter, ("name",)):
        if unquote(properties.get("name", "")) == name:
            return datacenter
    raise VcenterMissing(f"The vCenter has no datacenter {name!r}, or the account may not see it.")


def read_vms(content: Any, datacenter: str) -> Sequence[VirtualMachine]:
    """Returns all machines and templates of a datacenter."""
    top = find_datacenter(content, datacenter)
    pools = {
        pool: must_be_short(properties.get("name", ""))
        for pool, properties in read_all(content, top, vim.ResourcePool, ("name",))
    }
    return [
        _to_vm(vm, properties, pools) for vm, properties in read_all(content, top, vim.VirtualMachine, VM_PROPERTIES)
    ]


def read_vm(content: Any, datacenter: str, vm: Any) -> VirtualMachine:
    """Returns a machine of a datacenter. Raises VcenterMissing if the datacenter has no such machine."""
    must_be_in(content, datacenter, vm)
    pool = vm.resourcePool
    config = vm.config
    properties = {
        "name": vm.name,
        "runtime.powerState": vm.runtime.powerState,
        "config.template": config is not None and config.template,
        "resourcePool": pool,
    }
    return _to_vm(vm, properties, {} if pool is None else {pool: pool.name})


def find_vm_by_name(content: Any, datacenter: str, name: str) -> VirtualMachine | None:
    for vm in read_vms(content, datacenter):
        if vm.name == name:
            return vm
    return None


def must_be_in(content: Any, datacenter: str, vm: Any) -> None:
    """Raises VcenterMissing if the datacenter has no machine `vm`."""
    top = find_datacenter(content, datacenter)
    try:
        above = vm.parent or vm.parentVApp
        for _ in range(MAX_DEPTH):
            if above is None or above == top:
                break
            above = getattr(above, "parentFolder", None) or above.parent
    except vmodl.fault.ManagedObjectNotFound:
        above = None
    if above != top:
        raise VcenterMissing(f"Datacenter {datacenter!r} has no machine {vm._moId}.")


def read_all(content: Any, top: Any, kind: Any, properties: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields all objects of a kind below `top`, each with its values of the given properties. Leaves out properties
    that an object lacks.
    """
    view = content.viewManager.CreateContainerView(top, [kind], True)
    try:
        path = COLLECTOR.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        start = COLLECTOR.ObjectSpec(obj=view, skip=True, selectSet=[path])
        for number, found in enumerate(_retrieve(content, start, kind, properties)):
            if number == MAX_OBJECTS:
                raise VcenterRejected(f"The vCenter lists more than {MAX_OBJECTS:,} objects of one kind.")
            yield found
    finally:
        view.DestroyView()


def read_one(content: Any, found: Any, properties: Sequence[str]) -> dict[str, Any]:
    """Returns an object's values of the given properties. Leaves out properties that the object lacks. Raises
    ManagedObjectNotFound if the vCenter does not return the object.
    """
    for _, values in _retrieve(content, COLLECTOR.ObjectSpec(obj=found), type(found), properties):
        return values
    raise vmodl.fault.ManagedObjectNotFound(obj=found)


def _retrieve(content: Any, start: Any, kind: Any, properties: Sequence[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    wanted = COLLECTOR.FilterSpec(
        objectSet=[start], propSet=[COLLECTOR.PropertySpec(type=kind, pathSet=list(properties))]
    )
    reader = content.propertyCollector
    page = reader.RetrievePropertiesEx([wanted], COLLECTOR.RetrieveOptions(maxObjects=PAGE_SIZE))
    while page is not None:
        for found in page.objects:
            yield found.obj, {one.name: one.val for one in found.propSet}
        page = reader.ContinueRetrievePropertiesEx(page.token) if page.token else None


def _to_vm(vm: Any, properties: dict[str, Any], pools: dict[Any, str]) -> VirtualMachine:
    return VirtualMachine(
        vm_id=must_be_short(vm._moId),
        name=unquote(must_be_short(properties.get("name", ""))),
        power_state=POWER_STATES.get(str(properties.get("runtime.powerState")), "powered_off"),
        resource_pool=unquote(must_be_short(pools.get(properties.get("resourcePool"), ""))),
        is_template=bool(properties.get("config.template", False)),
    )


def must_be_short(text: str) -> str:
    """Returns an id or a name of a vCenter unchanged. Raises ValueError if it is longer than MAX_TEXT_LENGTH, since the
    server stores it.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"a text of {len(text)} characters")
    return text
