"""Whatever happens, placement keeps to every limit, leaves no slot idle that something fits, and holds the order."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.builds import BuildApproved, BuildAssigned, BuildFinished, BuildMovedToTop, BuildQueued, BuildRequeued
from domain.core.events import Event
from domain.jobs import JobCreated, JobUpdated
from domain.nodes import NodeQuarantined, NodeRegistered, NodeReleased, NodeWentOffline
from domain.pools import PoolCreated, PoolUpdated
from tests.workers.test_dispatch_state import NOW, connected
from workers.dispatch.dispatch_state import DispatchState
from workers.dispatch.placement import place_builds

JOBS, NODES, POOLS = (1, 2, 3), (1, 2, 3), (1, 2, 3)
LABELS: tuple[dict[str, str], ...] = ({}, {"arch": "arm64"})
TAGS: tuple[list[str], ...] = ([], ["gpu"])


def project_of(job_id: int) -> int:
    return 1 + job_id % 2


@dataclass
class Machine:
    size: int
    pool: int | None
    tags: list[str]
    admins_only: bool = False
    online: bool = False
    quarantined: bool = False
    open_slots: int = 0


@dataclass
class Wanted:
    """A build as the world knows it."""

    event: BuildQueued
    top: int = 0
    node: int | None = None
    approved: bool = False

    @property
    def ids(self) -> dict[str, Any]:
        event = self.event
        return {"build_id": event.build_id, "job_id": event.job_id, "project_id": event.project_id}


@dataclass
class World:
    """What is true, kept apart from the state and as simply as possible."""

    job_limits: dict[int, int] = field(default_factory=dict)
    pools: dict[int, PoolCreated] = field(default_factory=dict)
    pool_limits: dict[int, int | None] = field(default_factory=dict)
    machines: dict[int, Machine] = field(default_factory=dict)
    waiting: dict[int, Wanted] = field(default_factory=dict)
    running: dict[int, Wanted] = field(default_factory=dict)
    served: list[int] = field(default_factory=list)
    """The project of each build that was placed, in their order."""
    now: datetime = NOW

    def on_node(self, node_id: int) -> int:
        return sum(build.node == node_id for build in self.running.values())

    def of_job(self, job_id: int) -> int:
        return sum(build.event.job_id == job_id for build in self.running.values())

    def of_project(self, project_id: int) -> int:
        return sum(build.event.project_id == project_id for build in self.running.values())

    def in_pool(self, pool_id: int) -> int:
        return sum(self.machines[build.node or 0].pool == pool_id for build in self.running.values())

    def may_run_on(self, build: Wanted, machine: Machine) -> bool:
        """Whether a machine is one for this build at all."""
        event = build.event
        if not set(event.required_tags) <= set(machine.tags) or (machine.admins_only and not event.by_admin):
            return False
        if event.node_pool_id is not None:
            if machine.pool != event.node_pool_id:
                return False
        elif machine.pool is None:
            return not event.pool_labels and not event.untrusted
        assert machine.pool is not None
        pool = self.pools[machine.pool]
        if event.untrusted and not (pool.untrusted and build.approved):
            return False
        if pool.untrusted and not event.untrusted and event.node_pool_id is None:
            return False
        return (pool.shared or pool.project_id == event.project_id) and event.pool_labels.items() <= pool.labels.items()

    def has_room(self, node_id: int) -> bool:
        machine = self.machines[node_id]
        limit = None if machine.pool is None else self.pool_limits[machine.pool]
        return (
            machine.online
            and not machine.quarantined
            and machine.open_slots > 0
            and self.on_node(node_id) < machine.size
            and (limit is None or self.in_pool(machine.pool or 0) < limit)
        )

    def fits(self, build: Wanted, node_id: int) -> bool:
        return (
            self.of_job(build.event.job_id) < self.job_limits[build.event.job_id]
            and self.has_room(node_id)
            and self.may_run_on(build, self.machines[node_id])
        )

    def matching(self) -> list[Wanted]:
        return [build for build in self.waiting.values() if any(self.fits(build, node) for node in NODES)]

    def turn(self, build: Wanted) -> tuple[int, ...]:
        """Who has the least goes first."""
        event = build.event
        priority = event.priority + (self.now - event.at) // timedelta(minutes=10)
        since = self.served[::-1].index(event.project_id) if event.project_id in self.served else len(self.served)
        return -build.top, -priority, self.of_project(event.project_id), -since, event.build_id


class Placing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = DispatchState()
        self.world = World()
        self.builds = 0
        self.moves = 0

    def happens(self, *events: Event) -> None:
        for event in events:
            self.state.apply(event)

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        draw, world = data.draw, self.world
        for job_id in JOBS:
            world.job_limits[job_id] = draw(st.integers(1, 3))
            most = world.job_limits[job_id]
            self.happens(JobCreated(job_id=job_id, project_id=project_of(job_id), title="j", max_parallel=most))
        for pool_id in POOLS:
            limit = world.pool_limits[pool_id] = draw(st.none() | st.integers(1, 3))
            labels = draw(st.sampled_from(LABELS))
            flags: dict[str, Any] = {name: draw(st.booleans()) for name in ("shared", "untrusted")}
            world.pools[pool_id] = PoolCreated(
                pool_id=pool_id,
                project_id=draw(st.integers(1, 2)),
                title="p",
                labels=labels,
                max_parallel=limit,
                **flags,
            )
            self.happens(world.pools[pool_id])
        for node_id in NODES:
            pool, tags = draw(st.none() | st.sampled_from(POOLS)), draw(st.sampled_from(TAGS))
            machine = world.machines[node_id] = Machine(draw(st.integers(1, 3)), pool, tags, draw(st.booleans()))
            about: dict[str, Any] = {"tags": tags, "max_parallel": machine.size, "admins_only": machine.admins_only}
            self.happens(NodeRegistered(node_id=node_id, title="n", pool_id=pool, **about))

    @rule(
        job_id=st.sampled_from(JOBS),
        priority=st.integers(1, 3),
        pool=st.none() | st.none() | st.sampled_from(POOLS),
        labels=st.sampled_from(LABELS),
        tags=st.sampled_from(TAGS),
        flags=st.fixed_dictionaries({"by_admin": st.booleans(), "untrusted": st.booleans()}),
    )
    def queue(
        self,
        job_id: int,
        priority: int,
        pool: int | None,
        labels: dict[str, str],
        tags: list[str],
        flags: dict[str, Any],
    ) -> None:
        self.builds += 1
        event = BuildQueued(
            build_id=self.builds,
            job_id=job_id,
            project_id=project_of(job_id),
            priority=priority,
            node_pool_id=pool,
            pool_labels={} if pool else labels,
            required_tags=tags,
            at=self.world.now,
            **flags,
        )
        self.world.waiting[self.builds] = Wanted(event)
        self.happens(event)

    @rule(pool_id=st.sampled_from(POOLS), name=st.sampled_from(("shared", "untrusted")), value=st.booleans())
    def change_pool(self, pool_id: int, name: str, value: bool) -> None:
        pool = self.world.pools[pool_id]
        changed: dict[str, Any] = {name: value}
        self.world.pools[pool_id] = msgspec.structs.replace(pool, **changed)
        self.happens(PoolUpdated(pool_id=pool_id, project_id=pool.project_id, **changed))

    @rule(node_id=st.sampled_from(NODES), session=st.sampled_from(("a", "b")), free=st.integers(0, 4))
    def connect(self, node_id: int, session: str, free: int) -> None:
        self.happens(connected(node_id, session))
        self.state.polled(node_id, free)
        machine = self.world.machines[node_id]
        machine.online, machine.open_slots = True, free

    @rule(node_id=st.sampled_from(NODES), free=st.integers(0, 4))
    def poll(self, node_id: int, free: int) -> None:
        if self.world.machines[node_id].online:
            self.state.polled(node_id, free)
            self.world.machines[node_id].open_slots = free

    @rule(node_id=st.sampled_from(NODES))
    def leave(self, node_id: int) -> None:
        session = self.state.nodes[node_id].session
        if session is not None:
            self.happens(NodeWentOffline(node_id=node_id, session=session, reason="silent"))
            machine = self.world.machines[node_id]
            machine.online, machine.open_slots = False, 0

    @rule(node_id=st.sampled_from(NODES), quarantined=st.booleans())
    def quarantine(self, node_id: int, quarantined: bool) -> None:
        self.happens(NodeQuarantined(node_id=node_id) if quarantined else NodeReleased(node_id=node_id))
        self.world.machines[node_id].quarantined = quarantined

    @rule(job_id=st.sampled_from(JOBS), limit=st.integers(1, 3))
    def limit_job(self, job_id: int, limit: int) -> None:
        self.happens(JobUpdated(job_id=job_id, project_id=project_of(job_id), max_parallel=limit))
        self.world.job_limits[job_id] = limit

    @rule(pool_id=st.sampled_from(POOLS), limit=st.none() | st.integers(1, 3))
    def limit_pool(self, pool_id: int, limit: int | None) -> None:
        ids: dict[str, Any] = {"pool_id": pool_id, "project_id": self.world.pools[pool_id].project_id}
        if limit is None:
            self.happens(PoolUpdated(**ids, cleared=("max_parallel",)))
        else:
            self.happens(PoolUpdated(**ids, max_parallel=limit))
        self.world.pool_limits[pool_id] = limit

    @precondition(lambda self: self.world.waiting)
    @rule(data=st.data())
    def move_to_top(self, data: st.DataObject) -> None:
        build = self.world.waiting[data.draw(st.sampled_from(sorted(self.world.waiting)))]
        self.moves += 1
        build.top = self.moves
        self.happens(BuildMovedToTop(**build.ids))

    @precondition(lambda self: self.world.waiting)
    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        build = self.world.waiting[data.draw(st.sampled_from(sorted(self.world.waiting)))]
        if build.event.untrusted and not build.approved:
            build.approved = True
            self.happens(BuildApproved(**build.ids))

    @rule(minutes=st.integers(1, 25))
    def time_passes(self, minutes: int) -> None:
        self.world.now += timedelta(minutes=minutes)

    @rule()
    def assign(self) -> None:
        world = self.world
        for queued, node_id in place_builds(self.state, world.now):
            build = world.waiting[queued.build_id]
            assert world.fits(build, node_id), "no limit is exceeded, nothing runs where it may not"
            assert world.turn(build) == min(world.turn(other) for other in world.matching()), "the order holds"
            build.node = node_id
            world.served.append(build.event.project_id)
            world.machines[node_id].open_slots -= 1
            world.running[queued.build_id] = world.waiting.pop(queued.build_id)
            self.happens(BuildAssigned(**build.ids, node_id=node_id, attempt=1))
        assert world.matching() == [], "nothing waits that could run"

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), back=st.booleans())
    def end(self, data: st.DataObject, back: bool) -> None:
        build = self.world.running.pop(data.draw(st.sampled_from(sorted(self.world.running))))
        node_id, build.node = build.node or 0, None
        if back:
            self.world.waiting[build.event.build_id] = build
            self.happens(BuildRequeued(**build.ids, node_id=node_id, attempt=1, reason="agent_lost"))
        else:
            self.happens(BuildFinished(**build.ids, status="passed", node_id=node_id))

    @invariant()
    def it_knows_what_waits_and_what_runs(self) -> None:
        assert self.state.queued.keys() == self.world.waiting.keys()
        assert self.state.active.keys() == self.world.running.keys()


TestPlacing = Placing.TestCase
TestPlacing.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
