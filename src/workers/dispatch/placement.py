"""Which build goes to which node, decided on what the scheduler remembers; pure.

A node takes a build when its agent asks for one (its poll is open), it has a free slot, it belongs to a pool that the
build wants and has the tags that it requires; jobs and pools have limits of their own. What was moved to the top goes
first, then higher priority, then the project with the fewest builds running, of those the one that was served the
longest ago, then age. Every ten minutes of waiting raise a build by one priority, so that nothing starves.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from heapq import heapify, heappop, heapreplace

from domain.pools import POOL
from workers.dispatch.scheduler import Lane, NodePlace, Queued, Requirements, Scheduler

AGING = timedelta(minutes=10)


def assignments(scheduler: Scheduler, now: datetime) -> list[tuple[Queued, int]]:
    """(build, node id) pairs that fit together now. The nodes ask for that many builds less from here on."""
    return list(_Round(scheduler, now).placed())


def waiting_for(scheduler: Scheduler, now: datetime) -> dict[Lane, str]:
    """Why the builds of each lane wait: what is missing, in a sentence."""
    this_round = _Round(scheduler, now)
    return {lane: this_round.obstacle(lane) for lane in scheduler.lanes}


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
        self._served = scheduler.served.copy()
        # Next build of each lane, as a place in it.
        self._next = dict.fromkeys(scheduler.lanes, 0)
        self._asking = {
            node_id: node
            for node_id, node in scheduler.nodes.items()
            if node.asks > 0
            and node.session is not None
            and not node.quarantined
            and POOL.at(node.pool_id or 0).name not in scheduler.damaged
        }

    def placed(self) -> Iterator[tuple[Queued, int]]:
        turns = [(self._turn(lane), lane) for lane in self._next] if self._asking else []
        heapify(turns)
        while turns and self._asking:
            turn, lane = turns[0]
            # What is placed only ever puts lanes back, never forward: a late one is seen when it comes up.
            if (later := self._turn(lane)) != turn:
                heapreplace(turns, (later, lane))
                continue
            node_id = self._node_for(lane) if self._job_has_room(lane) else None
            if node_id is None:
                heappop(turns)  # for good: within a round room only shrinks
                continue
            yield self._head(lane), node_id
            self._take(lane, node_id)
            if self._next[lane] == len(self._scheduler.lanes[lane]):
                heappop(turns)

    def _turn(self, lane: Lane) -> tuple[int, ...]:
        """Who has the least goes first."""
        head = self._head(lane)
        priority = lane.priority + (self._now - head.queued_at) // AGING
        project_id = lane.wish.project_id
        return -lane.top, -priority, self._of_project[project_id], self._served[project_id], head.build_id

    def _take(self, lane: Lane, node_id: int) -> None:
        """The lane's next build goes to the node."""
        node, project_id = self._asking[node_id], lane.wish.project_id
        node.asks -= 1
        if node.asks == 0:
            del self._asking[node_id]
        self._next[lane] += 1
        self._on_node[node_id] += 1
        self._of_job[lane.job_id] += 1
        self._of_project[project_id] += 1
        self._served[project_id] = max(self._served.values(), default=0) + 1
        if node.pool_id is not None:
            self._in_pool[node.pool_id] += 1

    def _head(self, lane: Lane) -> Queued:
        return self._scheduler.queue[self._scheduler.lanes[lane][self._next[lane]]]

    def _job_has_room(self, lane: Lane) -> bool:
        job = self._scheduler.jobs.get(lane.job_id)
        return job is not None and job.enabled and self._of_job[lane.job_id] < job.max_parallel

    def _node_for(self, lane: Lane) -> int | None:
        """The fitting node with the most free slots, so that load spreads."""
        fitting = [
            node_id
            for node_id, node in self._asking.items()
            if self._has_room(node_id, node) and self._fits(lane.wish, node)
        ]
        return max(fitting, key=lambda node_id: (self._slots(node_id), -node_id), default=None)

    def _has_room(self, node_id: int, node: NodePlace) -> bool:
        pool = None if node.pool_id is None else self._scheduler.pools.get(node.pool_id)
        limit = None if pool is None else pool.max_parallel
        return self._slots(node_id) > 0 and (limit is None or self._in_pool[node.pool_id or 0] < limit)

    def _slots(self, node_id: int) -> int:
        return self._scheduler.nodes[node_id].max_parallel - self._on_node[node_id]

    def _fits(self, wish: Requirements, node: NodePlace) -> bool:
        return self._in_reach(wish, node) and wish.tags <= node.tags

    def _in_reach(self, wish: Requirements, node: NodePlace) -> bool:
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
