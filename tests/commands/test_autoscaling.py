"""Decisions about the machines of node pools."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from commands.autoscaling import (
    MAX_PAUSE_S,
    FailMachine,
    MachineRegistration,
    RecordMachineRemoved,
    RemoveAutoscaling,
    RetryRemoval,
    RevertMachine,
    ScaleDown,
    ScaleUp,
    SetAutoscaling,
    find_pause_s,
)
from domain import autoscaling, docker_agents
from domain.autoscaling import (
    AUTOSCALING,
    AutoscalingRemoved,
    AutoscalingSet,
    DockerSource,
    PoolMachineRemoved,
    PoolMachineReverted,
    PoolScaledDown,
    PoolScaledUp,
    PoolScalingFailed,
    VcenterSource,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.dispatch import LeadershipTaken
from domain.docker_agents import (
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentRegistered,
    DockerAgentRequested,
)
from domain.nodes import NodeQuarantined, NodeRegistered
from domain.pools import PoolCreated, PoolDeleted
from domain.vcenter import VcenterCreated, VcenterDeleted
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
    VcenterOperationStarted,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=10)
IDS: dict[str, Any] = {"pool_id": 3, "project_id": 1}
SOURCE = DockerSource("build-host-01", "testhide/agent:1", memory_mb=512, cpus=1.5)
SETTING: dict[str, Any] = {"minimum": 1, "maximum": 3, "idle_s": 300, "docker": SOURCE, "single_use": False}
LEADER = LeadershipTaken(leader="me")
POOL = PoolCreated(**IDS, title="docker", claim="c")
SET = AutoscalingSet(**IDS, **SETTING)
SCALED: tuple[Event, ...] = (LEADER, POOL, SET)
REASON = "4 builds wait for a free node"


def up(*machine_ids: str) -> ScaleUp:
    machines = [MachineRegistration(machine_id, f"r-{machine_id}", UNTIL) for machine_id in machine_ids]
    return ScaleUp(3, "me", machines, 4, REASON, NOW)


def scaled_up(*machine_ids: str) -> list[Event]:
    """The events of machines that were spawned."""
    requested = [
        DockerAgentRequested(
            agent_id=machine_id,
            host=SOURCE.host,
            image=SOURCE.image,
            registration_id=f"r-{machine_id}",
            registration_until=UNTIL,
            pool_id=3,
            memory_mb=512,
            cpus=1.5,
        )
        for machine_id in machine_ids
    ]
    return [PoolScaledUp(**IDS, machine_ids=list(machine_ids), waiting=4, reason=REASON), *requested]


def down(machine_id: str, cause: autoscaling.Cause = "idle") -> ScaleDown:
    return ScaleDown(3, machine_id, "me", cause, "it had no build for 300 s", NOW)


def scaled_down(machine_id: str, cause: autoscaling.Cause = "idle") -> list[Event]:
    reason = "it had no build for 300 s"
    decided = PoolScaledDown(**IDS, machine_id=machine_id, cause=cause, reason=reason, idle_since=NOW)
    return [decided, DockerAgentDestroyRequested(agent_id=machine_id)]


def failed(machine_id: str, failures: int, at: datetime = NOW, *, destroys: bool = True) -> PoolScalingFailed:
    retry_at = at + timedelta(seconds=find_pause_s(failures))
    names: dict[str, Any] = {**IDS, "machine_id": machine_id, "error": "no such image", "destroys": destroys}
    return PoolScalingFailed(**names, failures=failures, retry_at=retry_at)


def fail(machine_id: str, at: datetime = NOW, **more: Any) -> FailMachine:
    return FailMachine(3, machine_id, "me", "no such image", at, **more)


def test_set_and_remove() -> None:
    command = SetAutoscaling(3, **SETTING)
    given(POOL).when(command).then(SET)
    given(POOL, SET).when(command).then_nothing()
    more: dict[str, Any] = {**SETTING, "maximum": 5}
    given(POOL, SET).when(SetAutoscaling(3, **more)).then(AutoscalingSet(**IDS, **more))
    given(POOL, SET).when(RemoveAutoscaling(3)).then(AutoscalingRemoved(**IDS))
    given(POOL).when(RemoveAutoscaling(3)).then_nothing()
    with pytest.raises(NotFound, match="no node pool 3"):
        given(POOL, PoolDeleted(**IDS)).when(command)


def test_machines_are_spawned_up_to_the_maximum() -> None:
    given(*SCALED).when(up("a", "b")).then(*scaled_up("a", "b"))
    given(*SCALED, *scaled_up("a", "b")).when(up("c", "d")).then(*scaled_up("c"))
    full = (*SCALED, *scaled_up("a", "b", "c"))
    given(*full).when(up("d")).then_nothing()
    given(*full, *scaled_down("a")).when(up("d")).then_nothing()
    removed = PoolMachineRemoved(**IDS, machine_id="a")
    given(*full, *scaled_down("a"), removed).when(up("d")).then(*scaled_up("d"))


def test_a_machine_for_one_build_is_requested_as_such() -> None:
    single = msgspec.structs.replace(SET, single_use=True)
    requested = given(LEADER, POOL, single).when(up("a"))[1]
    assert isinstance(requested, DockerAgentRequested)
    assert requested.single_use


def test_nothing_is_spawned_for_a_pool_that_is_not_scaled() -> None:
    for history in ([], [SET, AutoscalingRemoved(**IDS)], [SET, PoolDeleted(**IDS)]):
        given(LEADER, POOL, *history).when(up("a")).then_nothing()


@pytest.mark.parametrize("command", [up("b"), down("a"), fail("a")])
def test_only_the_leader_decides(command: Any) -> None:
    with pytest.raises(Conflict, match="Another dispatcher leads"):
        given(*SCALED, *scaled_up("a"), LeadershipTaken(leader="another")).when(command)


def test_an_idle_machine_goes_unless_it_is_needed_for_the_minimum() -> None:
    two = (*SCALED, *scaled_up("a", "b"))
    given(*two).when(down("a")).then(*scaled_down("a"))
    given(*two, *scaled_down("a")).when(down("a")).then_nothing()
    given(*two, *scaled_down("a")).when(down("b")).then_nothing()
    given(*SCALED).when(down("a")).then_nothing()


def test_a_machine_that_has_had_its_only_build_goes_also_at_the_minimum() -> None:
    given(*SCALED, *scaled_up("a")).when(down("a", "used")).then(*scaled_down("a", "used"))


def test_surplus_machines_go() -> None:
    three = (*SCALED, *scaled_up("a", "b", "c"))
    given(*three).when(down("a", "surplus")).then_nothing()
    lower = msgspec.structs.replace(SET, maximum=2)
    given(*three, lower).when(down("a", "surplus")).then(*scaled_down("a", "surplus"))
    given(*three, lower, *scaled_down("a", "surplus")).when(down("b", "surplus")).then_nothing()
    for end in (AutoscalingRemoved(**IDS), PoolDeleted(**IDS)):
        given(*three, end).when(down("a", "surplus")).then(*scaled_down("a", "surplus"))


def test_the_node_of_a_machine_that_goes_gets_no_more_builds() -> None:
    node = NodeRegistered(node_id=7, title="a", pool_id=3)
    registered = DockerAgentRegistered(agent_id="a", node_id=7)
    two = (*SCALED, *scaled_up("a", "b"), node, registered)
    decided, *destroyed = scaled_down("a")
    given(*two).when(down("a")).then(decided, NodeQuarantined(node_id=7), *destroyed)
    given(*two, NodeQuarantined(node_id=7)).when(down("a")).then(decided, *destroyed)


def test_failures_in_a_row_double_the_pause() -> None:
    one = (*SCALED, *scaled_up("a", "b"))
    destroy = DockerAgentDestroyRequested(agent_id="a")
    given(*one).when(fail("a")).then(failed("a", 1), destroy)
    # One that fails during the pause does not prolong it.
    second = (failed("b", 1), DockerAgentDestroyRequested(agent_id="b"))
    given(*one, failed("a", 1)).when(fail("b", NOW + timedelta(seconds=4))).then(*second)
    after = NOW + timedelta(seconds=5)
    given(*one, failed("a", 1)).when(fail("b", after)).then(
        failed("b", 2, after), DockerAgentDestroyRequested(agent_id="b")
    )
    assert [find_pause_s(failures) for failures in (1, 2, 3, 8, 1_000)] == [5, 10, 20, MAX_PAUSE_S, MAX_PAUSE_S]


def test_a_build_on_a_machine_ends_the_row_of_failures() -> None:
    after = NOW + timedelta(hours=1)
    history = (*SCALED, *scaled_up("a", "b"), failed("a", 4))
    given(*history).when(fail("b", after, recovered=True)).then(
        failed("b", 1, after), DockerAgentDestroyRequested(agent_id="b")
    )


def test_nothing_is_spawned_during_the_pause() -> None:
    history = (*SCALED, *scaled_up("a"), failed("a", 1))
    given(*history).when(up("b")).then_nothing()
    later = dataclasses.replace(up("b"), now=NOW + timedelta(seconds=5))
    given(*history).when(later).then(*scaled_up("b"))
    # Whoever changes the setting wants to see at once whether it works now.
    other = msgspec.structs.replace(SET, maximum=4)
    given(*history, other).when(up("b")).then(*scaled_up("b"))


def test_a_spawn_that_is_tried_again_is_not_destroyed() -> None:
    history = (*SCALED, *scaled_up("a"))
    given(*history).when(fail("a", destroys=False)).then(failed("a", 1, destroys=False))
    given(*history, failed("a", 1, destroys=False)).when(fail("a", destroys=False)).then_nothing()


def test_a_machine_counts_until_it_is_removed() -> None:
    history = (*SCALED, *scaled_up("a", "b"), *scaled_down("a"))
    removed = RecordMachineRemoved(3, "a")
    given(*history).when(removed).then_nothing()
    gone = (*history, DockerAgentDestroyed(agent_id="a"))
    given(*gone).when(removed).then(PoolMachineRemoved(**IDS, machine_id="a"))
    given(*gone, PoolMachineRemoved(**IDS, machine_id="a")).when(removed).then_nothing()


@hypothesis.given(histories(*autoscaling.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(AUTOSCALING, history)


DECIDED = (SetAutoscaling, RemoveAutoscaling, ScaleUp, ScaleDown, RevertMachine, FailMachine, RecordMachineRemoved)


@pytest.mark.parametrize("kind", DECIDED)
@hypothesis.given(data=st.data())
def test_decided_once(kind: type[Any], data: st.DataObject) -> None:
    history = data.draw(histories(*autoscaling.EVENTS, *docker_agents.EVENTS, PoolCreated, LeadershipTaken))
    is_decided_once(data.draw(commands(kind)), history)


VIRTUAL = AutoscalingSet(**IDS, minimum=0, maximum=3, idle_s=300, vcenter=VcenterSource(5, "vm-42"))
VCENTER = VcenterCreated(vcenter_id=5)
NAME = "testhide-9-r-vm-9"
CLONE = VcenterOperationRequested(
    operation_id=9, vcenter_id=5, kind="clone", vm_id="vm-42", vm_name=NAME, pool_id=3, single_use=True
)
CLONED: tuple[Event, ...] = (
    *(LEADER, POOL, VCENTER, msgspec.structs.replace(VIRTUAL, single_use=True)),
    *(PoolScaledUp(**IDS, machine_ids=["vm-9"], waiting=4, reason=REASON), CLONE),
)
STARTED = VcenterOperationStarted(operation_id=9, vcenter_id=5)
DELETION = VcenterOperationRequested(operation_id=20, vcenter_id=5, kind="delete", vm_name=NAME)


def test_virtual_machines_are_cloned() -> None:
    given(*CLONED[:4]).when(up("vm-9", "da-1")).then(*CLONED[4:])
    given(*SCALED).when(up("vm-9")).then_nothing()


def test_virtual_machines_are_deleted() -> None:
    decided = PoolScaledDown(**IDS, machine_id="vm-9", cause="idle", reason="it had no build for 300 s", idle_since=NOW)
    node = NodeRegistered(node_id=7, title=NAME, pool_id=3)
    registered = VcenterMachineRegistered(operation_id=9, vcenter_id=5, node_id=7)
    scale_down = dataclasses.replace(down("vm-9"), removal_id=20)
    given(*CLONED, STARTED, node, registered).when(scale_down).then(decided, NodeQuarantined(node_id=7), DELETION)
    fail_it = fail("vm-9", removal_id=20)
    given(*CLONED, STARTED).when(fail_it).then(failed("vm-9", 1), DELETION)
    given(*CLONED).when(fail_it).then(failed("vm-9", 1))


def test_a_virtual_machine_that_has_had_its_build_is_reverted() -> None:
    made = VcenterOperationCompleted(operation_id=9, vcenter_id=5, vm_id="vm-109")
    revert = RevertMachine(3, "vm-9", "me", 20, "it has had its only build")
    decided = PoolMachineReverted(**IDS, machine_id="vm-9", reason="it has had its only build")
    request = VcenterOperationRequested(operation_id=20, vcenter_id=5, kind="revert", vm_id="vm-109", vm_name=NAME)
    world = (*CLONED, STARTED, made)
    given(*world).when(revert).then(decided, request)
    given(*world, decided, request).when(revert).then_nothing()
    unmade = VcenterOperationFailed(operation_id=9, vcenter_id=5, failure="outside", error="no room")
    given(*CLONED, STARTED).when(revert).then_nothing()
    given(*CLONED, STARTED, unmade).when(revert).then_nothing()
    scaled = msgspec.structs.replace(VIRTUAL, single_use=True)
    for change in (
        AutoscalingRemoved(**IDS),
        PoolDeleted(**IDS),
        VIRTUAL,
        msgspec.structs.replace(scaled, vcenter=VcenterSource(5, "vm-43")),
        PoolScaledDown(**IDS, machine_id="vm-9", cause="idle", reason="x"),
    ):
        given(*world, change).when(revert).then_nothing()
    with pytest.raises(Conflict, match="Another dispatcher leads"):
        given(*world).when(dataclasses.replace(revert, leader="other"))


def test_a_deletion_that_failed_is_asked_for_again() -> None:
    leaving = (*CLONED, STARTED, failed("vm-9", 1), DELETION)
    again = RetryRemoval(3, "vm-9", "me", 20, 21)
    unreachable = VcenterOperationFailed(operation_id=20, vcenter_id=5, failure="outside", error="no answer")
    given(*leaving).when(again).then_nothing()
    given(*leaving, unreachable).when(again).then(msgspec.structs.replace(DELETION, operation_id=21))
    given(*CLONED, STARTED, DELETION, unreachable).when(again).then_nothing()
    with pytest.raises(Conflict, match="Another dispatcher leads"):
        given(*leaving, unreachable).when(dataclasses.replace(again, leader="other"))


def test_a_virtual_machine_is_gone() -> None:
    leaving = (*CLONED, STARTED, failed("vm-9", 1), DELETION)
    gone = PoolMachineRemoved(**IDS, machine_id="vm-9")
    remove = RecordMachineRemoved(3, "vm-9", 20)
    given(*leaving).when(remove).then_nothing()
    given(*leaving, VcenterOperationCompleted(operation_id=20, vcenter_id=5)).when(remove).then(gone)
    given(*leaving, VcenterDeleted(vcenter_id=5)).when(remove).then(gone)
    unmade = VcenterOperationFailed(operation_id=9, vcenter_id=5, failure="outside", error="no answer")
    given(*CLONED, unmade).when(RecordMachineRemoved(3, "vm-9")).then(gone)
    given(*CLONED, STARTED, unmade).when(RecordMachineRemoved(3, "vm-9")).then_nothing()
