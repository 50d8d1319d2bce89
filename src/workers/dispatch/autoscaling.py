"""Decides which machines node pools get and lose. No input or output.

The demand is found by a trial placement in two steps. The first step places the queued builds on the free slots of all
online nodes and on machines that are starting. The second step places the remaining builds on machines that the pools
may still get. So whatever keeps a build from a node, such as a limit of its job, also keeps it from asking for a
machine.

A machine is destroyed if it has failed; if it has had its only build; if its pool may not have it any more; or if it
was idle for the idle time and the pool has more machines than its minimum. It is never destroyed while it has a build.
A virtual machine that has had its only build is reverted instead, if the pool still makes machines like it. A machine
whose node somebody has put in quarantine is kept, so that they can look at it. A virtual machine is deleted by an
operation on its vCenter. If the operation fails, the deletion is requested again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from commands.autoscaling import (
    FailMachine,
    MachineRegistration,
    RecordMachineRemoved,
    RetryRemoval,
    RevertMachine,
    ScaleDown,
    ScaleUp,
    is_made_by,
    is_virtual,
    machine_stream,
)
from commands.handler import Command
from domain.autoscaling import AUTOSCALING, Autoscaling, AutoscalingSet, Cause
from domain.nodes import Node
from domain.pools import POOL
from domain.vcenter_operations import has_failed, make_machine_id, read_machine_id
from workers.dispatch.autoscaling_state import AutoscalingState, Machine, PoolHistory
from workers.dispatch.dispatch_state import ActiveBuild, DispatchState, QueueKey
from workers.dispatch.placement import count_fitting, place_builds

OFFLINE_TIMEOUT = timedelta(minutes=2)
"""Time for which the agent of a running machine may be offline. After this time, the machine counts as failed."""
REMOVAL_PAUSE = timedelta(seconds=30)
"""Time from a failed deletion of a virtual machine until the deletion is tried again."""
MAX_AT_ONCE = 20
"""Largest number of machines that one decision spawns in a pool. The next decision may spawn more."""
FIRST_TRIAL_ID = 2**62
"""Smallest id of the nodes that exist only in a trial placement. Ids of existing nodes are smaller, so the placement
prefers an existing node to a trial node with equally many free slots.
"""


@dataclass
class NewIds:
    """Makes ids of machines, and of the operations that make and delete virtual machines."""

    new_registration: Callable[[], MachineRegistration]
    """Function that returns a container's id and registration."""
    operation_ids: list[int]
    """Ids for operations on vCenters, drawn in advance. When they are used up, further operations wait for the next
    decision.
    """

    def make_machines(self, count: int, *, virtual: bool) -> list[MachineRegistration]:
        """Returns the ids and registrations of `count` new machines. Returns fewer virtual machines if there are not
        enough operation ids.
        """
        if virtual:
            count = min(count, len(self.operation_ids))
        machines = [self.new_registration() for _ in range(count)]
        if virtual:
            machines = [new._replace(machine_id=make_machine_id(self.operation_ids.pop())) for new in machines]
        return machines

    def make_operation_id(self, machine_id: str) -> int | None:
        """Returns an id for the operation that is to delete or revert a machine: 0 for a container, which needs no
        operation; None for a virtual machine if no ids are left.
        """
        if not is_virtual(machine_id):
            return 0
        return self.operation_ids.pop() if self.operation_ids else None


class Demand(NamedTuple):
    wanted: Mapping[int, int]
    """Pool id -> number of new machines for which there are queued builds."""
    waiting: Mapping[int, int]
    """Pool id -> number of queued builds that fit the pool's machines, and for which no node or starting machine has a
    free slot.
    """
    needed_nodes: frozenset[int]
    """Ids of the nodes that got queued builds in the first step of the trial placement. Their machines are not
    destroyed as idle.
    """


def decide_scaling(
    state: DispatchState,
    scaling: AutoscalingState,
    leader: str,
    now: datetime,
    new_ids: NewIds,
) -> list[Command]:
    """Returns the commands by which pools get and lose machines now."""
    pools = [
        _PoolScaling(pool_id, decided, state, scaling, leader, now)
        for pool_id, decided in scaling.pools.items()
        if state.damaged.isdisjoint((AUTOSCALING.at(pool_id).name, POOL.at(pool_id).name))
    ]
    demand = _find_demand(state, now, pools) if any(pool.setting for pool in pools) else Demand({}, {}, frozenset())
    return [command for pool in pools for command in pool.decide(demand, new_ids)]


