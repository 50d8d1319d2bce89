"""Decides from the state of dispatch which build runs on which node. No input or output.

A node can get a build if all of this is true: the poll of its agent is open; the node has a free slot, and all tags
that the build requires; its agent has the features that the build's configuration needs; the build may use the node's
pool; if the node is for admins only, an admin queued the build; if the node is for a single build, it has had none; if
the build is untrusted, it is approved. The limits of the job and of the pool must not be exceeded.

Builds are placed in this order: first those that were moved to the top, then those with higher priority, then those of
the project with the fewest running builds, then those of the project that has waited longest for an assignment, then
the oldest. A build's priority rises by one with every ten minutes of waiting, so that no build waits for ever.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from heapq import heapify, heappop, heapreplace

from domain.autoscaling import Autoscaling
from domain.jobs import Job
from domain.nodes import Node
from domain.pools import POOL
from workers.dispatch.dispatch_state import DispatchState, QueuedBuild, QueueKey, Requirements

AGING_STEP = timedelta(minutes=10)
"""Waiting time that raises the priority of a build by one."""
REASON_ADMINS_ONLY = (
    "No node that it may use runs builds of anybody but admins, since they would have the rights of the server's own"
    " user. Connect an agent on another machine, or start the server by `testhide up --trust-builds`."
)

# The dispatcher fills in the id of the build, since the builds of a queue wait for one reason.
REASON_AWAITS_APPROVAL = (
    "It is of a pull request from a fork, so a writer of the project must approve it, by POST"
    " /api/v3/builds/{build_id}/approve."
)
REASON_TRUSTED_POOLS = (
    "It is of a pull request from a fork, and no node that it may use is in a pool for such builds: an admin makes one"
    ' such by PUT /api/v3/node-pools/{id} {"untrusted": true}.'
)


def place_builds(state: DispatchState, now: datetime) -> list[tuple[QueuedBuild, int]]:
    """Returns (build, node id) for each build to start now. Subtracts these builds from the open slots in `state`."""
    return list(_Round(state, now).assign())


def explain_waiting(
    state: DispatchState, now: datetime, scaled: Mapping[int, Autoscaling] | None = None
) -> dict[QueueKey, str]:
    """Returns queue -> sentence that says why the builds of the queue wait. `scaled` has the pools that are scaled, by
    their ids.
    """
    this_round = _Round(state, now)
    return {key: this_round.waiting_reason(key, scaled or {}) for key in state.queues}


def count_fitting(state: DispatchState, node: Node, now: datetime) -> int:
    """Counts the queued builds that this node could get if it had slots for all of them. Respects the limits of jobs,
    and ignores the limits of pools.
    """
    return _Round(state, now).count_fitting(node)


class _Round:
    """One round of placement. Counts the used slots, including the slots of builds that this round has placed."""

    def __init__(self, state: DispatchState, now: datetime) -> None:
        self._state = state
        self._now = now
        active = state.active.values()
        self._on_node = Counter(item.node_id for item in active)
        self._of_job = Counter(item.build.key.job_id for item in active)
        self._of_project = Counter(item.build.key.requirements.project_id for item in active)
        self._in_pool = Counter(
            node.pool_id for item in active if (node := state.nodes.get(item.node_id)) and node.pool_id is not None
        )
        self._served = state.served.copy()
        # The index of the next build in each queue.
        self._next = dict.fromkeys((key for key in state.queues if not key.awaits_approval), 0)
        self._asking = {
            node_id: node
            for node_id, node in state.nodes.items()
            if state.open_slots[node_id] > 0
            and node.session is not None
            and not node.quarantined
            and node_id not in state.spent
            and POOL.at(node.pool_id or 0).name not in state.damaged
        }

    def assign(self) -> Iterator[tuple[QueuedBuild, int]]:
        ranked = [(self._rank(key), key) for key in self._next] if self._asking else []
        heapify(ranked)
        while ranked and self._asking:
            rank, key = ranked[0]
            # Placing builds only makes ranks worse, so it suffices to check the rank of the queue that comes next.
            if (later := self._rank(key)) != rank:
                heapreplace(ranked, (later, key))
                continue
            node_id = self._node_for(key) if self._job_has_room(key) else None
            if node_id is None:
                heappop(ranked)  # for the rest of the round: room only shrinks
                continue
            yield self._head(key), node_id
            self._take(key, node_id)
            if self._next[key] == len(self._state.queues[key]):
                heappop(ranked)

    def count_fitting(self, node: Node) -> int:
        left: Counter[int] = Counter()
        for key in self._next:
            job = self._state.jobs.get(key.job_id)
            if job is not None and job.enabled and self._fits(key.requirements, node):
                left[job.job_id] += len(self._state.queues[key])
        return sum(
            min(count, max(0, self._state.jobs[job_id].max_parallel - self._of_job[job_id]))
            for job_id, count in left.items()
        )

    def _rank(self, key: QueueKey) -> tuple[int, ...]:
        """Returns the rank of a queue's first build that is not placed yet. The build with the lowest rank is placed
        first.
        """
        head = self._head(key)
        priority = key.priority + (self._now - head.queued_at) // AGING_STEP
        project_id = key.requirements.project_id
        return -key.top, -priority, self._of_project[project_id], self._served[project_id], head.build_id

    def _take(self, key: QueueKey, node_id: int) -> None:
        """Counts the first unplaced build of the queue as running on the node."""
        node, project_id = self._asking[node_id], key.requirements.project_id
        self._state.open_slots[node_id] -= 1
        if self._state.open_slots[node_id] == 0:
            del self._asking[node_id]
        self._next[key] += 1
        self._on_node[node_id] += 1
        self._of_job[key.job_id] += 1
        self._of_project[project_id] += 1
        self._served[project_id] = max(self._served.values(), default=0) + 1
        if node.pool_id is not None:
            self._in_pool[node.pool_id] += 1

    def _head(self, key: QueueKey) -> QueuedBuild:
        return self._state.queued[self._state.queues[key][self._next[key]]]

    def _job_has_room(self, key: QueueKey) -> bool:
        job = self._state.jobs.get(key.job_id)
        return job is not None and job.enabled and self._of_job[key.job_id] < job.max_parallel

    def _node_for(self, key: QueueKey) -> int | None:
        """Returns the id of the node for the next build of a queue: the suitable node with most free slots. Returns
        None if no node is suitable.
        """
        suitable = [
            node_id
            for node_id, node in self._asking.items()
            if self._has_room(node_id, node) and self._fits(key.requirements, node)
        ]
        return max(suitable, key=lambda node_id: (self._slots(node_id), -node_id), default=None)

    def _has_room(self, node_id: int, node: Node) -> bool:
        pool = None if node.pool_id is None else self._state.pools.get(node.pool_id)
        limit = None if pool is None else pool.max_parallel
        return self._slots(node_id) > 0 and (limit is None or self._in_pool[node.pool_id or 0] < limit)

    def _slots(self, node_id: int) -> int:
        return self._state.nodes[node_id].max_parallel - self._on_node[node_id]

    def _fits(self, requirements: Requirements, node: Node) -> bool:
        return (
            self._in_reach(requirements, node)
            and _admits(node, requirements)
            and requirements.tags.issubset(node.tags)
            and requirements.features <= node.features
        )

    def _in_reach(self, requirements: Requirements, node: Node) -> bool:
        """Returns whether a build with these requirements may use the pool of the node. Does not consider tags."""
        if requirements.pool_id not in (None, node.pool_id):
            return False
        if node.pool_id is None:
            return not requirements.pool_labels and not requirements.untrusted
        if not self._serves(node.pool_id, requirements):
            return False
        pool = self._state.pools[node.pool_id]
        # Commands of strangers may have changed the machines of an untrusted pool, so it takes other builds only of
        # jobs that name it.
        is_allowed = (
            pool.untrusted if requirements.untrusted else requirements.pool_id is not None or not pool.untrusted
        )
        return is_allowed and requirements.pool_labels <= frozenset(pool.labels.items())

    def _serves(self, pool_id: int, requirements: Requirements) -> bool:
        """Returns whether the build's project may use this pool now. A pool that was shared when the build was queued
        may not be shared any more.
        """
        pool = self._state.pools.get(pool_id)
        return pool is not None and pool.serves(requirements.project_id)

    def waiting_reason(self, key: QueueKey, scaled: Mapping[int, Autoscaling]) -> str:
        job = self._state.jobs.get(key.job_id)
        if job is None:
            return "Its job was deleted."
        if not job.enabled:
            return f"Job {key.job_id} is disabled."
        if key.awaits_approval:
            return REASON_AWAITS_APPROVAL
        requirements = key.requirements
        reachable = [item for item in self._state.nodes.items() if self._in_reach(requirements, item[1])]
        pool_id = requirements.pool_id
        if pool_id is not None and not self._serves(pool_id, requirements):
            return (
                f"Project {requirements.project_id} may not use node pool {pool_id}, which is of another project or"
                " deleted."
            )
        machines = self._machines_reason(requirements, scaled)
        if not reachable and machines and not self._job_has_room(key):
            return _job_limit_reason(job)
        if not reachable and machines:
            return machines
        if not reachable and requirements.untrusted:
            return REASON_TRUSTED_POOLS
        if not reachable:
            return f"There is no node in {'the pools that it may use' if pool_id is None else f'node pool {pool_id}'}."
        admitting = [item for item in reachable if _admits(item[1], requirements)]
        if not admitting:
            return REASON_ADMINS_ONLY
        tagged = [item for item in admitting if requirements.tags.issubset(item[1].tags)]
        if not tagged:
            return f"No node that it may use has the tags {', '.join(sorted(requirements.tags))}."
        online = [node for _, node in tagged if node.session is not None and not node.quarantined]
        if not online:
            return machines or "All nodes that it may use are offline or quarantined."
        if not any(requirements.features <= node.features for node in online):
            wanted = ", ".join(sorted(requirements.features))
            return f"No agent that it may use can do what its configuration asks for ({wanted}): update the agents."
        if not self._job_has_room(key):
            return _job_limit_reason(job)
        return (
            machines
            or self._maximum_reason(requirements, scaled)
            or "All nodes that it may use are busy, or their pool is at its limit."
        )

    def _machines_reason(self, requirements: Requirements, scaled: Mapping[int, Autoscaling]) -> str:
        """Returns why a build waits for a machine of a pool that is scaled; an empty string if no such pool may get a
        machine for it.
        """
        for pool_id, scaling in self._fitting_pools(requirements, scaled):
            is_online = any(node.pool_id == pool_id and node.session for node in self._state.nodes.values())
            if scaling.room == 0 and is_online:
                continue
            if self._now < scaling.retry_at:
                return (
                    f"A machine of node pool {pool_id} has failed; the next one is started after"
                    f" {scaling.retry_at:%H:%M:%S} UTC."
                )
            return f"Machines are being started for node pool {pool_id}."
        return ""

    def _maximum_reason(self, requirements: Requirements, scaled: Mapping[int, Autoscaling]) -> str:
        """Returns a sentence that says that a scaled pool has its maximum of machines. Considers the pools whose
        machines the build may use; returns an empty string if none of them has its maximum.
        """
        for pool_id, scaling in self._fitting_pools(requirements, scaled):
            if scaling.setting is not None and scaling.room == 0:
                return (
                    f"All nodes that it may use are busy, and node pool {pool_id} has its maximum number of machines,"
                    f" {scaling.setting.maximum}."
                )
        return ""

    def _fitting_pools(
        self, requirements: Requirements, scaled: Mapping[int, Autoscaling]
    ) -> Iterator[tuple[int, Autoscaling]]:
        """Yields the ids and states of the scaled pools whose machines a build may use."""
        for pool_id, scaling in scaled.items():
            machine = Node(0, "", "", pool_id, [], 1, features=requirements.features)
            if scaling.setting is not None and self._fits(requirements, machine):
                yield pool_id, scaling


def _job_limit_reason(job: Job) -> str:
    return f"Job {job.job_id} already runs {job.max_parallel} at once, which is its limit."


def _admits(node: Node, requirements: Requirements) -> bool:
    return requirements.by_admin or not node.admins_only
