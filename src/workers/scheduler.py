"""Which build goes to which node: the dispatcher's memory, pure.

Fed by events and by the polls of agents; asked for assignments. A node takes a build when its agent asks for one (its
poll is open), it has a free slot, it belongs to a pool that the build wants and has the tags that it requires; jobs and
pools have limits of their own. What was moved to the top goes first, then higher priority, then the project with the
fewest builds running, then age. Every ten minutes of waiting raise a build by one priority, so that nothing starves.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from domain.base import Event
from domain.builds import (
    BuildAssigned,
    BuildEvent,
    BuildFinished,
    BuildMovedToTop,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
)
from domain.jobs import JobCreated, JobDeleted, JobEvent, JobUpdated
from domain.nodes import (
    NodeConnected,
    NodeDeleted,
    NodeEvent,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted, PoolEvent, PoolUpdated

AGING = timedelta(minutes=10)


@dataclass
class JobLimits:
    max_parallel: int
    enabled: bool = True


@dataclass
class PoolPlace:
    project_id: int
    shared: bool
    labels: dict[str, str]
    max_parallel: int | None


@dataclass
class NodePlace:
    max_parallel: int
    pool_id: int | None
    tags: frozenset[str] = frozenset()
    quarantined: bool = False
    session: str | None = None
    asks: int = 0
    """Builds that its open poll still takes."""


class Wish(NamedTuple):
    """Where a build may run."""

    project_id: int
    pool_id: int | None
    pool_labels: frozenset[tuple[str, str]]
    tags: frozenset[str]


class Lane(NamedTuple):
    """Builds that are alike to the scheduler but for their age."""

    top: int
    """Above 0: moved to the top, the latest move has the highest."""
    priority: int
    job_id: int
    wish: Wish


@dataclass
class Queued:
    build_id: int
    lane: Lane
    queued_at: datetime
    attempt: int = 0


@dataclass
class Active:
    build: Queued
    node_id: int
    session: str | None
    """Of the agent that it was given to."""
    acknowledged: bool = False


@dataclass(frozen=True)
class Orphan:
    """A build that lost its ground, and how; `node_id` is where it runs."""

    build: Queued
    node_id: int | None
    reason: Literal["job_deleted", "node_removed", "agent_lost"]


@dataclass
class Scheduler:
    jobs: dict[int, JobLimits] = field(default_factory=dict)
    pools: dict[int, PoolPlace] = field(default_factory=dict)
    nodes: dict[int, NodePlace] = field(default_factory=dict)
    queue: dict[int, Queued] = field(default_factory=dict)
    active: dict[int, Active] = field(default_factory=dict)
    _lanes: dict[Lane, list[int]] = field(default_factory=dict)
    """Build ids, oldest first."""
    _tops: int = 0

    def apply(self, event: Event) -> None:
        match event:
            case BuildEvent():
                self._build(event)
            case JobEvent():
                self._job(event)
            case NodeEvent():
                self._node(event)
            case PoolEvent():
                self._pool(event)

    def _build(self, event: BuildEvent) -> None:
        match event:
            case BuildQueued():
                wish = Wish(
                    event.project_id,
                    event.node_pool_id,
                    frozenset(event.pool_labels.items()),
                    frozenset(event.required_tags),
                )
                self._enqueue(Queued(event.build_id, Lane(0, event.priority, event.job_id, wish), event.at))
            case BuildMovedToTop():
                if build := self._dequeue(event.build_id):
                    self._tops += 1
                    build.lane = build.lane._replace(top=self._tops)
                    self._enqueue(build)
            case BuildAssigned():
                if build := self._dequeue(event.build_id):
                    build.attempt = event.attempt
                    node = self.nodes.get(event.node_id)
                    self.active[event.build_id] = Active(build, event.node_id, node.session if node else None)
            case BuildStarted():
                if event.node_id is None:  # external: never ours to place
                    self._dequeue(event.build_id)
                elif active := self.active.get(event.build_id):
                    active.acknowledged = True
            case BuildRequeued():
                if active := self.active.pop(event.build_id, None):
                    self._enqueue(active.build)
            case BuildFinished():
                self._dequeue(event.build_id)
                self.active.pop(event.build_id, None)

    def _enqueue(self, build: Queued) -> None:
        self.queue[build.build_id] = build
        insort(self._lanes.setdefault(build.lane, []), build.build_id)

    def _dequeue(self, build_id: int) -> Queued | None:
        build = self.queue.pop(build_id, None)
        if build is not None:
            lane = self._lanes[build.lane]
            del lane[bisect_left(lane, build_id)]
            if not lane:
                del self._lanes[build.lane]
        return build

    def _job(self, event: JobEvent) -> None:
        match event:
            case JobCreated():
                self.jobs[event.job_id] = JobLimits(event.max_parallel)
            case JobUpdated():
                if job := self.jobs.get(event.job_id):
                    job.max_parallel = event.max_parallel or job.max_parallel
                    job.enabled = job.enabled if event.enabled is None else event.enabled
            case JobDeleted():
                self.jobs.pop(event.job_id, None)

    def _pool(self, event: PoolEvent) -> None:
        match event:
            case PoolCreated():
                self.pools[event.pool_id] = PoolPlace(event.project_id, event.shared, event.labels, event.max_parallel)
            case PoolUpdated():
                if pool := self.pools.get(event.pool_id):
                    pool.labels = pool.labels if event.labels is None else event.labels
                    pool.shared = pool.shared if event.shared is None else event.shared
                    limit = event.max_parallel if event.max_parallel is not None else pool.max_parallel
                    pool.max_parallel = None if "max_parallel" in event.cleared else limit
            case PoolDeleted():
                self.pools.pop(event.pool_id, None)

    def _node(self, event: NodeEvent) -> None:
        if isinstance(event, NodeRegistered):
            self.nodes[event.node_id] = NodePlace(event.max_parallel, event.pool_id, frozenset(event.tags))
            return
        node = self.nodes.get(event.node_id)
        if node is None:
            return
        match event:
            case NodeConnected():
                node.session, node.asks = event.session, 0
            case NodeWentOffline() if node.session == event.session:
                node.session, node.asks = None, 0
            case NodeUpdated():
                node.max_parallel = event.max_parallel or node.max_parallel
                node.tags = node.tags if event.tags is None else frozenset(event.tags)
                pool_id = event.pool_id if event.pool_id is not None else node.pool_id
                node.pool_id = None if "pool_id" in event.cleared else pool_id
            case NodeQuarantined():
                node.quarantined = True
            case NodeReleased():
                node.quarantined = False
            case NodeDeleted():
                del self.nodes[event.node_id]
            case _:
                return

    def polled(self, node_id: int, free: int) -> None:
        """The agent's poll is open and takes `free` builds; 0 when it takes none."""
        if node := self.nodes.get(node_id):
            node.asks = free

    def orphans(self) -> list[Orphan]:
        """Builds of a deleted job, on a deleted node, or of an agent that is gone or began anew."""
        found = [
            Orphan(self.queue[build_id], None, "job_deleted")
            for lane, build_ids in self._lanes.items()
            if lane.job_id not in self.jobs
            for build_id in build_ids
        ]
        for active in self.active.values():
            node = self.nodes.get(active.node_id)
            if active.build.lane.job_id not in self.jobs:
                found.append(Orphan(active.build, active.node_id, "job_deleted"))
            elif node is None:
                found.append(Orphan(active.build, active.node_id, "node_removed"))
            elif node.session != active.session:
                found.append(Orphan(active.build, active.node_id, "agent_lost"))
        return found

    def unacknowledged(self) -> list[tuple[int, Active]]:
        return [(number, active) for number, active in self.active.items() if not active.acknowledged]

    def assignments(self, now: datetime) -> list[tuple[Queued, int]]:
        """(build, node id) pairs that fit together now. The nodes ask for that many builds less from here on."""
        return list(_Round(self, now).placed())

    def waiting_for(self, now: datetime) -> dict[Lane, str]:
        """Why the builds of each lane wait: what is missing, in a sentence."""
        this_round = _Round(self, now)
        return {lane: this_round.obstacle(lane) for lane in self._lanes}

    def builds_in(self, lane: Lane) -> list[int]:
        return self._lanes.get(lane, [])


