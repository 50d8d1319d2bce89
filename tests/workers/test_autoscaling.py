"""Which machines node pools get and lose, without a database."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from commands.autoscaling import FailMachine, MachineRegistration, RecordMachineRemoved, ScaleDown, ScaleUp
from commands.handler import Command
from domain.autoscaling import AutoscalingRemoved, AutoscalingSet, DockerSource, PoolScaledUp, PoolScalingFailed
from domain.builds import BuildApproved, BuildFinished, BuildRequeued
from domain.core.events import Event
from domain.docker_agents import (
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentFailed,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStarted,
)
from domain.jobs import Configuration
from domain.nodes import NodeDeleted, NodeQuarantined, NodeRegistered, NodeWentOffline
from domain.pools import PoolDeleted, PoolUpdated
from tests.workers.test_dispatch_state import NOW, PROJECT, assigned, connected, ids, job, node, pool, queued
from workers.dispatch.autoscaling import MAX_AT_ONCE, OFFLINE_TIMEOUT, NewIds, decide_scaling
from workers.dispatch.autoscaling_state import AutoscalingState
from workers.dispatch.dispatch_state import DispatchState
from workers.dispatch.placement import explain_waiting, place_builds

P: dict[str, Any] = {"pool_id": 2, "project_id": PROJECT}
SOURCE = DockerSource("here", "testhide/agent:1")
SET = AutoscalingSet(**P, minimum=0, maximum=4, idle_s=300, docker=SOURCE)
POOL = pool(2)
IDLE = NOW + timedelta(seconds=300)
WAITING = [queued(number) for number in range(1, 7)]


def setting(**changes: Any) -> AutoscalingSet:
    return msgspec.structs.replace(SET, **changes)


def spawned(*numbers: int, single_use: bool = False) -> list[Event]:
    """Machines `m1`, `m2` and so on that were requested."""
    requests = [
        DockerAgentRequested(
            agent_id=f"m{number}",
            host="here",
            image="testhide/agent:1",
            registration_id="r",
            registration_until=NOW + timedelta(minutes=10),
            pool_id=2,
            single_use=single_use,
        )
        for number in numbers
    ]
    names = [request.agent_id for request in requests]
    return [PoolScaledUp(**P, machine_ids=names, waiting=1, reason="x"), *requests]


def online(*numbers: int, at: datetime = NOW, single_use: bool = False) -> list[Event]:
    """The containers of these machines run, and their agents are connected as the nodes 1, 2 and so on."""
    return [
        event
        for number in numbers
        for event in (
            DockerAgentStarted(agent_id=f"m{number}", container_id="c", run="t"),
            NodeRegistered(node_id=number, title=f"m{number}", pool_id=2, single_use=single_use),
            DockerAgentRegistered(agent_id=f"m{number}", node_id=number, at=at),
            msgspec.structs.replace(connected(number), at=at),
        )
    ]


def finished(build_id: int, node_id: int, at: datetime = NOW) -> BuildFinished:
    return BuildFinished(**ids(build_id), status="passed", node_id=node_id, at=at)


def decide(*events: Event, now: datetime = NOW) -> list[Command]:
    state, scaling, numbers = DispatchState(), AutoscalingState(), count(100)
    for event in events:
        state.apply(event)
        scaling.apply(event)
    new_ids = NewIds(lambda: MachineRegistration(f"m{next(numbers)}", "r", NOW), [])
    return decide_scaling(state, scaling, "me", now, new_ids)


def ups(decided: Iterable[Command]) -> list[tuple[int, str]]:
    return [(len(one.machines), one.reason) for one in decided if isinstance(one, ScaleUp)]


def downs(decided: Iterable[Command]) -> dict[str, tuple[str, str]]:
    return {one.machine_id: (one.cause, one.reason) for one in decided if isinstance(one, ScaleDown)}


def failures(decided: Iterable[Command]) -> dict[str, tuple[str, bool]]:
    return {one.machine_id: (one.error, one.destroys) for one in decided if isinstance(one, FailMachine)}


def test_waiting_builds_ask_for_machines() -> None:
    world = (job(), POOL, SET)
    assert decide(*world) == []
    assert ups(decide(*world, queued(1))) == [(1, "1 build waits for a free node")]
    assert ups(decide(*world, *WAITING)) == [(4, "6 builds wait for a free node")]
    assert ups(decide(*world, *WAITING, *spawned(1))) == [(3, "5 builds wait for a free node")]
    assert ups(decide(*world, *WAITING, *spawned(1, 2, 3, 4))) == []


def test_free_slots_come_first() -> None:
    world = (job(), POOL, SET, *node(30, max_parallel=2), *node(31, max_parallel=1))
    assert ups(decide(*world, *WAITING[:3])) == []
    assert ups(decide(*world, *WAITING[:4])) == [(1, "1 build waits for a free node")]
    assert ups(decide(*world, *WAITING[:4], assigned(1, 30))) == [(1, "1 build waits for a free node")]
    away = NodeWentOffline(node_id=30, session="s1", reason="x")
    assert ups(decide(*world, *WAITING[:2], away)) == [(1, "1 build waits for a free node")]
    assert ups(decide(*world, *WAITING[:2], NodeQuarantined(node_id=30))) == [(1, "1 build waits for a free node")]


def test_a_build_that_cannot_run_in_the_pool_asks_for_nothing() -> None:
    world = (POOL, SET)
    for event in (
        queued(1, pool=9),
        queued(1, required_tags=["gpu"]),
        queued(1, untrusted=True),
        msgspec.structs.replace(queued(1), project_id=7),
    ):
        assert decide(job(), *world, event) == [], event
    assert ups(decide(job(), *world, queued(1, pool=2))) == [(1, "1 build waits for a free node")]
    assert decide(*world, queued(1)) == [], "its job was deleted"
    approved = BuildApproved(**ids(1))
    untrusted = (job(), POOL, PoolUpdated(**P, untrusted=True), SET, queued(1, untrusted=True))
    assert decide(*untrusted) == [], "it awaits approval"
    assert ups(decide(*untrusted, approved)) == [(1, "1 build waits for a free node")]


def test_limits_of_jobs_and_pools_hold_for_machines() -> None:
    assert ups(decide(job(max_parallel=2), POOL, SET, *WAITING)) == [(2, "2 builds wait for a free node")]
    limited = PoolUpdated(**P, max_parallel=3)
    assert [number for number, _ in ups(decide(job(), POOL, limited, SET, *WAITING))] == [3]


def test_a_build_asks_one_of_several_pools() -> None:
    other = AutoscalingSet(pool_id=6, project_id=PROJECT, minimum=0, maximum=4, idle_s=300, docker=SOURCE)
    decided = decide(job(), POOL, pool(6), SET, other, *WAITING)
    assert sum(number for number, _ in ups(decided)) == 6


def test_machines_whose_agents_are_too_old_are_not_spawned_again_and_again() -> None:
    world = (job(), POOL, SET, queued(1, configuration=Configuration(shell="bash")))
    assert ups(decide(*world)) == [(1, "1 build waits for a free node")]
    assert ups(decide(*world, *spawned(1), *online(1))) == []
    assert ups(decide(*world, *spawned(1), *online(1), *destroyed(1))) == []


def destroyed(number: int) -> list[Event]:
    requested = DockerAgentDestroyRequested(agent_id=f"m{number}")
    return [requested, NodeDeleted(node_id=number), DockerAgentDestroyed(agent_id=f"m{number}")]


def test_the_minimum_is_kept() -> None:
    world = (job(), POOL, setting(minimum=2))
    assert ups(decide(*world)) == [(2, "the pool has fewer machines than its minimum, 2")]
    assert ups(decide(*world, *spawned(1))) == [(1, "the pool has fewer machines than its minimum, 2")]
    assert decide(*world, *spawned(1, 2), *online(1, 2), now=IDLE) == []
    assert list(downs(decide(*world, *spawned(1, 2, 3), *online(1, 2, 3), now=IDLE))) == ["m1"]


def test_an_idle_machine_goes_after_the_idle_time() -> None:
    world = (job(), POOL, SET, *spawned(1), *online(1))
    assert decide(*world, now=IDLE - timedelta(seconds=1)) == []
    assert downs(decide(*world, now=IDLE)) == {"m1": ("idle", "it had no build for 300 s")}
    built = (*world, queued(1), assigned(1, 1))
    assert decide(*built, now=IDLE) == [], "it has a build"
    ended = (*built, finished(1, 1, IDLE))
    assert decide(*ended, now=IDLE) == []
    assert list(downs(decide(*ended, now=IDLE + timedelta(seconds=300)))) == ["m1"]
    requeued = BuildRequeued(**ids(1), node_id=1, attempt=1, reason="not_acknowledged", at=IDLE)
    assert decide(*built, requeued, now=IDLE) == []


def test_the_machine_that_was_idle_for_longest_goes_first() -> None:
    world = (job(), POOL, setting(minimum=1), *spawned(1, 2), *online(1, 2), queued(1), assigned(1, 1))
    later = NOW + timedelta(seconds=10)
    assert list(downs(decide(*world, finished(1, 1, later), now=later + timedelta(seconds=300)))) == ["m2"]


def test_an_idle_machine_that_a_build_is_for_stays() -> None:
    assert decide(job(), POOL, SET, *spawned(1), *online(1), queued(1), now=IDLE) == []


def test_a_machine_that_goes_gets_no_build_also_if_its_node_is_released() -> None:
    state = DispatchState()
    for event in (job(), POOL, *spawned(1), *online(1), DockerAgentDestroyRequested(agent_id="m1"), queued(1)):
        state.apply(event)
    state.polled(1, 1)
    assert place_builds(state, NOW) == []


def test_a_decision_spawns_a_few_machines_at_once() -> None:
    world = (job(max_parallel=100), POOL, setting(maximum=100), *map(queued, range(1, 60)))
    assert ups(decide(*world)) == [(MAX_AT_ONCE, "59 builds wait for a free node")]


def test_a_machine_in_quarantine_stays() -> None:
    assert decide(job(), POOL, SET, *spawned(1), *online(1), NodeQuarantined(node_id=1), now=IDLE) == []


def test_a_machine_for_one_build_goes_after_it() -> None:
    world = (job(), POOL, setting(single_use=True), *spawned(1, single_use=True), *online(1, single_use=True))
    assert decide(*world, queued(1), assigned(1, 1)) == []
    after = (*world, queued(1), assigned(1, 1), finished(1, 1))
    assert downs(decide(*after)) == {"m1": ("used", "it has had its only build")}
    assert ups(decide(*after, queued(2))) == [(1, "1 build waits for a free node")]


def test_machines_above_a_lowered_maximum_go() -> None:
    world = (job(), POOL, SET, *spawned(1, 2, 3), *online(1, 2), queued(1), assigned(1, 1), setting(maximum=1))
    reason = ("surplus", "the pool has more machines than its maximum, 1")
    assert downs(decide(*world)) == {"m3": reason, "m2": reason}


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (AutoscalingRemoved(**P), "the node pool is not scaled any more"),
        (PoolDeleted(**P), "the node pool was deleted"),
    ],
)
def test_the_machines_of_a_pool_that_is_not_scaled_go(end: Event, reason: str) -> None:
    world = (job(), POOL, setting(minimum=2), *spawned(1, 2, 3), *online(1, 2), queued(1), assigned(1, 1), end)
    assert downs(decide(*world)) == {"m2": ("surplus", reason), "m3": ("surplus", reason)}
    assert list(downs(decide(*world, finished(1, 1)))) == ["m3", "m1", "m2"]


def test_a_machine_that_fails_is_destroyed() -> None:
    world = (job(), POOL, SET, *spawned(1))
    broken = DockerAgentFailed(agent_id="m1", error="no such image")
    assert failures(decide(*world, broken)) == {"m1": ("no such image", True)}
    late = NOW + timedelta(minutes=10, seconds=1)
    started = DockerAgentStarted(agent_id="m1", container_id="c", run="t")
    assert failures(decide(*world, started, now=late)) == {"m1": ("its agent has not registered in time", True)}
    assert failures(decide(*world, *online(1), NodeDeleted(node_id=1))) == {"m1": ("its node was deleted", True)}
    away = NodeWentOffline(node_id=1, session="s1", reason="x", at=NOW)
    off = (*world, *online(1), away)
    assert decide(*off, now=NOW + OFFLINE_TIMEOUT) == []
    late = NOW + OFFLINE_TIMEOUT + timedelta(seconds=1)
    assert failures(decide(*off, now=late)) == {"m1": ("its agent was offline for 120 s", True)}


def test_a_machine_whose_spawn_is_tried_again_fails_once_in_a_pause() -> None:
    away = DockerAgentFailed(agent_id="m1", error="it does not answer", repeats=True)
    world = (job(), POOL, SET, *WAITING, *spawned(1), away)
    decided = decide(*world)
    assert failures(decided) == {"m1": ("it does not answer", False)}
    assert ups(decided) == []
    until = NOW + timedelta(seconds=5)
    failed = PoolScalingFailed(**P, machine_id="m1", error="x", failures=1, retry_at=until, destroys=False)
    assert decide(*world, failed) == []
    assert list(failures(decide(*world, failed, now=until))) == ["m1"]


def test_after_a_failure_one_machine_is_tried_first() -> None:
    until = NOW + timedelta(seconds=5)
    failed = PoolScalingFailed(**P, machine_id="m1", error="x", failures=1, retry_at=until, at=NOW)
    world = (job(), POOL, SET, *WAITING, failed)
    assert decide(*world) == []
    assert [number for number, _ in ups(decide(*world, now=until))] == [1]
    assert decide(*world, *spawned(2), now=until) == []
    assert [number for number, _ in ups(decide(*world, *spawned(2), *online(2, at=until), now=until))] == [3]


def test_machines_count_until_they_are_removed() -> None:
    world = (job(), POOL, setting(maximum=1), *WAITING, *spawned(1), *online(1))
    assert decide(*world, DockerAgentDestroyRequested(agent_id="m1")) == []
    assert decide(*world, *destroyed(1)) == [RecordMachineRemoved(2, "m1")]


def test_damaged_streams_are_left_alone() -> None:
    for stream in ("autoscaling-2", "node-pool-2", "docker-agent-m1"):
        state, scaling = DispatchState(), AutoscalingState()
        for event in (job(), POOL, SET, *spawned(1), *online(1)):
            state.apply(event)
            scaling.apply(event)
        state.mark_damaged(stream)
        new_ids = NewIds(lambda: MachineRegistration("m9", "r", NOW), [])
        assert decide_scaling(state, scaling, "me", IDLE, new_ids) == []


def waiting_reasons(*events: Event) -> list[str]:
    state, scaling = DispatchState(), AutoscalingState()
    for event in events:
        state.apply(event)
        scaling.apply(event)
    return list(explain_waiting(state, NOW, scaling.pools).values())


BEING_STARTED = "Machines are being started for node pool 2."
HAS_FAILED = "A machine of node pool 2 has failed; the next one is started after 10:00:05 UTC."
AT_MAXIMUM = "All nodes that it may use are busy, and node pool 2 has its maximum number of machines, 1."
FAILED = PoolScalingFailed(**P, machine_id="m9", error="x", failures=1, retry_at=NOW + timedelta(seconds=5))


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ((job(), SET, queued(1)), BEING_STARTED),
        ((job(), SET, *spawned(1, 2, 3, 4), queued(1)), BEING_STARTED),
        ((job(), SET, *spawned(1), *online(1), NodeQuarantined(node_id=1), queued(1)), BEING_STARTED),
        ((job(), SET, *spawned(1), *online(1), queued(1), queued(2), assigned(1, 1)), BEING_STARTED),
        ((job(), setting(maximum=1), *spawned(1), *online(1), queued(1), queued(2), assigned(1, 1)), AT_MAXIMUM),
        ((job(), SET, FAILED, queued(1)), HAS_FAILED),
        ((job(max_parallel=0), SET, queued(1)), "Job 5 already runs 0 at once, which is its limit."),
        ((job(), SET, queued(1, required_tags=["gpu"])), "There is no node in the pools that it may use."),
        ((job(), SET, AutoscalingRemoved(**P), queued(1)), "There is no node in the pools that it may use."),
    ],
)
def test_what_a_build_in_a_scaled_pool_waits_for(history: tuple[Event, ...], says: str) -> None:
    assert waiting_reasons(POOL, *history) == [says]
