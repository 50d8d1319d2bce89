"""The dispatcher's memory: which build goes where, without a database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import builds, jobs, nodes, pools
from domain.base import Event
from domain.builds import BuildAssigned, BuildFinished, BuildMovedToTop, BuildQueued, BuildRequeued, BuildStarted
from domain.jobs import JobCreated, JobDeleted, JobUpdated
from domain.nodes import NodeConnected, NodeDeleted, NodeQuarantined, NodeRegistered, NodeReleased, NodeWentOffline
from domain.pools import PoolCreated
from tests.commands.given import histories
from workers.scheduler import Orphan, Scheduler

PROJECT, OTHER_PROJECT = 1, 2
NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def ids(build_id: int, job_id: int = 5) -> dict[str, Any]:
    return {"build_id": build_id, "job_id": job_id, "project_id": PROJECT}


def job(job_id: int = 5, max_parallel: int = 9) -> JobCreated:
    return JobCreated(job_id=job_id, project_id=PROJECT, title="Smoke", max_parallel=max_parallel)


def queued(build_id: int, *, job_id: int = 5, priority: int = 5, pool: int | None = None, **more: Any) -> BuildQueued:
    fields = ids(build_id, job_id) | {"at": NOW} | more
    return BuildQueued(**fields, priority=priority, node_pool_id=pool)


def node(node_id: int = 3, *, max_parallel: int = 9, pool: int | None = None, tags: Sequence[str] = ()) -> list[Event]:
    fields: dict[str, Any] = {"node_id": node_id, "title": f"n{node_id}", "pool_id": pool, "tags": list(tags)}
    return [NodeRegistered(**fields, max_parallel=max_parallel), connected(node_id)]


def connected(node_id: int = 3, session: str = "s1") -> NodeConnected:
    said: dict[str, Any] = {"version": "1", "platform": "linux", "hostname": "h", "cpu_cores": 8, "ram_gb": 16.0}
    return NodeConnected(node_id=node_id, session=session, **said)


def pool(pool_id: int, *, project_id: int = PROJECT, shared: bool = False, **more: Any) -> PoolCreated:
    return PoolCreated(pool_id=pool_id, project_id=project_id, title="linux", shared=shared, **more)


def assigned(build_id: int, node_id: int = 3, attempt: int = 1) -> BuildAssigned:
    return BuildAssigned(**ids(build_id), node_id=node_id, attempt=attempt)


def after(*events: Event, polls: dict[int, int] | None = None) -> Scheduler:
    scheduler = Scheduler()
    for event in events:
        scheduler.apply(event)
    for node_id, free in (polls or {}).items():
        scheduler.polled(node_id, free)
    return scheduler


def placed(scheduler: Scheduler, now: datetime = NOW) -> list[tuple[int, int]]:
    return [(build.build_id, node_id) for build, node_id in scheduler.assignments(now)]


def test_a_build_goes_to_a_node_that_asks() -> None:
    assert placed(after(job(), *node(), queued(1), polls={3: 1})) == [(1, 3)]
    assert placed(after(job(), *node(), queued(1))) == []
    assert placed(after(job(), *node(), queued(1), polls={3: 0})) == []
    assert placed(after(job(), node()[0], queued(1), polls={3: 1})) == [], "its agent has not connected"


def test_a_node_gets_as_many_as_it_asks_for() -> None:
    scheduler = after(job(), *node(), *(queued(number) for number in range(1, 6)), polls={3: 2})
    assert placed(scheduler) == [(1, 3), (2, 3)]
    assert placed(scheduler) == [], "they count as asked for until the next poll"
    scheduler.polled(3, 1)
    assert len(placed(scheduler)) == 1


def test_priority_then_age() -> None:
    history = (queued(1, priority=1), queued(4, priority=9), queued(2, priority=9), queued(3))
    assert placed(after(job(), *node(), *history, polls={3: 4})) == [(2, 3), (4, 3), (3, 3), (1, 3)]


def test_a_build_that_went_back_keeps_its_age() -> None:
    lost = BuildRequeued(**ids(1), node_id=3, attempt=1, reason="agent_lost")
    scheduler = after(job(), *node(), queued(1), queued(2), assigned(1), lost, polls={3: 1})
    ((build, _),) = scheduler.assignments(NOW)
    assert (build.build_id, build.attempt) == (1, 1)


def test_a_job_runs_only_as_many_at_once_as_it_allows() -> None:
    history = (job(max_parallel=2), job(6), *node(), *(queued(number) for number in (1, 2, 3)), queued(4, job_id=6))
    assert placed(after(*history, assigned(1), polls={3: 9})) == [(2, 3), (4, 3)]
    wider = JobUpdated(job_id=5, project_id=PROJECT, max_parallel=3)
    assert placed(after(*history, assigned(1), wider, polls={3: 9})) == [(2, 3), (3, 3), (4, 3)]


def test_a_node_runs_only_as_many_at_once_as_it_allows() -> None:
    history = (job(), *node(max_parallel=2), queued(1), queued(2), queued(3))
    assert placed(after(*history, assigned(1), polls={3: 9})) == [(2, 3)]
    done = BuildFinished(**ids(1), status="passed", node_id=3)
    assert placed(after(*history, assigned(1), done, polls={3: 9})) == [(2, 3), (3, 3)]


def test_load_spreads() -> None:
    history = (job(), *node(3), *node(4), *(queued(number) for number in (1, 2, 3)))
    assert sorted(node_id for _, node_id in placed(after(*history, polls={3: 2, 4: 2}))) == [3, 3, 4]


def test_a_build_that_wants_a_pool_runs_there_only() -> None:
    history = (job(), pool(7), pool(8), *node(3, pool=8), *node(4), queued(1, pool=7))
    assert placed(after(*history, polls={3: 1, 4: 1})) == []
    assert placed(after(*history, *node(5, pool=7), polls={3: 1, 4: 1, 5: 1})) == [(1, 5)]


def test_a_pool_serves_its_project_unless_it_is_shared() -> None:
    history = (job(), queued(1), *node(3, pool=7))
    assert placed(after(*history, pool(7), polls={3: 1})) == [(1, 3)]
    assert placed(after(*history, pool(7, project_id=OTHER_PROJECT), polls={3: 1})) == []
    assert placed(after(*history, pool(7, project_id=OTHER_PROJECT, shared=True), polls={3: 1})) == [(1, 3)]


def test_a_pool_runs_only_as_many_at_once_as_it_allows() -> None:
    nodes = (*node(3, pool=7), *node(4, pool=7))
    history = (job(), pool(7, max_parallel=2), *nodes, *(queued(number) for number in range(1, 5)))
    assert len(placed(after(*history, polls={3: 2, 4: 2}))) == 2
    assert len(placed(after(*history, assigned(1), polls={3: 2, 4: 2}))) == 1


def test_a_node_has_the_tags_that_a_build_requires() -> None:
    history = (job(), queued(1, required_tags=["linux", "gpu"]), *node(3, tags=["linux"]))
    assert placed(after(*history, polls={3: 1})) == []
    assert placed(after(*history, *node(4, tags=["gpu", "linux", "fast"]), polls={3: 1, 4: 1})) == [(1, 4)]


def test_a_quarantined_node_gets_nothing() -> None:
    history = (job(), queued(1), *node(), NodeQuarantined(node_id=3))
    assert placed(after(*history, polls={3: 1})) == []
    assert placed(after(*history, NodeReleased(node_id=3), polls={3: 1})) == [(1, 3)]


def test_projects_take_turns() -> None:
    theirs = JobCreated(job_id=6, project_id=OTHER_PROJECT, title="Other", max_parallel=9)
    others = [queued(number, job_id=6, project_id=OTHER_PROJECT) for number in (8, 9)]
    history = (job(), theirs, *node(), *(queued(number) for number in range(1, 5)), *others)
    assert placed(after(*history, polls={3: 5})) == [(1, 3), (8, 3), (2, 3), (9, 3), (3, 3)]


def test_who_waits_long_rises() -> None:
    for minutes, first in ((19, 2), (30, 1)):
        now = NOW + timedelta(minutes=minutes)
        history = (job(), *node(), queued(1, priority=1), queued(2, priority=3, at=now))
        assert placed(after(*history, polls={3: 1}), now) == [(first, 3)]


def test_what_was_moved_to_the_top_goes_first_and_the_last_move_before_the_others() -> None:
    moves = (BuildMovedToTop(**ids(2)), BuildMovedToTop(**ids(3)))
    history = (job(), *node(), queued(1, priority=10), queued(2), queued(3), queued(4), *moves)
    assert placed(after(*history, polls={3: 4})) == [(3, 3), (2, 3), (1, 3), (4, 3)]


def test_builds_of_a_disabled_job_wait() -> None:
    disabled = JobUpdated(job_id=5, project_id=PROJECT, enabled=False)
    enabled = JobUpdated(job_id=5, project_id=PROJECT, enabled=True)
    assert placed(after(job(), *node(), queued(1), disabled, polls={3: 1})) == []
    assert placed(after(job(), *node(), queued(1), disabled, enabled, polls={3: 1})) == [(1, 3)]


def test_external_builds_are_nobodys_to_place() -> None:
    started = BuildStarted(**ids(1), node_id=None, attempt=1)
    assert placed(after(job(), *node(), queued(1), started, polls={3: 1})) == []


def test_who_connects_or_leaves_has_not_asked_yet() -> None:
    scheduler = after(job(), *node(), queued(1), polls={3: 1})
    scheduler.apply(connected(session="s2"))
    assert placed(scheduler) == []
    scheduler.polled(3, 1)
    scheduler.apply(NodeWentOffline(node_id=3, session="s1", reason="late news"))
    assert placed(scheduler) == [(1, 3)]
    scheduler.polled(3, 1)
    scheduler.apply(NodeWentOffline(node_id=3, session="s2", reason="silent"))
    assert placed(scheduler) == []


def test_what_nobody_took_up() -> None:
    scheduler = after(job(), *node(), queued(1), queued(2), assigned(1), assigned(2))
    assert [number for number, _ in scheduler.unacknowledged()] == [1, 2]
    scheduler.apply(BuildStarted(**ids(1), node_id=3, attempt=1))
    assert [number for number, _ in scheduler.unacknowledged()] == [2]


def orphans(scheduler: Scheduler) -> list[tuple[int, int | None, str]]:
    return [(orphan.build.build_id, orphan.node_id, orphan.reason) for orphan in scheduler.orphans()]


def test_builds_of_a_deleted_job_are_orphans() -> None:
    history = (job(), job(6), *node(), queued(1), queued(2), queued(3, job_id=6), assigned(1))
    assert orphans(after(*history)) == []
    assert orphans(after(*history, JobDeleted(job_id=5, project_id=PROJECT))) == [
        (2, None, "job_deleted"),
        (1, 3, "job_deleted"),
    ]


def test_builds_of_a_lost_agent_are_orphans() -> None:
    history = (job(), *node(), queued(1), queued(2), assigned(1))
    assert orphans(after(*history, connected(session="s1"))) == [], "the same agent came back"
    assert orphans(after(*history, connected(session="s2"))) == [(1, 3, "agent_lost")]
    gone = NodeWentOffline(node_id=3, session="s1", reason="silent")
    assert orphans(after(*history, gone)) == [(1, 3, "agent_lost")]
    assert orphans(after(*history, gone, connected(session="s2"))) == [(1, 3, "agent_lost")]
    assert orphans(after(*history, NodeDeleted(node_id=3))) == [(1, 3, "node_removed")]


def test_an_orphan_that_was_taken_back_is_none() -> None:
    history = (job(), *node(), queued(1), assigned(1), connected(session="s2"))
    (orphan,) = after(*history).orphans()
    assert orphan == Orphan(orphan.build, 3, "agent_lost")
    lost = BuildRequeued(**ids(1), node_id=3, attempt=1, reason="agent_lost")
    assert orphans(after(*history, lost)) == []
    assert orphans(after(*history, lost, assigned(1, attempt=2))) == []


@given(histories(*builds.EVENTS, *jobs.EVENTS, *nodes.EVENTS, *pools.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    scheduler = after(*history, polls={1: 1, 2: 2, 3: 3})
    scheduler.assignments(NOW)
    assert {orphan.build.build_id for orphan in scheduler.orphans()} <= scheduler.queue.keys() | scheduler.active.keys()
    assert not scheduler.queue.keys() & scheduler.active.keys()


class World(RuleBasedStateMachine):
    """A server as the scheduler sees it. What is checked is kept apart, as simply as possible."""

    JOBS, NODES, POOLS = (1, 2, 3), (1, 2, 3), (None, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.limits: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.pool_of: dict[int, int | None] = {}
        self.asked: dict[int, int] = {}
        self.online: set[int] = set()
        self.waiting: dict[int, BuildQueued] = {}
        self.running: dict[int, tuple[BuildQueued, int]] = {}
        self.builds = 0

    @initialize(
        limits=st.tuples(*[st.integers(1, 3)] * 3),
        sizes=st.tuples(*[st.integers(1, 3)] * 3),
        pool_of=st.tuples(*[st.sampled_from((None, 1, 2))] * 3),
    )
    def begin(self, limits: tuple[int, ...], sizes: tuple[int, ...], pool_of: tuple[int | None, ...]) -> None:
        self.limits = dict(zip(self.JOBS, limits, strict=True))
        self.sizes = dict(zip(self.NODES, sizes, strict=True))
        self.pool_of = dict(zip(self.NODES, pool_of, strict=True))
        for event in (
            pool(1),
            pool(2, project_id=OTHER_PROJECT),
            *(job(number, limit) for number, limit in self.limits.items()),
        ):
            self.scheduler.apply(event)
        for number, size in self.sizes.items():
            self.scheduler.apply(node(number, max_parallel=size, pool=self.pool_of[number])[0])

    @rule(job_id=st.sampled_from(JOBS), priority=st.integers(1, 3), wanted=st.sampled_from(POOLS))
    def queue(self, job_id: int, priority: int, wanted: int | None) -> None:
        self.builds += 1
        self.waiting[self.builds] = queued(self.builds, job_id=job_id, priority=priority, pool=wanted)
        self.scheduler.apply(self.waiting[self.builds])

    @rule(node_id=st.sampled_from(NODES), session=st.sampled_from(("a", "b")))
    def connect(self, node_id: int, session: str) -> None:
        self.scheduler.apply(connected(node_id, session))
        self.online.add(node_id)
        self.asked[node_id] = 0

    @rule(node_id=st.sampled_from(NODES), free=st.integers(0, 4))
    def poll(self, node_id: int, free: int) -> None:
        if node_id in self.online:
            self.scheduler.polled(node_id, free)
            self.asked[node_id] = free

    @rule(job_id=st.sampled_from(JOBS), limit=st.integers(1, 3))
    def limit(self, job_id: int, limit: int) -> None:
        self.scheduler.apply(JobUpdated(job_id=job_id, project_id=PROJECT, max_parallel=limit))
        self.limits[job_id] = limit

    @rule()
    def assign(self) -> None:
        before = [build for build in self.waiting.values() if self.fits_anywhere(build)]
        given_out = self.scheduler.assignments(NOW)
        for build, node_id in given_out:
            event = self.waiting.pop(build.build_id)
            wanted, has = event.node_pool_id, self.pool_of[node_id]
            assert has == wanted if wanted is not None else has in (None, 1), "the pools fit"
            assert node_id in self.online
            self.asked[node_id] -= 1
            self.running[build.build_id] = (event, node_id)
            self.scheduler.apply(BuildAssigned(**ids(build.build_id, event.job_id), node_id=node_id, attempt=1))
        assert all(asked >= 0 for asked in self.asked.values()), "nobody gets more than it asked for"
        for job_id, limit in self.limits.items():
            mine = [build.build_id for build, _ in given_out if self.running[build.build_id][0].job_id == job_id]
            assert not mine or self.of_job(job_id) <= limit
        for node_id, size in self.sizes.items():
            assert self.on_node(node_id) <= size
        left = [build for build in before if build.build_id in self.waiting]
        assert not any(self.fits_anywhere(build) for build in left), "nothing waits that could run"
        order = [(-event.priority, event.build_id) for event in (self.running[b.build_id][0] for b, _ in given_out)]
        assert order == sorted(order), "priority, then age"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), back=st.booleans())
    def end(self, data: st.DataObject, back: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        event, node_id = self.running.pop(number)
        fields = ids(number, event.job_id)
        if back:
            self.waiting[number] = event
            self.scheduler.apply(BuildRequeued(**fields, node_id=node_id, attempt=1, reason="agent_lost"))
        else:
            self.scheduler.apply(BuildFinished(**fields, status="passed", node_id=node_id))

    @invariant()
    def it_knows_what_waits_and_what_runs(self) -> None:
        assert self.scheduler.queue.keys() == self.waiting.keys()
        assert self.scheduler.active.keys() == self.running.keys()

    def of_job(self, job_id: int) -> int:
        return sum(event.job_id == job_id for event, _ in self.running.values())

    def on_node(self, node_id: int) -> int:
        return sum(node == node_id for _, node in self.running.values())

    def fits_anywhere(self, build: BuildQueued) -> bool:
        wanted = build.node_pool_id
        return self.of_job(build.job_id) < self.limits[build.job_id] and any(
            self.asked.get(node_id, 0) > 0
            and self.on_node(node_id) < self.sizes[node_id]
            and (self.pool_of[node_id] == wanted if wanted is not None else self.pool_of[node_id] in (None, 1))
            for node_id in self.online
        )


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
