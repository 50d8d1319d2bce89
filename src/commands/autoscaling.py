"""Commands on the autoscaling of node pools: set and remove it, spawn and destroy machines, and record their failures.

Only the leading dispatcher may spawn and destroy machines, and assign builds. All these commands read the leader
stream, and fail once another dispatcher leads. So nobody assigns a build to a machine that is about to be destroyed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from commands.docker_agents import DestroyDockerAgent
from commands.handler import Command, must_exist
from domain.autoscaling import (
    AUTOSCALING,
    Autoscaling,
    AutoscalingRemoved,
    AutoscalingSet,
    Cause,
    DockerSource,
    PoolMachineRemoved,
    PoolMachineReverted,
    PoolScaledDown,
    PoolScaledUp,
    PoolScalingFailed,
    VcenterSource,
)
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event, Stream
from domain.dispatch import LEADER
from domain.docker_agents import DOCKER_AGENT, DockerAgent, DockerAgentRequested
from domain.nodes import NODE, Node, NodeQuarantined
from domain.pools import POOL, Pool
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    VcenterOperation,
    VcenterOperationCompleted,
    VcenterOperationRequested,
    has_failed,
    has_succeeded,
    make_vm_name,
    read_machine_id,
)

MIN_PAUSE_S = 5.0
"""Seconds for which a pool spawns no machines after a first failure. Each further failure in a row doubles the time."""
MAX_PAUSE_S = 600.0
"""Largest number of seconds for which a pool spawns no machines after a failure."""
NAME_MARK_SIZE = 8
"""Number of random characters in the name of a virtual machine."""


@dataclass(frozen=True)
class SetAutoscaling(Command):
    """Sets how a node pool is scaled. A machine that has run no build for `idle_s` seconds is destroyed."""

    pool_id: int
    minimum: int
    maximum: int
    idle_s: int
    docker: DockerSource | None = None
    single_use: bool = False
    vcenter: VcenterSource | None = None

    def reads(self) -> Sequence[AnyStream]:
        return AUTOSCALING.at(self.pool_id), POOL.at(self.pool_id)

    def decide(self, scaling: Autoscaling, pool: Pool | None) -> Iterable[Event]:
        pool = must_exist(pool, f"node pool {self.pool_id}")
        event = self.event(AutoscalingSet, project_id=pool.project_id)
        if scaling.setting is None or any(
            getattr(scaling.setting, name) != getattr(event, name)
            for name in ("minimum", "maximum", "idle_s", "docker", "vcenter", "single_use")
        ):
            yield event


@dataclass(frozen=True)
class RemoveAutoscaling(Command, of=AUTOSCALING):
    """Ends the scaling of a node pool."""

    pool_id: int

    def decide(self, scaling: Autoscaling) -> Iterable[Event]:
        if scaling.setting is not None:
            yield AutoscalingRemoved(pool_id=self.pool_id, project_id=scaling.project_id)


class MachineRegistration(NamedTuple):
    """Id of a machine to spawn, with the id and the expiry of its registration token. For a virtual machine, whose
    token is made later, only the first characters of `registration_id` are used, as a part of the machine's name.
    """

    machine_id: str
    registration_id: str
    registration_until: datetime


@dataclass(frozen=True)
class ScaleUp(Command):
    """Spawns machines, as many of `machines` as the maximum allows. `waiting` is the number of builds that no machine
    or node is free for. Raises Conflict if the dispatcher `leader` does not lead.
    """

    pool_id: int
    leader: str
    machines: Sequence[MachineRegistration]
    waiting: int
    reason: str
    now: datetime

    def reads(self) -> Sequence[AnyStream]:
        return AUTOSCALING.at(self.pool_id), POOL.at(self.pool_id), LEADER.at("leader")

    def decide(self, scaling: Autoscaling, pool: Pool | None, leader: str) -> Iterable[Event]:
        _must_lead(leader, self.leader)
        setting = scaling.setting
        if setting is None or pool is None or pool.deleted or self.now < scaling.retry_at:
            return
        wanted = {
            new.machine_id: new
            for new in self.machines
            if new.machine_id not in scaling.machines and _has_source(setting, new.machine_id)
        }
        machines = list(wanted.values())[: scaling.room]
        if not machines:
            return
        ids = [new.machine_id for new in machines]
        yield self.event(PoolScaledUp, project_id=scaling.project_id, machine_ids=ids)
        for new in machines:
            yield self._request(setting, new)

    def _request(self, setting: AutoscalingSet, new: MachineRegistration) -> Event:
        operation_id = read_machine_id(new.machine_id)
        if operation_id is not None:
            assert setting.vcenter is not None, "virtual machines have this source"
            return VcenterOperationRequested(
                operation_id=operation_id,
                vcenter_id=setting.vcenter.vcenter_id,
                kind="clone",
                vm_id=setting.vcenter.template_id,
                vm_name=make_vm_name(operation_id, new.registration_id[:NAME_MARK_SIZE]),
                pool_id=self.pool_id,
                single_use=setting.single_use,
            )
        assert setting.docker is not None, "containers have this source"
        return DockerAgentRequested(
            agent_id=new.machine_id,
            host=setting.docker.host,
            image=setting.docker.image,
            registration_id=new.registration_id,
            registration_until=new.registration_until,
            pool_id=self.pool_id,
            memory_mb=setting.docker.memory_mb,
            cpus=setting.docker.cpus,
            single_use=setting.single_use,
        )


Machine = DockerAgent | VcenterOperation
"""State of a machine: the Docker agent, or the operation that has cloned the virtual machine."""


class _MachineCommand(Command):
    """Base of the commands that destroy or revert a machine."""

    pool_id: int
    machine_id: str
    removal_id: int
    """Id of the operation that deletes the machine, if it is a virtual one."""

    def reads(self) -> Sequence[AnyStream]:
        streams = AUTOSCALING.at(self.pool_id), POOL.at(self.pool_id), LEADER.at("leader")
        return *streams, machine_stream(self.machine_id)

    def then_reads(self, *states: Autoscaling | Pool | str | Machine | None) -> Sequence[AnyStream]:
        machine = states[-1]
        return (NODE.at(machine.node_id),) if isinstance(machine, Machine) and machine.node_id is not None else ()

    def _destroy(self, machine: Machine | None, node: Node | None) -> Iterable[Event]:
        """Yields the events that request to destroy the machine. Its node gets no more builds from then on."""
        if node is not None and not node.quarantined and not node.deleted:
            yield NodeQuarantined(node_id=node.node_id)
        if isinstance(machine, DockerAgent):
            yield from DestroyDockerAgent(self.machine_id).decide(machine)
        elif machine is not None and machine.is_started:
            yield request_deletion(machine, self.removal_id)


@dataclass(frozen=True)
class ScaleDown(_MachineCommand):
    """Requests to destroy a machine that runs no build. Does nothing if the cause is `idle` and the pool needs the
    machine for its minimum, or if the cause is `surplus` and the pool is not over its maximum any more. Raises Conflict
    if the dispatcher `leader` does not lead.
    """

    pool_id: int
    machine_id: str
    leader: str
    cause: Cause
    reason: str
    idle_since: datetime | None = None
    removal_id: int = 0

    def decide(
        self, scaling: Autoscaling, pool: Pool | None, leader: str, machine: Machine | None, node: Node | None = None
    ) -> Iterable[Event]:
        _must_lead(leader, self.leader)
        if scaling.machines.get(self.machine_id) is not False:
            return
        setting = None if pool is None or pool.deleted else scaling.setting
        kept = len(scaling.kept)
        if setting is not None and self.cause == "idle" and kept <= setting.minimum:
            return
        if setting is not None and self.cause == "surplus" and kept <= setting.maximum:
            return
        yield self.event(PoolScaledDown, project_id=scaling.project_id)
        yield from self._destroy(machine, node)


@dataclass(frozen=True)
class RevertMachine(_MachineCommand):
    """Requests the operation `revert_id`, which reverts a virtual machine to its snapshot after the only build that it
    runs. Does nothing if the pool is over its maximum, or if its setting now asks for other machines or for none.
    Raises Conflict if the dispatcher `leader` does not lead.
    """

    pool_id: int
    machine_id: str
    leader: str
    revert_id: int
    reason: str

    def reads(self) -> Sequence[AnyStream]:
        streams = AUTOSCALING.at(self.pool_id), POOL.at(self.pool_id), LEADER.at("leader")
        return *streams, machine_stream(self.machine_id), VCENTER_OPERATION.at(self.revert_id)

    def then_reads(self, *states: Autoscaling | Pool | str | Machine | None) -> Sequence[AnyStream]:
        return ()

    def decide(
        self,
        scaling: Autoscaling,
        pool: Pool | None,
        leader: str,
        machine: Machine | None,
        revert: VcenterOperation | None,
    ) -> Iterable[Event]:
        _must_lead(leader, self.leader)
        setting = None if pool is None or pool.deleted else scaling.setting
        if revert is not None or setting is None or scaling.machines.get(self.machine_id) is not False:
            return
        if not isinstance(machine, VcenterOperation) or not isinstance(machine.end, VcenterOperationCompleted):
            return
        if len(scaling.kept) > setting.maximum or not is_made_by(setting, machine):
            return
        yield self.event(PoolMachineReverted, project_id=scaling.project_id)
        yield VcenterOperationRequested(
            operation_id=self.revert_id,
            vcenter_id=machine.vcenter_id,
            kind="revert",
            vm_id=machine.end.vm_id,
            vm_name=machine.vm_name,
        )


@dataclass(frozen=True)
class FailMachine(_MachineCommand):
    """Records that a machine has failed. The pool then spawns no machines during a pause, which doubles with each
    failure in a row. Failures during a pause do not prolong the pause. If a build has ended on a machine of the pool
    since the last failure (`recovered`), the failure is the first in a row. Also destroys the machine, unless a worker
    still tries to spawn it (`destroys` is False). Raises Conflict if the dispatcher `leader` does not lead.
    """

    pool_id: int
    machine_id: str
    leader: str
    error: str
    now: datetime
    recovered: bool = False
    destroys: bool = True
    removal_id: int = 0

    def decide(
        self, scaling: Autoscaling, pool: Pool | None, leader: str, machine: Machine | None, node: Node | None = None
    ) -> Iterable[Event]:
        _must_lead(leader, self.leader)
        if scaling.machines.get(self.machine_id) is not False:
            return
        failures, retry_at = scaling.failures, scaling.retry_at
        if self.now >= retry_at:
            failures = 1 if self.recovered else failures + 1
            retry_at = self.now + timedelta(seconds=find_pause_s(failures))
        elif not self.destroys:
            return
        yield self.event(PoolScalingFailed, project_id=scaling.project_id, failures=failures, retry_at=retry_at)
        if self.destroys:
            yield from self._destroy(machine, node)


@dataclass(frozen=True)
class RetryRemoval(Command):
    """Requests again to delete a virtual machine, since the operation `failed_id` could not delete the machine. Raises
    Conflict if the dispatcher `leader` does not lead.
    """

    pool_id: int
    machine_id: str
    leader: str
    failed_id: int
    removal_id: int

    def reads(self) -> Sequence[AnyStream]:
        streams = AUTOSCALING.at(self.pool_id), LEADER.at("leader"), machine_stream(self.machine_id)
        return *streams, VCENTER_OPERATION.at(self.failed_id)

    def decide(
        self, scaling: Autoscaling, leader: str, machine: Machine | None, failed: VcenterOperation | None
    ) -> Iterable[Event]:
        _must_lead(leader, self.leader)
        is_leaving = scaling.machines.get(self.machine_id) is True
        if is_leaving and isinstance(machine, VcenterOperation) and failed and has_failed(failed):
            yield request_deletion(machine, self.removal_id)


@dataclass(frozen=True)
class RecordMachineRemoved(Command):
    """Records that a machine is gone. Does nothing if it may still exist. `removal_id` is the id of the operation that
    deleted it, if it was a virtual machine.
    """

    pool_id: int
    machine_id: str
    removal_id: int = 0

    def reads(self) -> Sequence[AnyStream]:
        removal = VCENTER_OPERATION.at(self.removal_id)
        return AUTOSCALING.at(self.pool_id), machine_stream(self.machine_id), removal

    def then_reads(
        self, scaling: Autoscaling, machine: Machine | None, removal: VcenterOperation | None
    ) -> Sequence[AnyStream]:
        return (VCENTER.at(machine.vcenter_id),) if isinstance(machine, VcenterOperation) else ()

    def decide(
        self,
        scaling: Autoscaling,
        machine: Machine | None,
        removal: VcenterOperation | None,
        vcenter: Vcenter | None = None,
    ) -> Iterable[Event]:
        if self.machine_id not in scaling.machines:
            return
        if isinstance(machine, VcenterOperation):
            is_removed = removal is not None and removal.vm_name == machine.vm_name and has_succeeded(removal)
            was_never_made = has_failed(machine) and not machine.is_started
            is_gone = is_removed or was_never_made or vcenter is None or vcenter.deleted
        else:
            is_gone = machine is None or machine.deleted
        if is_gone:
            yield self.event(PoolMachineRemoved, project_id=scaling.project_id)


def is_made_by(setting: AutoscalingSet, clone: VcenterOperation) -> bool:
    """Returns whether `clone` used the template of `setting`, and both ask for a machine that runs only one build."""
    source = setting.vcenter
    is_of_source = source is not None and (clone.vcenter_id, clone.vm_id) == (source.vcenter_id, source.template_id)
    return is_of_source and clone.single_use and setting.single_use


def is_virtual(machine_id: str) -> bool:
    return read_machine_id(machine_id) is not None


def machine_stream(machine_id: str) -> Stream[Any]:
    operation_id = read_machine_id(machine_id)
    return DOCKER_AGENT.at(machine_id) if operation_id is None else VCENTER_OPERATION.at(operation_id)


def request_deletion(clone: VcenterOperation, operation_id: int) -> VcenterOperationRequested:
    """Returns the event that requests the operation `operation_id`, which deletes the machine that `clone` has made."""
    return VcenterOperationRequested(
        operation_id=operation_id, vcenter_id=clone.vcenter_id, kind="delete", vm_name=clone.vm_name
    )


def _has_source(setting: AutoscalingSet, machine_id: str) -> bool:
    """Returns whether the pool spawns machines of this machine's kind: virtual machines or containers."""
    return (setting.vcenter if is_virtual(machine_id) else setting.docker) is not None


def find_pause_s(failures: int) -> float:
    """Returns the seconds for which a pool spawns no machines after this number of failures in a row."""
    return float(min(MAX_PAUSE_S, MIN_PAUSE_S * 2.0 ** min(failures - 1, 20)))


def _must_lead(leader: str, wanted: str) -> None:
    if leader != wanted:
        raise Conflict("Another dispatcher leads.")
