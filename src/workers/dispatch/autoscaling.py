"""Decides which machines node pools get and lose. No input or output.

The demand is found by a trial placement: first of the queued builds on the free slots of all nodes that are online and
on machines that are starting, then of the builds that are left on machines that the pools may still have. So whatever
keeps a build from a node, such as a limit of its job, keeps it from asking for a machine.

A machine is destroyed if it has failed; if it has had its only build; if its pool may not have it any more; or if it
was idle for the idle time and the pool has more machines than its minimum. It is never destroyed while it has a build.
A machine whose node somebody has put in quarantine is kept, so that they can look at it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from commands.autoscaling import FailMachine, MachineRegistration, RecordMachineRemoved, ScaleDown, ScaleUp
from commands.handler import Command
from domain.autoscaling import AUTOSCALING, Autoscaling, AutoscalingSet, Cause
from domain.docker_agents import DOCKER_AGENT, DockerAgent
from domain.nodes import Node
from domain.pools import POOL
from workers.dispatch.autoscaling_state import AutoscalingState, PoolHistory
from workers.dispatch.dispatch_state import ActiveBuild, DispatchState, QueueKey
from workers.dispatch.placement import count_fitting, place_builds

OFFLINE_TIMEOUT = timedelta(minutes=2)
"""Time for which the agent of a running machine may be offline. Then the machine has failed."""
MAX_AT_ONCE = 20
"""Largest number of machines that one decision spawns in a pool. The next decision may spawn more."""
FIRST_TRIAL_ID = 2**62
"""Smallest id of a node in a trial placement that does not exist yet. Ids of nodes are smaller, so of nodes with
equally many free slots those that exist are preferred.
"""


class Demand(NamedTuple):
    wanted: Mapping[int, int]
    """Pool id -> number of machines for which there are builds."""
    waiting: Mapping[int, int]
    """Pool id -> number of queued builds that no machine or node is free for."""
    needed_nodes: frozenset[int]
    """Ids of the nodes that queued builds are placed on."""


def decide_scaling(
    state: DispatchState,
    scaling: AutoscalingState,
    leader: str,
    now: datetime,
    new_machine: Callable[[], MachineRegistration],
) -> list[Command]:
    """Returns the commands to execute now."""
    pools = [
        _PoolScaling(pool_id, decided, state, scaling, leader, now)
        for pool_id, decided in scaling.pools.items()
        if state.damaged.isdisjoint((AUTOSCALING.at(pool_id).name, POOL.at(pool_id).name))
    ]
    demand = _find_demand(state, now, pools) if any(pool.setting for pool in pools) else Demand({}, {}, frozenset())
    return [command for pool in pools for command in pool.decide(demand, new_machine)]


class _PoolScaling:
    """The machines of one pool, and what is to be done about them."""

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
            machine_id: scaling.agents.get(machine_id)
            for machine_id in decided.machines
            if DOCKER_AGENT.at(machine_id).name not in state.damaged
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
        """Returns a node as the pool's machines have it, for a trial placement. `features` are those of its agent, if
        no machine of the pool was online before.
        """
        seen = self._history.features
        features = features if seen is None else seen
        return Node(node_id, "", "", self.pool_id, [], slots, session="trial", features=features)

    @property
    def allowed(self) -> int:
        """Number of machines that may be spawned now."""
        if self.setting is None or self._now < self._decided.retry_at:
            return 0
        if any(agent.status == "error" and name not in self.failed for name, agent in self.kept.items()):
            return 0  # its worker still tries to spawn it
        is_probing = self._decided.failures > 0 and self._history.online_at <= self._history.failed_at
        limit = max(0, 1 - len(self.starting)) if is_probing else MAX_AT_ONCE
        return min(limit, self._decided.room)

    def decide(self, demand: Demand, new_machine: Callable[[], MachineRegistration]) -> Iterator[Command]:
        for machine_id, agent in self._agents.items():
            if agent is None:
                yield RecordMachineRemoved(self.pool_id, machine_id)
        yield from self._fail()
        leaving = set(self.failed)
        for down in self._scale_down(demand):
            leaving.add(down.machine_id)
            yield down
        if self.setting is None:
            return
        missing = self.setting.minimum - len(self.kept.keys() - leaving)
        wanted = demand.wanted.get(self.pool_id, 0)
        count = min(self.allowed, max(missing, wanted))
        if count > 0:
            waiting = demand.waiting.get(self.pool_id, 0)
            machines = [new_machine() for _ in range(count)]
            if wanted:
                reason = f"{waiting} {'build waits' if waiting == 1 else 'builds wait'} for a free node"
            else:
                reason = f"the pool has fewer machines than its minimum, {self.setting.minimum}"
            yield ScaleUp(self.pool_id, self._leader, machines, waiting, reason, self._now)

    def _fail(self) -> Iterator[Command]:
        recovered = self._history.worked_at > self._history.failed_at
        for machine_id, agent in self.kept.items():
            error = self.failed.get(machine_id)
            if error is None and agent.status == "error" and self._now >= self._decided.retry_at:
                yield self._failure(machine_id, agent.error, recovered, destroys=False)
            elif error is not None and agent.node_id not in self._busy:
                yield self._failure(machine_id, error, recovered, destroys=True)

    def _failure(self, machine_id: str, error: str, recovered: bool, *, destroys: bool) -> FailMachine:
        return FailMachine(self.pool_id, machine_id, self._leader, error, self._now, recovered, destroys)

    def _scale_down(self, demand: Demand) -> Iterator[ScaleDown]:
        sound = {name: agent for name, agent in self.kept.items() if name not in self.failed}
        free = {name: self._idle_since(agent) for name, agent in sound.items() if agent.node_id not in self._busy}
        # Machines that are not online yet come first, then those that were idle for longest.
        ranked = sorted(free.items(), key=lambda item: (item[1] is not None, item[1] or self._now, item[0]))
        left = len(sound)
        for machine_id, since in ranked:
            reason = self._reason_to_go(machine_id, sound[machine_id], since, left, demand)
            if reason is not None:
                left -= 1
                yield ScaleDown(self.pool_id, machine_id, self._leader, *reason, since)

    def _reason_to_go(
        self, machine_id: str, agent: DockerAgent, since: datetime | None, left: int, demand: Demand
    ) -> tuple[Cause, str] | None:
        if self.pool is None:
            return "surplus", "the node pool was deleted"
        if self.setting is None:
            return "surplus", "the node pool is not scaled any more"
        node = None if agent.node_id is None else self._state.nodes.get(agent.node_id)
        if node is not None and node.node_id in self._state.spent:
            return "used", "it has had its only build"
        if left > self.setting.maximum:
            return "surplus", f"the pool has more machines than its maximum, {self.setting.maximum}"
        if since is None or node is None or node.quarantined or node.node_id in demand.needed_nodes:
            return None
        idle = self._now - since
        if idle < timedelta(seconds=self.setting.idle_s) or left <= self.setting.minimum:
            return None
        return "idle", f"it had no build for {idle.total_seconds():.0f} s"

    def _is_online(self, agent: DockerAgent) -> bool:
        node = None if agent.node_id is None else self._state.nodes.get(agent.node_id)
        return node is not None and node.session is not None

    def _idle_since(self, agent: DockerAgent) -> datetime | None:
        return self._scaling.idle_since.get(agent.node_id or 0) if self._is_online(agent) else None

    def _find_failure(self, agent: DockerAgent) -> str:
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
    """Returns a copy of the state with `nodes` as well, and with the free slots of these nodes only."""
    return replace(
        state,
        nodes=state.nodes | nodes,
        open_slots=Counter({node_id: node.max_parallel for node_id, node in nodes.items()}),
    )
