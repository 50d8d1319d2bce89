"""Begins tasks on virtual machines, and reads their states. All functions block, and raise the errors of pyVmomi or
VcenterFailure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pyVmomi import vim, vmodl

from domain.vcenter_vms import PowerAction
from integrations.vcenter.inventory import find_datacenter, must_be_short, read_all, read_one
from integrations.vcenter_ports import NewMachine, TaskState, VcenterMissing, VcenterRejected

PREFIX = "guestinfo.testhide."
"""Beginning of the names of the texts that the server gives to programs in a machine."""


def start_power_action(vm: Any, action: PowerAction) -> str | None:
    match action:
        case "power_on":
            return _id(vm.PowerOnVM_Task())
        case "power_off":
            return _id(vm.PowerOffVM_Task())
        case "suspend":
            return _id(vm.SuspendVM_Task())
        case "reboot":
            return _reboot(vm)


def _reboot(vm: Any) -> str | None:
    """Reboots a machine by its guest tools, and returns None. If the guest tools do not run, resets the machine, and
    returns the id of the task.
    """
    try:
        vm.RebootGuest()
    except (vim.fault.ToolsUnavailable, vmodl.fault.NotSupported, vmodl.fault.MethodNotFound):
        return _id(vm.ResetVM_Task())
    return None


def start_clone(content: Any, datacenter: str, cluster: str, template: Any, machine: NewMachine) -> str:
    top = find_datacenter(content, datacenter)
    relocation = vim.vm.RelocateSpec(pool=_find_pool(content, top, cluster, template))
    config = vim.vm.ConfigSpec(annotation=machine.annotation, extraConfig=_to_options(machine.guestinfo))
    spec = vim.vm.CloneSpec(location=relocation, config=config, powerOn=False, template=False)
    return _id(template.CloneVM_Task(template.parent or top.vmFolder, machine.name, spec))


def _find_pool(content: Any, top: Any, cluster: str, template: Any) -> Any:
    """Returns the resource pool for a new machine: the pool of `cluster`, or the pool of the template if `cluster` is
    empty. For a template without a pool, returns the pool of the template's host. Raises VcenterRejected if the
    template has no host.
    """
    if cluster:
        return find_cluster_pool(content, top, cluster)
    if template.resourcePool is not None:
        return template.resourcePool
    if template.runtime.host is None:
        raise VcenterRejected("The template is on no host: give the integration a `cluster`.")
    return template.runtime.host.parent.resourcePool


def find_cluster_pool(content: Any, top: Any, cluster: str) -> Any:
    """Returns the resource pool of a cluster. Raises VcenterMissing if the datacenter `top` has no such cluster."""
    for _, properties in read_all(content, top, vim.ComputeResource, ("name", "resourcePool")):
        if properties.get("name") == cluster:
            return properties["resourcePool"]
    raise VcenterMissing(f"The datacenter has no cluster {cluster!r}, or the account may not see it.")


def start_snapshot(vm: Any, name: str) -> str:
    return _id(vm.CreateSnapshot_Task(name, "", False, False))


def start_revert(vm: Any, name: str) -> str:
    snapshots = [] if vm.snapshot is None else list(_flatten(vm.snapshot.rootSnapshotList))
    named = [one for one in snapshots if one.name == name]
    if not named:
        raise VcenterMissing(f"Machine {vm._moId} has no snapshot {name!r}.")
    newest = max(named, key=lambda one: one.createTime)
    return _id(newest.snapshot.RevertToSnapshot_Task())


def start_reconfiguration(vm: Any, guestinfo: Mapping[str, str]) -> str:
    return _id(vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=_to_options(guestinfo))))


def start_deletion(vm: Any) -> str:
    return _id(vm.Destroy_Task())


def read_task(content: Any, task: Any) -> TaskState:
    """Returns the state of a task. Raises the error of a task that failed."""
    info = read_one(content, task, ("info.state", "info.progress", "info.error", "info.result"))
    if info["info.state"] == vim.TaskInfo.State.error:
        raise info["info.error"]
    if info["info.state"] != vim.TaskInfo.State.success:
        return TaskState(False, info.get("info.progress") or 0)
    made: Any = info.get("info.result")
    return TaskState(True, 100, _id(made) if isinstance(made, vim.VirtualMachine) else "")


def _to_options(guestinfo: Mapping[str, str]) -> list[Any]:
    return [vim.option.OptionValue(key=f"{PREFIX}{name}", value=text) for name, text in guestinfo.items()]


def _flatten(snapshots: Any) -> Iterator[Any]:
    for one in snapshots:
        yield one
        yield from _flatten(one.childSnapshotList)


def _id(found: Any) -> str:
    return must_be_short(found._moId)
