"""Autoscaling of node pools: machines are spawned when builds wait for a pool, and destroyed when they are idle.

Each pool has a stream with its setting, the decisions, and the machines that the decisions have spawned. A machine
counts towards the pool's maximum until it is removed. Two decisions from the same state cannot both be appended, so
dispatchers together never spawn more machines than the maximum.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec

from domain.core.events import UNSTAMPED, Category, Event

Cause = Literal["idle", "used", "surplus"]
"""Why a machine is destroyed. `idle`: it had no build for the idle time. `used`: it has had its only build, and is not
reverted. `surplus`: the pool may not have the machine any more, since the maximum was lowered, or the pool was deleted
or is not scaled any more.
"""


class DockerSource(msgspec.Struct, frozen=True):
    """Machines are containers on a Docker host."""

    host: str
    """Name of the Docker host, as the operator has configured it."""
    image: str
    memory_mb: int | None = None
    cpus: float | None = None


class VcenterSource(msgspec.Struct, frozen=True):
    """Machines are virtual machines that are cloned from a template of a vCenter."""

    vcenter_id: int
    """Id of the vCenter integration."""
    template_id: str
    """Id that the vCenter has for the template, such as `vm-42`."""


class AutoscalingEvent(Event, frozen=True):
    pool_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"autoscaling-{self.pool_id}"


class AutoscalingSet(AutoscalingEvent, frozen=True):
    """The pool is scaled from now on, with this setting."""

    name: ClassVar[str] = "node_pool.autoscaling_set"
    class_version: ClassVar[int] = 2
    minimum: int
    maximum: int
    idle_s: int
    docker: DockerSource | None = None
    """Docker host and image of the containers; None if the machines are no containers."""
    vcenter: VcenterSource | None = None
    """Template from which virtual machines are cloned; None if the machines are no virtual machines. A pool has one
    kind of machine.
    """
    single_use: bool = False
    """Whether each machine runs only one build. After it, a container is destroyed, and a virtual machine is reverted.
    """


def with_optional_source(first: dict[str, Any]) -> dict[str, Any]:
    """Upcasts version 1 of `node_pool.autoscaling_set`, in which all machines were containers, to version 2."""
    return first


class AutoscalingRemoved(AutoscalingEvent, frozen=True):
    """The pool is not scaled any more. Its machines go as soon as they run no build."""

    name: ClassVar[str] = "node_pool.autoscaling_removed"


class PoolScaledUp(AutoscalingEvent, frozen=True):
    """Machines are to be spawned. Further events, appended at the same time, request one machine each."""

    name: ClassVar[str] = "node_pool.scaled_up"
    machine_ids: list[str]
    waiting: int
    """Number of queued builds that no machine or node was free for."""
    reason: str


class PoolScaledDown(AutoscalingEvent, frozen=True):
    """A machine on which no build ran is to be destroyed. Another event, appended at the same time, requests that."""

    name: ClassVar[str] = "node_pool.scaled_down"
    machine_id: str
    cause: Cause
    reason: str
    idle_since: datetime | None = None
    """Time since which the machine had no build; None if it was not online yet."""


class PoolMachineReverted(AutoscalingEvent, frozen=True):
    """A virtual machine that has had its build is to be reverted to its snapshot. Another event, appended at the same
    time, requests that. The machine takes another build once its agent has registered again.
    """

    name: ClassVar[str] = "node_pool.machine_reverted"
    machine_id: str
    reason: str


class PoolScalingFailed(AutoscalingEvent, frozen=True):
    """A machine failed. No machines are spawned until `retry_at`."""

    name: ClassVar[str] = "node_pool.scaling_failed"
    machine_id: str
    error: str
    failures: int
    """Number of failures of machines since a build last ended on a machine of the pool. A failure during the pause that
    an earlier failure caused is not counted.
    """
    retry_at: datetime
    destroys: bool = True
    """Whether the machine is destroyed. If False, the machine's worker still tries to spawn it."""


class PoolMachineRemoved(AutoscalingEvent, frozen=True):
    """A machine is gone. It no longer counts towards the pool's maximum."""

    name: ClassVar[str] = "node_pool.machine_removed"
    machine_id: str


class Autoscaling(msgspec.Struct, frozen=True):
    """State of a pool's autoscaling."""

    setting: AutoscalingSet | None = None
    project_id: int = 0
    machines: Mapping[str, bool] = {}
    """Machine id -> whether it is being destroyed, for all machines that are not removed yet."""
    failures: int = 0
    retry_at: datetime = UNSTAMPED

    @property
    def kept(self) -> list[str]:
        """Ids of the machines that are not being destroyed."""
        return [machine_id for machine_id, leaves in self.machines.items() if not leaves]

    @property
    def room(self) -> int:
        """Number of machines that can be spawned before the maximum is reached."""
        return 0 if self.setting is None else max(0, self.setting.maximum - len(self.machines))


def evolve(state: Autoscaling, event: Event) -> Autoscaling:
    replace = msgspec.structs.replace
    match event:
        case AutoscalingSet():
            # Whoever changes the setting wants to see at once whether it works now.
            return replace(state, setting=event, project_id=event.project_id, failures=0, retry_at=UNSTAMPED)
        case AutoscalingRemoved():
            return replace(state, setting=None)
        case PoolScaledUp():
            return replace(state, machines={**state.machines, **dict.fromkeys(event.machine_ids, False)})
        case PoolScaledDown() if event.machine_id in state.machines:
            return replace(state, machines={**state.machines, event.machine_id: True})
        case PoolScalingFailed():
            machines = dict(state.machines)
            if event.destroys and event.machine_id in machines:
                machines[event.machine_id] = True
            return replace(state, machines=machines, failures=event.failures, retry_at=event.retry_at)
        case PoolMachineRemoved():
            kept = {key: leaves for key, leaves in state.machines.items() if key != event.machine_id}
            return replace(state, machines=kept)
        case _:
            return state


AUTOSCALING = Category("autoscaling", Autoscaling(), evolve)
EVENTS = (
    AutoscalingSet,
    AutoscalingRemoved,
    PoolScaledUp,
    PoolScaledDown,
    PoolMachineReverted,
    PoolScalingFailed,
    PoolMachineRemoved,
)