class _Round:
    """One look at queue and nodes: what is taken, and what is taken in this very round."""

    def __init__(self, scheduler: Scheduler, now: datetime) -> None:
        self._scheduler = scheduler
        self._now = now
        active = scheduler.active.values()
        self._on_node = Counter(item.node_id for item in active)
        self._of_job = Counter(item.build.lane.job_id for item in active)
        self._of_project = Counter(item.build.lane.wish.project_id for item in active)
        self._in_pool = Counter(
            node.pool_id for item in active if (node := scheduler.nodes.get(item.node_id)) and node.pool_id is not None
        )
        # Next build of each lane, as a place in it.
        self._next = dict.fromkeys(scheduler._lanes, 0)

    def placed(self) -> Iterator[tuple[Queued, int]]:
        while (best := min(self._candidates(), default=None)) is not None:
            _, lane, node_id = best
            build = self._head(lane)
            self._next[lane] += 1
            if self._next[lane] == len(self._scheduler.builds_in(lane)):
                del self._next[lane]
            node = self._scheduler.nodes[node_id]
            node.asks -= 1
            self._on_node[node_id] += 1
            self._of_job[lane.job_id] += 1
            self._of_project[lane.wish.project_id] += 1
            if node.pool_id is not None:
                self._in_pool[node.pool_id] += 1
            yield build, node_id

    def _candidates(self) -> Iterator[tuple[tuple[int, int, int, int], Lane, int]]:
        if not any(node.asks > 0 for node in self._scheduler.nodes.values()):
            return
        for lane in self._next:
            node_id = self._node_for(lane) if self._job_has_room(lane) else None
            if node_id is not None:
                head = self._head(lane)
                priority = lane.priority + (self._now - head.queued_at) // AGING
                running = self._of_project[lane.wish.project_id]
                yield (-lane.top, -priority, running, head.build_id), lane, node_id

    def _head(self, lane: Lane) -> Queued:
        return self._scheduler.queue[self._scheduler.builds_in(lane)[self._next[lane]]]

    def _job_has_room(self, lane: Lane) -> bool:
        job = self._scheduler.jobs.get(lane.job_id)
        return job is not None and job.enabled and self._of_job[lane.job_id] < job.max_parallel

    def _node_for(self, lane: Lane) -> int | None:
        """The fitting node with the most free slots, so that load spreads."""
        fitting = [
            node_id
            for node_id, node in self._scheduler.nodes.items()
            if node.asks > 0 and self._is_open(node_id, node) and self._fits(lane.wish, node)
        ]
        return max(fitting, key=lambda node_id: (self._slots(node_id), -node_id), default=None)

    def _is_open(self, node_id: int, node: NodePlace) -> bool:
        pool = self._scheduler.pools.get(node.pool_id or 0)
        in_pool = self._in_pool[node.pool_id or 0]
        has_room = pool is None or pool.max_parallel is None or in_pool < pool.max_parallel
        return node.session is not None and not node.quarantined and has_room and self._slots(node_id) > 0

    def _slots(self, node_id: int) -> int:
        return self._scheduler.nodes[node_id].max_parallel - self._on_node[node_id]

    def _fits(self, wish: Wish, node: NodePlace) -> bool:
        return self._in_reach(wish, node) and wish.tags <= node.tags

    def _in_reach(self, wish: Wish, node: NodePlace) -> bool:
        """Whether the node's pool is one that the build may use."""
        if wish.pool_id is not None:
            return node.pool_id == wish.pool_id
        if node.pool_id is None:
            return not wish.pool_labels
        pool = self._scheduler.pools.get(node.pool_id)
        if pool is None or not (pool.shared or pool.project_id == wish.project_id):
            return False
        return wish.pool_labels <= frozenset(pool.labels.items())

    def obstacle(self, lane: Lane) -> str:
        job = self._scheduler.jobs.get(lane.job_id)
        if job is None:
            return "Its job was deleted."
        if not job.enabled:
            return f"Job {lane.job_id} is disabled."
        wish = lane.wish
        reachable = [item for item in self._scheduler.nodes.items() if self._in_reach(wish, item[1])]
        if not reachable:
            where = f"node pool {wish.pool_id}" if wish.pool_id is not None else "the pools that it may use"
            return f"There is no node in {where}."
        tagged = [item for item in reachable if wish.tags <= item[1].tags]
        if not tagged:
            return f"No node that it may use has the tags {', '.join(sorted(wish.tags))}."
        if not any(node.session is not None and not node.quarantined for _, node in tagged):
            return "All nodes that it may use are offline or quarantined."
        if not self._job_has_room(lane):
            return f"Job {lane.job_id} already runs {job.max_parallel} at once, which is its limit."
        return "All nodes that it may use are busy, or their pool is at its limit."
