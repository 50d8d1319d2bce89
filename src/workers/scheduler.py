"""Which build goes to which node: the dispatcher's memory, pure.

Fed by events and by the polls of agents; asked for assignments. A node takes a build when its agent asks for one (its
poll is open), it has a free slot, and it belongs to the pool that the build wants. Higher priority first, then older.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from domain.base import Event
from domain.builds import BuildAssigned, BuildEvent, BuildFinished, BuildQueued, BuildRequeued, BuildStarted
from domain.jobs import JobCreated, JobDeleted, JobEvent, JobUpdated
from domain.nodes import NodeConnected, NodeDeleted, NodeEvent, NodeRegistered, NodeWentOffline
from domain.pools import PoolCreated


@dataclass
class JobLimits:
    project_id: int
    max_parallel: int
    enabled: bool = True


@dataclass
class PoolPlace:
    project_id: int
    shared: bool


@dataclass
class NodePlace:
    max_parallel: int
    pool_id: int | None
    session: str | None = None
    asks: int = 0
    """Builds that its open poll still takes."""


@dataclass
class Queued:
    build_id: int
    job_id: int
    project_id: int
    pool_id: int | None
    priority: int
    attempt: int = 0


@dataclass
class Active:
    build: Queued
    node_id: int | None
    acknowledged: bool = False


@dataclass
class Scheduler:
    jobs: dict[int, JobLimits] = field(default_factory=dict)
    pools: dict[int, PoolPlace] = field(default_factory=dict)
    nodes: dict[int, NodePlace] = field(default_factory=dict)
    queue: dict[int, Queued] = field(default_factory=dict)
    active: dict[int, Active] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        match event:
            case BuildEvent():
                self._build(event)
            case JobEvent():
                self._job(event)
            case NodeEvent():
                self._node(event)
            case PoolCreated():
                self.pools[event.pool_id] = PoolPlace(event.project_id, event.shared)

    def _build(self, event: BuildEvent) -> None:
        match event:
            case BuildQueued():
                self.queue[event.build_id] = Queued(
                    event.build_id, event.job_id, event.project_id, event.node_pool_id, event.priority
                )
            case BuildAssigned():
                if build := self.queue.pop(event.build_id, None):
                    build.attempt = event.attempt
                    self.active[event.build_id] = Active(build, event.node_id)
            case BuildStarted():
                if event.node_id is None:  # external: never ours to place
                    self.queue.pop(event.build_id, None)
                elif active := self.active.get(event.build_id):
                    active.acknowledged = True
            case BuildRequeued():
                if active := self.active.pop(event.build_id, None):
                    self.queue[event.build_id] = active.build
            case BuildFinished():
                self.queue.pop(event.build_id, None)
                self.active.pop(event.build_id, None)

    def _job(self, event: JobEvent) -> None:
        match event:
            case JobCreated():
                self.jobs[event.job_id] = JobLimits(event.project_id, event.max_parallel)
            case JobUpdated():
                if job := self.jobs.get(event.job_id):
                    job.max_parallel = event.max_parallel or job.max_parallel
                    job.enabled = job.enabled if event.enabled is None else event.enabled
            case JobDeleted():
                self.jobs.pop(event.job_id, None)

    def _node(self, event: NodeEvent) -> None:
        match event:
            case NodeRegistered():
                self.nodes[event.node_id] = NodePlace(event.max_parallel, event.pool_id)
            case NodeConnected():
                if node := self.nodes.get(event.node_id):
                    node.session = event.session
            case NodeWentOffline():
                if (node := self.nodes.get(event.node_id)) and node.session == event.session:
                    node.session, node.asks = None, 0
            case NodeDeleted():
                self.nodes.pop(event.node_id, None)

    def polled(self, node_id: int, free: int) -> None:
        """The agent's poll is open and takes `free` builds; 0 when it takes none."""
        if node := self.nodes.get(node_id):
            node.asks = free

    def on_node(self, node_id: int) -> list[Active]:
        return [active for active in self.active.values() if active.node_id == node_id]

    def of_job(self, job_id: int) -> list[int]:
        """Builds of a job that have not ended."""
        waiting = [build.build_id for build in self.queue.values() if build.job_id == job_id]
        return waiting + [number for number, active in self.active.items() if active.build.job_id == job_id]

    def assignments(self) -> list[tuple[Queued, int]]:
        """(build, node id) pairs that fit together now. Takes the nodes' asks into account as if all of them went
        through.
        """
        on_node = Counter(active.node_id for active in self.active.values())
        of_job = Counter(active.build.job_id for active in self.active.values())
        open_nodes = {
            node_id: min(node.asks, node.max_parallel - on_node[node_id])
            for node_id, node in self.nodes.items()
            if node.session is not None and node.asks > 0
        }
        placed: list[tuple[Queued, int]] = []
        for build in sorted(self.queue.values(), key=lambda build: (-build.priority, build.build_id)):
            job = self.jobs.get(build.job_id)
            if job is None or not job.enabled or of_job[build.job_id] >= job.max_parallel:
                continue
            node_id = self._best(build, open_nodes)
            if node_id is None:
                continue
            open_nodes[node_id] -= 1
            of_job[build.job_id] += 1
            self.nodes[node_id].asks -= 1
            placed.append((build, node_id))
        return placed

    def _best(self, build: Queued, open_nodes: Mapping[int, int]) -> int | None:
        """The fitting node with the most free slots, so that load spreads."""
        fitting = [
            node_id for node_id, free in open_nodes.items() if free > 0 and self._fits(build, self.nodes[node_id])
        ]
        return max(fitting, key=lambda node_id: (open_nodes[node_id], -node_id), default=None)

    def _fits(self, build: Queued, node: NodePlace) -> bool:
        if build.pool_id is not None:
            return node.pool_id == build.pool_id
        if node.pool_id is None:
            return True
        pool = self.pools.get(node.pool_id)
        return pool is not None and (pool.shared or pool.project_id == build.project_id)

    def unacknowledged(self) -> Iterable[tuple[int, Active]]:
        return [(number, active) for number, active in self.active.items() if not active.acknowledged]
