"""Summaries of events about machines on demand: vCenters. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import vcenter, vcenter_operations
from domain.core.events import Event

REQUESTS: Mapping[vcenter_operations.Kind, str] = {
    "test": "asked whether vCenter {} can be reached",
}


def _requested(event: vcenter_operations.VcenterOperationRequested) -> str:
    return REQUESTS[event.kind].format(event.vcenter_id)


MACHINE_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    vcenter.VcenterCreated: "created vCenter {vcenter_id}{title: “}",
    vcenter.VcenterUpdated: "changed vCenter {vcenter_id}",
    vcenter.VcenterConnected: "signed in to vCenter {vcenter_id}, version {version}",
    vcenter.VcenterDisconnected: "could not sign in to vCenter {vcenter_id}{error:: “}",
    vcenter.VcenterDeleted: "deleted vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationRequested: _requested,
    vcenter_operations.VcenterOperationCompleted: "completed operation {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationFailed: "could not complete operation {operation_id} on vCenter"
    " {vcenter_id}{error:: “}",
}
