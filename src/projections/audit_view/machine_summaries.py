"""Summaries of events about machines on demand: Docker agents and vCenters. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import autoscaling, docker_agents, vcenter, vcenter_operations, vcenter_vms
from domain.core.events import Event
from domain.phrases import count

REQUESTS: Mapping[vcenter_operations.Kind, str] = {
    "test": "asked whether vCenter {vcenter_id} can be reached",
    "sync": "asked for the virtual machines of vCenter {vcenter_id}",
    "power_on": "asked vCenter {vcenter_id} to power {vm_id} on",
    "power_off": "asked vCenter {vcenter_id} to power {vm_id} off",
    "reboot": "asked vCenter {vcenter_id} to reboot {vm_id}",
    "clone": "asked vCenter {vcenter_id} to clone {vm_id} as {vm_name}",
    "revert": "asked vCenter {vcenter_id} to revert {vm_id} to its first state",
    "delete": "asked vCenter {vcenter_id} to delete {vm_id}",
    "suspend": "asked vCenter {vcenter_id} to suspend {vm_id}",
}


def _requested(event: vcenter_operations.VcenterOperationRequested) -> str:
    # Autoscaling deletes a machine by its name.
    vm_id = event.vm_id or event.vm_name
    return REQUESTS[event.kind].format(vcenter_id=event.vcenter_id, vm_id=vm_id, vm_name=event.vm_name)


def _scaled_up(event: autoscaling.PoolScaledUp) -> str:
    return f"spawned {count(len(event.machine_ids), 'machine')} for node pool {event.pool_id}, since {event.reason}"


MACHINE_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    vcenter.VcenterCreated: "created vCenter {vcenter_id}{title: “}",
    vcenter.VcenterUpdated: "changed vCenter {vcenter_id}",
    vcenter.VcenterConnected: "signed in to vCenter {vcenter_id}, version {version}",
    vcenter.VcenterDisconnected: "could not sign in to vCenter {vcenter_id}{error:: “}",
    vcenter.VcenterDeleted: "deleted vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationRequested: _requested,
    vcenter_operations.VcenterOperationStarted: "began operation {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationCompleted: "completed operation {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterMachineRegistered: "registered as node {node_id} from the machine of operation"
    " {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterRegistrationRenewed: "handed a new registration token to the machine of operation"
    " {operation_id} on vCenter {vcenter_id}",
    vcenter_operations.VcenterOperationFailed: "could not complete operation {operation_id} on vCenter"
    " {vcenter_id}{error:: “}",
    vcenter_vms.VcenterVmsChanged: lambda event: (
        f"noticed changes of virtual machines of vCenter {event.vcenter_id}: {len(event.changed)} new or changed,"
        f" {len(event.removed)} gone"
    ),
    autoscaling.AutoscalingSet: "set that node pool {pool_id} has {minimum} to {maximum} machines",
    autoscaling.AutoscalingRemoved: "ended the scaling of node pool {pool_id}",
    autoscaling.PoolScaledUp: _scaled_up,
    autoscaling.PoolScaledDown: "asked to destroy machine {machine_id} of node pool {pool_id}, since {reason}",
    autoscaling.PoolMachineReverted: "asked to revert machine {machine_id} of node pool {pool_id}, since {reason}",
    autoscaling.PoolScalingFailed: "saw that machine {machine_id} of node pool {pool_id} failed{error:: “}",
    autoscaling.PoolMachineRemoved: "saw that machine {machine_id} of node pool {pool_id} is gone",
    docker_agents.DockerAgentRequested: "asked for Docker agent {agent_id} from image {image} on Docker host {host}",
    docker_agents.DockerAgentRegistered: "registered as node {node_id} from the container of Docker agent {agent_id}",
    docker_agents.DockerAgentStarted: "saw the container of Docker agent {agent_id} start",
    docker_agents.DockerAgentStopped: "saw the container of Docker agent {agent_id} end with exit code {exit_code}",
    docker_agents.DockerAgentFailed: "saw that Docker agent {agent_id} failed{error:: “}",
    docker_agents.DockerAgentStartRequested: "asked to start Docker agent {agent_id}",
    docker_agents.DockerAgentStopRequested: "asked to stop Docker agent {agent_id}",
    docker_agents.DockerAgentDestroyRequested: "asked to destroy Docker agent {agent_id}",
    docker_agents.DockerAgentDestroyed: "removed the container of Docker agent {agent_id}",
}
