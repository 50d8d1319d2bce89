"""The dispatcher's memory of node pools that are scaled: settings, decisions and machines. No input or output."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from domain.autoscaling import (
    AUTOSCALING,
    Autoscaling,
    AutoscalingEvent,
    PoolMachineRemoved,
    PoolScaledUp,
    PoolScalingFailed,
)
from domain.builds import BuildFinished, BuildRequeued
from domain.core.events import UNSTAMPED, Event
from domain.docker_agents import (
    DOCKER_AGENT,
    DockerAgent,
    DockerAgentEvent,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStatus,
    Operation,
)
from domain.nodes import NodeConnected, NodeDeleted, NodeEvent, NodeWentOffline
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationEvent,
    make_machine_id,
    read_machine_id,
)
from workers.dispatch.virtual_machines import VirtualMachines


class Machine(Protocol):
    """Fields of a container or a virtual machine that scaling depends on: its status, the operation that is not carried
    out yet, why it failed, its node, and the time until which its agent must have registered.
    """

    @property
    def status(self) -> DockerAgentStatus: ...
    @property
    def pending(self) -> Operation | None: ...
    @property
    def error(self) -> str: ...
    @property
    def node_id(self) -> int | None: ...
    @property
    def registration_until(self) -> datetime: ...


@dataclass
class PoolHistory:
    """Times at which something last happened to a pool's machines, and the features of their agents. The next decisions
    about the pool depend on them.
    """

    failed_at: datetime = UNSTAMPED
    online_at: datetime = UNSTAMPED
    """When an agent of a machine connected last."""
    worked_at: datetime = UNSTAMPED
    """When a build ended on a machine last."""
    features: frozenset[str] | None = None
    """Features of the agent that connected last; None if no agent has connected yet."""


@dataclass
class AutoscalingState:
    pools: dict[int, Autoscaling] = field(default_factory=dict)
    """Pool id -> state, for pools that are scaled or still have machines."""
    histories: dict[int, PoolHistory] = field(default_factory=dict)
    agents: dict[str, DockerAgent] = field(default_factory=dict)
    """Machine id -> Docker agent, for all Docker agents that are not destroyed. Their environment variables are left
    out.
    """
    virtual: VirtualMachines = field(default_factory=VirtualMachines)
    idle_since: dict[int, datetime] = field(default_factory=dict)
    """Node id -> when the node's last build ended, or when its agent first connected; only for nodes of machines."""
    offline_since: dict[int, datetime] = field(default_factory=dict)
    """Node id -> when the node went offline, or when it was registered if it has not connected since; only for nodes of
    machines that are offline.
    """
    _pool_of_machine: dict[str, int] = field(default_factory=dict)
    _pool_of_node: dict[int, int] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        match event:
            case AutoscalingEvent():
                self._scaling(event)
            case DockerAgentEvent():
                self._agent(event)
            case VcenterOperationEvent():
                self._virtual(event)
            case VcenterDeleted():
                self.virtual.apply(event, is_ours=False)
            case NodeEvent() if event.node_id in self._pool_of_node:
                self._node(event, self.histories[self._pool_of_node[event.node_id]])
            case BuildFinished(node_id=int(node_id)) if node_id in self._pool_of_node:
                self.idle_since[node_id] = event.at
                if event.status != "aborted":
                    self.histories[self._pool_of_node[node_id]].worked_at = event.at
            case BuildRequeued() if event.node_id in self._pool_of_node:
                self.idle_since[event.node_id] = event.at
            case _:
                pass

    def find(self, machine_id: str, *, is_leaving: bool) -> Machine | None:
        """Returns the machine with this id; None if the machine is gone. `is_leaving` says whether the machine's
        removal was decided. A machine that could not be made counts as gone from that decision on.
        """
        operation_id = read_machine_id(machine_id)
        if operation_id is None:
            return self.agents.get(machine_id)
        return self.virtual.find(operation_id, is_leaving=is_leaving)

    def _scaling(self, event: AutoscalingEvent) -> None:
        state = AUTOSCALING.evolve(self.pools.get(event.pool_id, AUTOSCALING.initial), event)
        history = self.histories.setdefault(event.pool_id, PoolHistory())
        self.pools[event.pool_id] = state
        if isinstance(event, PoolScaledUp):
            self._pool_of_machine |= dict.fromkeys(event.machine_ids, event.pool_id)
        elif isinstance(event, PoolScalingFailed):
            history.failed_at = event.at
        elif isinstance(event, PoolMachineRemoved) and (clone_id := read_machine_id(event.machine_id)) is not None:
            self.virtual.forget(clone_id)
            self._pool_of_machine.pop(event.machine_id, None)
        if state.setting is None and not state.machines:
            del self.pools[event.pool_id]

    def _agent(self, event: DockerAgentEvent) -> None:
        if isinstance(event, DockerAgentRequested):
            event = msgspec.structs.replace(event, sealed_env=None)
        agent = DOCKER_AGENT.evolve(self.agents.get(event.agent_id), event)
        if agent is None or agent.deleted:
            self.agents.pop(event.agent_id, None)
            self._pool_of_machine.pop(event.agent_id, None)
            return
        self.agents[event.agent_id] = agent
        pool_id = self._pool_of_machine.get(event.agent_id)
        if isinstance(event, DockerAgentRegistered) and pool_id is not None:
            self._registered(event.node_id, pool_id, event.at)

    def _virtual(self, event: VcenterOperationEvent) -> None:
        pool_id = self._pool_of_machine.get(make_machine_id(event.operation_id))
        self.virtual.apply(event, is_ours=pool_id is not None)
        if isinstance(event, VcenterMachineRegistered) and pool_id is not None:
            self._registered(event.node_id, pool_id, event.at)

    def _registered(self, node_id: int, pool_id: int, at: datetime) -> None:
        self._pool_of_node[node_id] = pool_id
        self.idle_since.pop(node_id, None)  # from now on, the machine is as new
        self.offline_since[node_id] = at

    def _node(self, event: NodeEvent, history: PoolHistory) -> None:
        match event:
            case NodeConnected():
                self.offline_since.pop(event.node_id, None)
                self.idle_since.setdefault(event.node_id, event.at)
                history.online_at, history.features = event.at, frozenset(event.features)
            case NodeWentOffline():
                self.offline_since[event.node_id] = event.at
            case NodeDeleted():
                for known in (self.offline_since, self.idle_since, self._pool_of_node):
                    known.pop(event.node_id, None)
            case _:
                pass
