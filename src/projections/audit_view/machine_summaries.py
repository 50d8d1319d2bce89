"""Summaries of events about machines on demand: vCenters. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import vcenter, vcenter_operations, vcenter_vms
from domain.core.events import Event

REQUESTS: Mapping[vcenter_operations.Kind, str] = {
    "test": "asked whether vCenter {vcenter_id} can be reached",
    "sync": "asked for the virtual machines of vCenter {vcenter_id}",
    "power_on": "asked vCenter {vcenter_id} to power {vm_id} on",
    "power_off": "asked vCenter {vcenter_id} to power {vm_id} off",
    "reboot": "asked vCenter {vcenter_id} to reboot {vm_id}",
    "suspend": "asked vCenter {vcenter_id} to suspend {vm_id}",
}


def _requested(event: vcenter_operations.VcenterOperationRequested) -> str:
    return REQUESTS[event.kind].format(vcenter_id=event.vcenter_id, vm_id=event.vm_id)


MACHINE_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    vcenter.VcenterCreated: "created vCenter {vcenter_id}{title: “}",
    vcenter.VcenterUpdated: "changed vCenter {vcenter_id}",
    vcenter.VcenterConnected: "signed in to vCenter {vcenter_id}, version {version}",
    vcenter.VcenterDisconnected: "could not sign in to vCenter {vcenter_id}{error:: “}",
    vcenter.VcenterDeleted: "deleted vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationRequested: _requested,
    vcenter_operations.VcenterOperationStarted: "began operation {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationCompleted: "completed operation {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationFailed: "could not complete operation {operation_id} on vCenter"
    " {vcenter_id}{error:: “}",
    vcenter_vms.VcenterVmsChanged: lambda event: (
        f"noticed changes of virtual machines of vCenter {event.vcenter_id}: {len(event.changed)} new or changed,"
        f" {len(event.removed)} gone"
    ),
}