class _PoolScaling:
    """Decides which machines one pool gets and loses."""

    def __init__(
        self,
        pool_id: int,
        decided: Autoscaling,
        state: DispatchState,
        scaling: AutoscalingState,
        leader: str,
        now: datetime,
    ) -> None:
        self.pool_id, self._decided, self._state, self._scaling = pool_id, decided, state, scaling
        self._leader, self._now = leader, now
        self.pool = state.pools.get(pool_id)
        self.setting: AutoscalingSet | None = None if self.pool is None else decided.setting
        self._history = scaling.histories.get(pool_id, PoolHistory())
        self._busy = {active.node_id for active in state.active.values()}
        self._agents = {
            machine_id: scaling.find(machine_id, is_leaving=is_leaving)
            for machine_id, is_leaving in decided.machines.items()
            if machine_stream(machine_id).name not in state.damaged
        }
        self.kept = {
            machine_id: agent
            for machine_id, agent in self._agents.items()
            if agent is not None and agent.pending != "destroy" and not decided.machines[machine_id]
        }
        self.failed = {name: error for name, agent in self.kept.items() if (error := self._find_failure(agent))}
        self.starting = [
            name for name, agent in self.kept.items() if name not in self.failed and not self._is_online(agent)
        ]

    def make_node(self, node_id: int, slots: int, features: frozenset[str]) -> Node:
        """Returns a node for a trial placement, like the nodes of the pool's machines. `features` are the features that
        the node's agent is assumed to have if no agent of the pool's machines has connected yet.
        """
        seen = self._history.features
        features = features if seen is None else seen
        return Node(node_id, "", "", self.pool_id, [], slots, session="trial", features=features)

    @property
    def allowed(self) -> int:
        """Number of machines that may be spawned now."""
        if self.setting is None or self._now < self._decided.retry_at:
            return 0
        source = self.setting.vcenter
        if source is not None and source.vcenter_id in self._scaling.virtual.deleted_vcenters:
            return 0
        if any(agent.error and name not in self.failed for name, agent in self.kept.items()):
            return 0  # its worker still tries to spawn it
        is_probing = self._decided.failures > 0 and self._history.online_at <= self._history.failed_at
        limit = max(0, 1 - len(self.starting)) if is_probing else MAX_AT_ONCE
        return min(limit, self._decided.room)

    def decide(self, demand: Demand, new_ids: NewIds) -> Iterator[Command]:
        yield from self._follow_removals(new_ids)
        yield from self._fail(new_ids)
        leaving = set(self.failed)
        for decided in self._scale_down(demand, new_ids):
            if isinstance(decided, ScaleDown):
                leaving.add(decided.machine_id)
            yield decided
        if self.setting is None:
            return
        missing = self.setting.minimum - len(self.kept.keys() - leaving)
        wanted = demand.wanted.get(self.pool_id, 0)
        count = min(self.allowed, max(missing, wanted))
        if count > 0:
            waiting = demand.waiting.get(self.pool_id, 0)
            machines = new_ids.make_machines(count, virtual=self.setting.vcenter is not None)
            if wanted:
                reason = f"{waiting} {'build waits' if waiting == 1 else 'builds wait'} for a free node"
            else:
                reason = f"the pool has fewer machines than its minimum, {self.setting.minimum}"
            if machines:
                yield ScaleUp(self.pool_id, self._leader, machines, waiting, reason, self._now)

    def _follow_removals(self, new_ids: NewIds) -> Iterator[Command]:
        """Yields commands that record which machines are gone, and commands that request failed deletions again."""
        for machine_id, agent in self._agents.items():
            removal = self._scaling.virtual.removals.get(read_machine_id(machine_id) or 0)
            if agent is None:
                yield RecordMachineRemoved(self.pool_id, machine_id, 0 if removal is None else removal.operation_id)
            elif removal is not None and removal.end is not None and has_failed(removal):
                is_due = self._now >= removal.end.at + REMOVAL_PAUSE and self._decided.machines[machine_id]
                if is_due and (removal_id := new_ids.make_operation_id(machine_id)) is not None:
                    yield RetryRemoval(self.pool_id, machine_id, self._leader, removal.operation_id, removal_id)

    def _fail(self, new_ids: NewIds) -> Iterator[Command]:
        recovered = self._history.worked_at > self._history.failed_at
        for machine_id, agent in self.kept.items():
            error = self.failed.get(machine_id)
            if error is None:
                if agent.error and self._now >= self._decided.retry_at:
                    yield self._failure(machine_id, agent.error, recovered)
            elif agent.node_id not in self._busy and (removal_id := new_ids.make_operation_id(machine_id)) is not None:
                yield self._failure(machine_id, error, recovered, removal_id)

    def _failure(self, machine_id: str, error: str, recovered: bool, removal_id: int | None = None) -> FailMachine:
        destroys = removal_id is not None
        return FailMachine(
            self.pool_id, machine_id, self._leader, error, self._now, recovered, destroys, removal_id or 0
        )

    def _scale_down(self, demand: Demand, new_ids: NewIds) -> Iterator[ScaleDown | RevertMachine]:
        sound = {name: agent for name, agent in self.kept.items() if name not in self.failed}
        free = {name: self._idle_since(agent) for name, agent in sound.items() if agent.node_id not in self._busy}
        # Machines that are not online yet come first, then those that were idle for longest.
        ranked = sorted(free.items(), key=lambda item: (item[1] is not None, item[1] or self._now, item[0]))
        left = len(sound)
        for machine_id, since in ranked:
            if is_virtual(machine_id) and sound[machine_id].pending is not None:
                continue  # it can only be deleted after it was cloned or reverted
            reason = self._reason_to_go(sound[machine_id], since, left, demand)
            if reason is None or (operation_id := new_ids.make_operation_id(machine_id)) is None:
                continue
            cause, text = reason
            if cause == "used" and self._may_revert(machine_id, left):
                yield RevertMachine(self.pool_id, machine_id, self._leader, operation_id, text)
            else:
                left -= 1
                yield ScaleDown(self.pool_id, machine_id, self._leader, cause, text, since, operation_id)

    def _may_revert(self, machine_id: str, left: int) -> bool:
        """Returns whether a machine that has had its only build could take another one after a revert."""
        clone = self._scaling.virtual.get_clone(read_machine_id(machine_id) or 0)
        if clone is None or self.setting is None:
            return False
        return left <= self.setting.maximum and is_made_by(self.setting, clone)

    def _reason_to_go(
        self, agent: Machine, since: datetime | None, left: int, demand: Demand
    ) -> tuple[Cause, str] | None:
        if self.pool is None:
            return "surplus", "the node pool was deleted"
        if self.setting is None:
            return "surplus", "the node pool is not scaled any more"
        node = None if agent.node_id is None else self._state.nodes.get(agent.node_id)
        if node is not None and node.quarantined:
            return None
        if node is not None and node.node_id in self._state.spent:
            return "used", "it has had its only build"
        if left > self.setting.maximum:
            return "surplus", f"the pool has more machines than its maximum, {self.setting.maximum}"
        if since is None or node is None or node.node_id in demand.needed_nodes:
            return None
        idle = self._now - since
        if idle < timedelta(seconds=self.setting.idle_s) or left <= self.setting.minimum:
            return None
        return "idle", f"it had no build for {idle.total_seconds():.0f} s"

    def _is_online(self, agent: Machine) -> bool:
        node = None if agent.node_id is None else self._state.nodes.get(agent.node_id)
        return node is not None and node.session is not None

    def _idle_since(self, agent: Machine) -> datetime | None:
        return self._scaling.idle_since.get(agent.node_id or 0) if self._is_online(agent) else None

    def _find_failure(self, agent: Machine) -> str:
        """Returns why a machine is of no use any more; an empty string if it is of use or may still become so."""
        if agent.pending is not None:
            return ""
        if agent.status in ("error", "stopped"):
            return agent.error or "its agent has ended"
        if agent.node_id is None:
            is_late = self._now > agent.registration_until
            return "its agent has not registered in time" if is_late else ""
        if agent.node_id not in self._state.nodes:
            return "its node was deleted"
        offline_since = self._scaling.offline_since.get(agent.node_id)
        if offline_since is not None and self._now - offline_since > OFFLINE_TIMEOUT:
            return f"its agent was offline for {OFFLINE_TIMEOUT.total_seconds():.0f} s"
        return ""


