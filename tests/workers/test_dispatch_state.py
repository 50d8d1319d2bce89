"""The dispatcher's memory: which build goes where, without a database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given

from domain import builds, jobs, nodes, pools
from domain.builds import (
    BuildAssigned,
    BuildFinished,
    BuildMovedToTop,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
)
from domain.core.events import Event
from domain.jobs import Configuration, JobCreated, JobDeleted, JobUpdated
from domain.nodes import (
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from tests.support.strategies import histories
from workers.dispatch.dispatch_state import DispatchState, LostBuild
from workers.dispatch.placement import (
    REASON_ADMINS_ONLY,
    explain_waiting,
    place_builds,
)

PROJECT, OTHER_PROJECT = 1, 2
NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def ids(build_id: int, job_id: int = 5) -> dict[str, Any]:
    return {"build_id": build_id, "job_id": job_id, "project_id": PROJECT}


def job(job_id: int = 5, max_parallel: int = 9) -> JobCreated:
    return JobCreated(job_id=job_id, project_id=PROJECT, title="Smoke", max_parallel=max_parallel)


def queued(build_id: int, *, job_id: int = 5, priority: int = 5, pool: int | None = None, **more: Any) -> BuildQueued:
    fields: dict[str, Any] = {**ids(build_id, job_id), "at": NOW, **more}
    return BuildQueued(**fields, priority=priority, node_pool_id=pool)


def node(node_id: int = 3, *, max_parallel: int = 9, pool: int | None = None, tags: Sequence[str] = ()) -> list[Event]:
    fields: dict[str, Any] = {"node_id": node_id, "title": f"n{node_id}", "pool_id": pool, "tags": list(tags)}
    return [NodeRegistered(**fields, max_parallel=max_parallel), connected(node_id)]


def connected(node_id: int = 3, session: str = "s1") -> NodeConnected:
    reported: dict[str, Any] = {"version": "1", "platform": "linux", "hostname": "h", "cpu_cores": 8, "ram_gb": 16.0}
    return NodeConnected(node_id=node_id, session=session, **reported)


def pool(pool_id: int, *, project_id: int = PROJECT, shared: bool = False, **more: Any) -> PoolCreated:
    return PoolCreated(pool_id=pool_id, project_id=project_id, title="linux", shared=shared, **more)


def assigned(build_id: int, node_id: int = 3, attempt: int = 1, project_id: int = PROJECT) -> BuildAssigned:
    return BuildAssigned(build_id=build_id, job_id=5, project_id=project_id, node_id=node_id, attempt=attempt)


def after(*events: Event, polls: dict[int, int] | None = None) -> DispatchState:
    state = DispatchState()
    for event in events:
        state.apply(event)
    for node_id, free in (polls or {}).items():
        state.polled(node_id, free)
    return state


def placed(state: DispatchState, now: datetime = NOW) -> list[tuple[int, int]]:
    return [(build.build_id, node_id) for build, node_id in place_builds(state, now)]


def test_a_build_goes_to_a_node_that_asks() -> None:
    assert placed(after(job(), *node(), queued(1), polls={3: 1})) == [(1, 3)]
    assert placed(after(job(), *node(), queued(1))) == []
    assert placed(after(job(), *node(), queued(1), polls={3: 0})) == []
    assert placed(after(job(), node()[0], queued(1), polls={3: 1})) == [], "its agent has not connected"


@pytest.mark.parametrize("by_admin", [True, False])
def test_a_node_for_admins_only_runs_what_an_admin_queued(by_admin: bool) -> None:
    history = (job(), *node(), NodeUpdated(node_id=3, admins_only=True), queued(1, by_admin=by_admin))
    assert placed(after(*history, polls={3: 1})) == ([(1, 3)] if by_admin else [])
    assert reasons(*history, *node(4, pool=9)) == [
        "All nodes that it may use are busy, or their pool is at its limit." if by_admin else REASON_ADMINS_ONLY
    ]
    assert placed(after(*history, *node(4), polls={4: 1})) == [(1, 4)]
    assert placed(after(*history, NodeUpdated(node_id=3, admins_only=False), polls={3: 1})) == [(1, 3)]


def test_a_build_waits_for_an_agent_that_can_do_what_it_asks_for() -> None:
    history = (job(), *node(), queued(1, configuration=Configuration(shell="bash")))
    assert placed(after(*history, polls={3: 1})) == []
    assert reasons(*history) == [
        "No agent that it may use can do what its configuration asks for (shell): update the agents."
    ]
    updated = msgspec.structs.replace(connected(session="s2"), features=["caches", "shell"])
    assert placed(after(*history, updated, polls={3: 1})) == [(1, 3)]
    assert placed(after(*history, updated, connected(session="s3"), polls={3: 1})) == [], "an older one took its place"


def test_a_node_gets_as_many_as_it_asks_for() -> None:
    state = after(job(), *node(), *(queued(number) for number in range(1, 6)), polls={3: 2})
    assert placed(state) == [(1, 3), (2, 3)]
    assert placed(state) == [], "they count as asked for until the next poll"
    state.polled(3, 1)
    assert len(placed(state)) == 1


def test_priority_then_age() -> None:
    history = (queued(1, priority=1), queued(4, priority=9), queued(2, priority=9), queued(3))
    assert placed(after(job(), *node(), *history, polls={3: 4})) == [(2, 3), (4, 3), (3, 3), (1, 3)]


def test_a_build_that_went_back_keeps_its_age() -> None:
    """So it goes before all that are alike, also where it was moved to the top before."""
    lost = BuildRequeued(**ids(2), node_id=3, attempt=1, reason="agent_lost")
    waiting = [queued(number) for number in (1, 2, 3, 4)]
    ended = BuildFinished(**ids(1), status="aborted", reason="stopped_by_user")
    state = after(job(), *node(), *waiting, ended, assigned(2), lost, polls={3: 1})
    ((build, _),) = place_builds(state, NOW)
    assert (build.build_id, build.attempt) == (2, 1)
    moved = BuildMovedToTop(**ids(2))
    assert placed(after(job(), *node(), *waiting, moved, assigned(2), lost, polls={3: 1})) == [(2, 3)]


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


def test_a_build_that_wants_labels_runs_in_pools_that_have_them() -> None:
    history = (job(), queued(1, pool_labels={"arch": "arm64", "os": "linux"}), *node(2))
    unlike = (pool(7, labels={"arch": "arm64", "os": "mac"}), *node(3, pool=7))
    foreign = (pool(8, project_id=OTHER_PROJECT, labels={"arch": "arm64", "os": "linux"}), *node(4, pool=8))
    alike = (pool(9, labels={"arch": "arm64", "os": "linux", "size": "big"}), *node(5, pool=9))
    polls = {2: 1, 3: 1, 4: 1, 5: 1}
    assert placed(after(*history, *unlike, *foreign, polls=polls)) == []
    assert placed(after(*history, *unlike, *foreign, *alike, polls=polls)) == [(1, 5)]
    renamed = PoolUpdated(pool_id=7, project_id=PROJECT, labels={"arch": "arm64", "os": "linux"})
    assert placed(after(*history, *unlike, renamed, polls=polls)) == [(1, 3)]


def test_a_quarantined_node_gets_nothing() -> None:
    history = (job(), queued(1), *node(), NodeQuarantined(node_id=3))
    assert placed(after(*history, polls={3: 1})) == []
    assert placed(after(*history, NodeReleased(node_id=3), polls={3: 1})) == [(1, 3)]


def test_projects_take_turns() -> None:
    theirs = JobCreated(job_id=6, project_id=OTHER_PROJECT, title="Other", max_parallel=9)
    others = [queued(number, job_id=6, project_id=OTHER_PROJECT) for number in (8, 9)]
    history = (job(), theirs, *node(), *(queued(number) for number in range(1, 5)), *others)
    assert placed(after(*history, polls={3: 5})) == [(1, 3), (8, 3), (2, 3), (9, 3), (3, 3)]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_busy_projects_take_turns_as_slots_come_free(slots: int) -> None:
    """However old what waits in one of them is."""
    theirs = JobCreated(job_id=6, project_id=OTHER_PROJECT, title="Other", max_parallel=9)
    mine = [queued(number) for number in range(1, 7)]
    others = [queued(number, job_id=6, project_id=OTHER_PROJECT) for number in range(7, 13)]
    state = after(job(), theirs, *node(max_parallel=slots), *mine, *others, polls={3: slots})
    projects = {event.build_id: event.project_id for event in (*mine, *others)}
    order: list[int] = []
    while found := placed(state):
        for number, _ in found:
            order.append(number)
            state.apply(assigned(number, project_id=projects[number]))
        oldest = next(iter(state.active))
        state.apply(BuildFinished(**ids(oldest), status="passed", node_id=3))
        state.polled(3, 1)
    assert order == [1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]


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
    state = after(job(), *node(), queued(1), polls={3: 1})
    state.apply(connected(session="s2"))
    assert placed(state) == []
    state.polled(3, 1)
    state.apply(NodeWentOffline(node_id=3, session="s1", reason="late news"))
    assert placed(state) == [(1, 3)]
    state.polled(3, 1)
    state.apply(NodeWentOffline(node_id=3, session="s2", reason="silent"))
    assert placed(state) == []


def test_what_nobody_took_up() -> None:
    state = after(job(), *node(), queued(1), queued(2), assigned(1), assigned(2))
    assert [number for number, _ in state.unacknowledged()] == [1, 2]
    state.apply(BuildStarted(**ids(1), node_id=3, attempt=1))
    assert [number for number, _ in state.unacknowledged()] == [2]


def reasons(*events: Event) -> list[str]:
    return list(explain_waiting(after(*events), NOW).values())


ON_GPU: dict[str, Any] = {"required_tags": ["gpu", "linux"]}


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ((queued(1),), "Its job was deleted."),
        ((job(), JobUpdated(job_id=5, project_id=PROJECT, enabled=False), *node(), queued(1)), "Job 5 is disabled."),
        ((job(), queued(1)), "There is no node in the pools that it may use."),
        ((job(), pool(7), *node(), queued(1, pool=7)), "There is no node in node pool 7."),
        (
            (job(), pool(7, project_id=9), *node(pool=7), queued(1, pool=7)),
            "Project 1 may not use node pool 7, which is of another project or deleted.",
        ),
        (
            (job(), pool(7), PoolDeleted(pool_id=7, project_id=PROJECT), *node(pool=7), queued(1, pool=7)),
            "Project 1 may not use node pool 7, which is of another project or deleted.",
        ),
        ((job(), *node(), queued(1, pool_labels={"a": "b"})), "There is no node in the pools that it may use."),
        ((job(), *node(tags=["gpu"]), queued(1, **ON_GPU)), "No node that it may use has the tags gpu, linux."),
        ((job(), node()[0], queued(1)), "All nodes that it may use are offline or quarantined."),
        (
            (job(), *node(), NodeQuarantined(node_id=3), node(4)[0], queued(1)),
            "All nodes that it may use are offline or quarantined.",
        ),
        (
            (job(max_parallel=1), *node(), queued(1), queued(2), assigned(1)),
            "Job 5 already runs 1 at once, which is its limit.",
        ),
        (
            (job(), *node(max_parallel=1), queued(1), queued(2), assigned(1)),
            "All nodes that it may use are busy, or their pool is at its limit.",
        ),
        (
            (job(), pool(7, max_parallel=1), *node(pool=7), queued(1), queued(2), assigned(1)),
            "All nodes that it may use are busy, or their pool is at its limit.",
        ),
    ],
)
def test_what_a_build_waits_for(history: tuple[Event, ...], says: str) -> None:
    assert reasons(*history) == [says]


def test_builds_that_are_alike_wait_for_the_same() -> None:
    assert len(reasons(job(), queued(1), queued(2), queued(3))) == 1
    assert len(reasons(job(), queued(1), queued(2), queued(3, required_tags=["gpu"]))) == 2
    assert reasons(job(), *node()) == []


def lost_builds(state: DispatchState) -> list[tuple[int, int | None, str]]:
    return [(lost.build.build_id, lost.node_id, lost.reason) for lost in state.lost_builds()]


def test_builds_of_a_deleted_job_are_lost() -> None:
    history = (job(), job(6), *node(), queued(1), queued(2), queued(3, job_id=6), assigned(1))
    assert lost_builds(after(*history)) == []
    assert lost_builds(after(*history, JobDeleted(job_id=5, project_id=PROJECT))) == [
        (2, None, "job_deleted"),
        (1, 3, "job_deleted"),
    ]


def test_builds_of_a_lost_agent_are_lost() -> None:
    history = (job(), *node(), queued(1), queued(2), assigned(1))
    assert lost_builds(after(*history, connected(session="s1"))) == [], "the same agent came back"
    assert lost_builds(after(*history, connected(session="s2"))) == [(1, 3, "agent_lost")]
    gone = NodeWentOffline(node_id=3, session="s1", reason="silent")
    assert lost_builds(after(*history, gone)) == [(1, 3, "agent_lost")]
    assert lost_builds(after(*history, gone, connected(session="s2"))) == [(1, 3, "agent_lost")]
    assert lost_builds(after(*history, NodeDeleted(node_id=3))) == [(1, 3, "node_removed")]


@pytest.mark.parametrize("stream", ["build-1", "job-5", "node-3", "node-pool-8"])
def test_what_has_an_event_that_cannot_be_read_is_left_alone(stream: str) -> None:
    """Nothing is given to it and nothing is taken from it: whatever was said there may be the opposite."""
    state = after(job(), pool(8), *node(pool=8), queued(1, pool=8), polls={3: 1})
    state.mark_damaged(stream)
    assert (place_builds(state, NOW), lost_builds(state)) == ([], [])
    state = after(job(), job(6), pool(8), *node(pool=8), *node(4), queued(1, pool=8), queued(2), assigned(1))
    state.mark_damaged(stream)
    assert lost_builds(state) == []


def test_a_lost_build_that_was_requeued_is_not_lost() -> None:
    history = (job(), *node(), queued(1), assigned(1), connected(session="s2"))
    (lost,) = after(*history).lost_builds()
    assert lost == LostBuild(lost.build, 3, "agent_lost")
    requeued = BuildRequeued(**ids(1), node_id=3, attempt=1, reason="agent_lost")
    assert lost_builds(after(*history, requeued)) == []
    assert lost_builds(after(*history, requeued, assigned(1, attempt=2))) == []


@given(histories(*builds.EVENTS, *jobs.EVENTS, *nodes.EVENTS, *pools.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    # A log has one `build.queued` a build: it is the first event of its stream.
    first = {event.stream: event for event in reversed(history) if isinstance(event, BuildQueued)}
    history = [event for event in history if not isinstance(event, BuildQueued) or first[event.stream] is event]
    state = after(*history, polls={1: 1, 2: 2, 3: 3})
    place_builds(state, NOW)
    assert explain_waiting(state, NOW).keys() == state.queues.keys()
    assert sorted(number for key in state.queues.values() for number in key) == sorted(state.queued)
    known = state.queued.keys() | state.active.keys()
    assert {lost.build.build_id for lost in state.lost_builds()} <= known
    assert not state.queued.keys() & state.active.keys()
