"""The dispatcher's memory, pure: what waits, what runs, and where there is room. `workers.dispatch.placement`
decides on it.

Fed by events and by the polls of agents. Builds that are alike but for their age wait in one lane, the oldest first.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from domain.builds import (
    BUILD,
    BuildAssigned,
    BuildEvent,
    BuildFinished,
    BuildMovedToTop,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
)
from domain.core.events import Category, Event
from domain.jobs import JOB, JobCreated, JobDeleted, JobEvent, JobUpdated
from domain.nodes import (
    NODE,
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

PLACING = (BuildQueued, BuildMovedToTop, BuildAssigned, BuildStarted, BuildRequeued, BuildFinished)
"""What happens to a build and changes who waits or where there is room."""


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


class Requirements(NamedTuple):
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
    wish: Requirements


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
class LostBuild:
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
    lanes: dict[Lane, list[int]] = field(default_factory=dict)
    """Ids of the builds in the queue, oldest first; no lane is empty."""
    served: Counter[int] = field(default_factory=Counter)
    """When each project was last given a slot: 1 is the first slot of all."""
    damaged: set[str] = field(default_factory=set)
    """Streams with an event that cannot be read: nothing is given to them, and nothing taken from them."""
    _tops: int = 0
    _slots: int = 0

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

    def leave_alone(self, stream: str) -> None:
        """An event of it cannot be read, so nothing is known of its build, job, node or pool any more."""
        self.damaged.add(stream)
        prefix, _, number = stream.rpartition("-")
        if prefix == BUILD.prefix:
            self._dequeue(int(number))
            self.active.pop(int(number), None)
        elif prefix == JOB.prefix:
            self.jobs.pop(int(number), None)
        elif prefix == NODE.prefix:
            self.nodes.pop(int(number), None)

    def _build(self, event: BuildEvent) -> None:
        match event:
            case BuildQueued() if event.build_id not in self.queue and event.build_id not in self.active:
                wish = Requirements(
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
                    self._slots += 1
                    self.served[event.project_id] = self._slots
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
        insort(self.lanes.setdefault(build.lane, []), build.build_id)

    def _dequeue(self, build_id: int) -> Queued | None:
        build = self.queue.pop(build_id, None)
        if build is not None:
            lane = self.lanes[build.lane]
            del lane[bisect_left(lane, build_id)]
            if not lane:
                del self.lanes[build.lane]
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

    def orphans(self) -> list[LostBuild]:
        """Builds of a deleted job, on a deleted node, or of an agent that is gone or began anew."""
        found = [
            LostBuild(self.queue[build_id], None, "job_deleted")
            for lane, build_ids in self.lanes.items()
            if self._is_gone(JOB, lane.job_id, self.jobs)
            for build_id in build_ids
        ]
        for active in self.active.values():
            node = self.nodes.get(active.node_id)
            if self._is_gone(JOB, active.build.lane.job_id, self.jobs):
                found.append(LostBuild(active.build, active.node_id, "job_deleted"))
            elif self._is_gone(NODE, active.node_id, self.nodes):
                found.append(LostBuild(active.build, active.node_id, "node_removed"))
            elif node is not None and node.session != active.session:
                found.append(LostBuild(active.build, active.node_id, "agent_lost"))
        return found

    def _is_gone(self, category: Category[Any], number: int, known: Mapping[int, object]) -> bool:
        return number not in known and category.at(number).name not in self.damaged

    def unacknowledged(self) -> list[tuple[int, Active]]:
        return [(number, active) for number, active in self.active.items() if not active.acknowledged]