def _find_demand(state: DispatchState, now: datetime, pools: list[_PoolScaling]) -> Demand:
    features = frozenset[str]().union(*(key.requirements.features for key in state.queues))
    nodes = {node_id: node for node_id, node in state.nodes.items() if node.session is not None}
    for pool in pools:
        if pool.setting is not None:
            for _ in pool.starting:
                node_id = FIRST_TRIAL_ID + len(nodes)
                nodes[node_id] = pool.make_node(node_id, 1, features)
    rest, needed_nodes = _place_on_free(state, nodes, now)
    first_id = FIRST_TRIAL_ID + len(nodes)
    new = {
        node_id: pool.make_node(node_id, pool.allowed, features)
        for node_id, pool in enumerate(pools, first_id)
        if pool.setting is not None
    }
    placed = place_builds(_with_nodes(rest, new), now)
    wanted = {node.pool_id or 0: sum(on == node_id for _, on in placed) for node_id, node in new.items()}
    waiting = {node.pool_id or 0: count_fitting(rest, node, now) for node in new.values()}
    return Demand(wanted, waiting, needed_nodes)


def _place_on_free(state: DispatchState, nodes: dict[int, Node], now: datetime) -> tuple[DispatchState, frozenset[int]]:
    """Places queued builds on the free slots of these nodes. Returns the state after this, and the ids of the nodes
    that got builds.
    """
    trial = _with_nodes(state, nodes)
    placed = place_builds(trial, now)
    counts: dict[QueueKey, int] = {}
    active = dict(state.active)
    for build, node_id in placed:
        counts[build.key] = counts.get(build.key, 0) + 1
        active[build.build_id] = ActiveBuild(build, node_id, None)
    queues = {key: left for key, ids in state.queues.items() if (left := ids[counts.get(key, 0) :])}
    return replace(trial, queues=queues, active=active), frozenset(node_id for _, node_id in placed)


def _with_nodes(state: DispatchState, nodes: dict[int, Node]) -> DispatchState:
    """Returns a copy of the state to which `nodes` are added, and in which only they have free slots."""
    return replace(
        state,
        nodes=state.nodes | nodes,
        open_slots=Counter({node_id: node.max_parallel for node_id, node in nodes.items()}),
    )
