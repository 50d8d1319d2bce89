"""The dispatcher's state in memory: queued and running builds, jobs, pools and nodes. No input or output.

Events and the polls of agents change the state. `workers.dispatch.placement` decides from the state which build runs on
which node. Each queue has queued builds that are equal in everything that matters for placement except their age, the
oldest first.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

from domain.builds import (
    BUILD,
    BuildApproved,
    BuildAssigned,
    BuildEvent,
    BuildFinished,
    BuildMovedToTop,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
)
from domain.core.events import Category, Event
from domain.docker_agents import DockerAgentDestroyRequested, DockerAgentRegistered
from domain.jobs import JOB, Job, JobConfigured, JobEvent, JobTriggersChanged, find_required_features
from domain.nodes import NODE, Node, NodeConnected, NodeDeleted, NodeEvent, NodeWentOffline
from domain.pools import POOL, Pool, PoolEvent
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationRequested,
    find_operation_id,
    make_machine_id,
)

PLACEMENT_EVENTS = (
    BuildQueued,
    BuildApproved,
    BuildMovedToTop,
    BuildAssigned,
    BuildStarted,
    BuildRequeued,
    BuildFinished,
)
"""Types of events about builds that change which builds wait or which slots are free."""

D = TypeVar("D", Job, Node, Pool)


class Requirements(NamedTuple):
    """Properties of a build that decide on which nodes it may run."""

    project_id: int
    pool_id: int | None
    pool_labels: frozenset[tuple[str, str]]
    tags: frozenset[str]
    by_admin: bool
    """Whether an admin queued the build."""
    features: frozenset[str] = frozenset()
    """Features that the agent must have."""
    untrusted: bool = False
    """Whether only nodes in pools for untrusted builds may run the build."""


class QueueKey(NamedTuple):
    """Identifies a queue. Contains all properties of a build that matter for placement, except its age."""

    top: int
    """Above 0 for builds moved to the top; the latest move has the highest number."""
    priority: int
    job_id: int
    requirements: Requirements
    awaits_approval: bool = False


@dataclass
class QueuedBuild:
    build_id: int
    key: QueueKey
    queued_at: datetime
    attempt: int = 0


@dataclass
class ActiveBuild:
    build: QueuedBuild
    node_id: int
    session: str | None
    """Session of the agent at the time when the build was assigned to it."""
    acknowledged: bool = False


@dataclass(frozen=True)
class LostBuild:
    """A build that cannot go on because its job, node or agent is gone. `node_id` is None for a queued build."""

    build: QueuedBuild
    node_id: int | None
    reason: Literal["job_deleted", "node_removed", "agent_lost"]


@dataclass
class DispatchState:
    jobs: dict[int, Job] = field(default_factory=dict)
    """Jobs by id, without their configurations, which placement does not need."""
    pools: dict[int, Pool] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    open_slots: Counter[int] = field(default_factory=Counter)
    """Node id -> number of builds that the open poll of the node's agent still accepts."""
    queued: dict[int, QueuedBuild] = field(default_factory=dict)
    active: dict[int, ActiveBuild] = field(default_factory=dict)
    queues: dict[QueueKey, list[int]] = field(default_factory=dict)
    """Ids of the queued builds in each queue, the oldest first. Empty queues are deleted."""
    served: Counter[int] = field(default_factory=Counter)
    """Project id -> number of the project's last assignment. Assignments are numbered from 1, across all projects."""
    spent: set[int] = field(default_factory=set)
    """Ids of the nodes that get no more builds: each was for a single build and has had it, or the destruction of its
    machine was requested. Releasing such a node from quarantine changes nothing. Reverting its virtual machine removes
    the node from this set.
    """
    damaged: set[str] = field(default_factory=set)
    """Names of streams with an unreadable event. A build is not placed if its job has such a stream. No build is placed
    on a node, or in a pool, with such a stream. Running builds go on: a build does not count as lost if its job or node
    is missing from the state because of a damaged stream.
    """
    _node_of_agent: dict[str, int] = field(default_factory=dict)
    """Id of a Docker agent or virtual machine -> id of its node."""
    _tops: int = 0
    _slots: int = 0

    def apply(self, event: Event) -> None:
        match event:
            case BuildEvent():
                self._build(event)
            case JobEvent() if not isinstance(event, JobConfigured | JobTriggersChanged):
                _fold(JOB, self.jobs, event.job_id, event)
            case NodeEvent():
                self._node(event)
            case DockerAgentRegistered():
                self._node_of_agent[event.agent_id] = event.node_id
            case DockerAgentDestroyRequested():
                if (node_id := self._node_of_agent.pop(event.agent_id, None)) in self.nodes:
                    self.spent.add(node_id)
            case VcenterMachineRegistered():
                machine_id = make_machine_id(event.operation_id)
                if self._node_of_agent.get(machine_id) == event.node_id:
                    self.spent.discard(event.node_id)  # the machine was reverted, and its node has a new token
                self._node_of_agent[machine_id] = event.node_id
            case VcenterOperationRequested(kind="delete", vm_name=str(name)) if name:
                machine_id = make_machine_id(find_operation_id(name) or 0)
                if (node_id := self._node_of_agent.pop(machine_id, None)) in self.nodes:
                    self.spent.add(node_id)
            case PoolEvent():
                _fold(POOL, self.pools, event.pool_id, event)

    def mark_damaged(self, stream: str) -> None:
        """Records that a stream has an unreadable event. Removes the build, job or node of the stream, since its state
        is unknown.
        """
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
            case BuildQueued() if event.build_id not in self.queued and event.build_id not in self.active:
                requirements = Requirements(
                    event.project_id,
                    event.node_pool_id,
                    frozenset(event.pool_labels.items()),
                    frozenset(event.required_tags),
                    event.by_admin,
                    find_required_features(event.configuration),
                    event.untrusted,
                )
                key = QueueKey(0, event.priority, event.job_id, requirements, event.untrusted)
                self._enqueue(QueuedBuild(event.build_id, key, event.at))
            case BuildApproved():
                if build := self._dequeue(event.build_id):
                    build.key = build.key._replace(awaits_approval=False)
                    self._enqueue(build)
            case BuildMovedToTop():
                if build := self._dequeue(event.build_id):
                    self._tops += 1
                    build.key = build.key._replace(top=self._tops)
                    self._enqueue(build)
            case BuildAssigned():
                if build := self._dequeue(event.build_id):
                    build.attempt = event.attempt
                    self._slots += 1
                    self.served[event.project_id] = self._slots
                    node = self.nodes.get(event.node_id)
                    if node is not None and node.single_use:
                        self.spent.add(event.node_id)
                    self.active[event.build_id] = ActiveBuild(build, event.node_id, node.session if node else None)
            case BuildStarted():
                if event.node_id is None:  # external: not run by our nodes
                    self._dequeue(event.build_id)
                elif active := self.active.get(event.build_id):
                    active.acknowledged = True
            case BuildRequeued():
                if active := self.active.pop(event.build_id, None):
                    self._enqueue(active.build)
            case BuildFinished():
                self._dequeue(event.build_id)
                self.active.pop(event.build_id, None)

    def _enqueue(self, build: QueuedBuild) -> None:
        self.queued[build.build_id] = build
        insort(self.queues.setdefault(build.key, []), build.build_id)

    def _dequeue(self, build_id: int) -> QueuedBuild | None:
        build = self.queued.pop(build_id, None)
        if build is not None:
            queue = self.queues[build.key]
            del queue[bisect_left(queue, build_id)]
            if not queue:
                del self.queues[build.key]
        return build

    def _node(self, event: NodeEvent) -> None:
        before = self.nodes.get(event.node_id)
        _fold(NODE, self.nodes, event.node_id, event)
        is_other_session = isinstance(event, NodeConnected | NodeWentOffline | NodeDeleted)
        if is_other_session and self.nodes.get(event.node_id) is not before:
            self.open_slots.pop(event.node_id, None)
        if isinstance(event, NodeDeleted):
            self.spent.discard(event.node_id)

    def polled(self, node_id: int, free: int) -> None:
        """Records how many builds the open poll of a node's agent accepts. `free` is 0 when the poll was closed."""
        if node_id in self.nodes:
            self.open_slots[node_id] = free

    def lost_builds(self) -> list[LostBuild]:
        """Returns the builds that cannot go on: their job or node was deleted, or their agent is offline or has a new
        session.
        """
        found = [
            LostBuild(self.queued[build_id], None, "job_deleted")
            for key, build_ids in self.queues.items()
            if self._is_gone(JOB, key.job_id, self.jobs)
            for build_id in build_ids
        ]
        for active in self.active.values():
            node = self.nodes.get(active.node_id)
            if self._is_gone(JOB, active.build.key.job_id, self.jobs):
                found.append(LostBuild(active.build, active.node_id, "job_deleted"))
            elif self._is_gone(NODE, active.node_id, self.nodes):
                found.append(LostBuild(active.build, active.node_id, "node_removed"))
            elif node is not None and node.session != active.session:
                found.append(LostBuild(active.build, active.node_id, "agent_lost"))
        return found

    def _is_gone(self, category: Category[Any], number: int, known: Mapping[int, object]) -> bool:
        return number not in known and category.at(number).name not in self.damaged

    def unacknowledged(self) -> list[tuple[int, ActiveBuild]]:
        return [(number, active) for number, active in self.active.items() if not active.acknowledged]


def _fold(category: Category[D | None], states: dict[int, D], key: int, event: Event) -> None:
    """Applies the event to the state of the job, node or pool with the id `key`. Removes the state from `states` if the
    event deletes it.
    """
    state = category.evolve(states.get(key), event)
    if state is None or state.deleted:
        states.pop(key, None)
    else:
        states[key] = state
