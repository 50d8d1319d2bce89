"""Which virtual machines node pools get and lose, without a database."""

from datetime import timedelta
from itertools import count
from typing import Any

import msgspec

from commands.autoscaling import (
    FailMachine,
    MachineRegistration,
    RecordMachineRemoved,
    RetryRemoval,
    RevertMachine,
    ScaleDown,
    ScaleUp,
)
from commands.handler import Command
from domain.autoscaling import AutoscalingRemoved, AutoscalingSet, PoolScaledDown, PoolScaledUp, VcenterSource
from domain.core.events import Event
from domain.nodes import NodeQuarantined, NodeRegistered, NodeWentOffline
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
    VcenterOperationStarted,
    VcenterRegistrationRenewed,
    make_vm_name,
)
from tests.workers.test_autoscaling import IDLE, POOL, SET, WAITING, P, finished
from tests.workers.test_dispatch_state import NOW, assigned, connected, job, queued
from workers.dispatch.autoscaling import REMOVAL_PAUSE, NewIds, decide_scaling
from workers.dispatch.autoscaling_state import AutoscalingState
from workers.dispatch.dispatch_state import DispatchState
from workers.dispatch.placement import place_builds
from workers.dispatch.virtual_machines import BOOT_TIMEOUT

SOURCE = VcenterSource(5, "vm-42")
VIRTUAL: AutoscalingSet = msgspec.structs.replace(SET, docker=None, vcenter=SOURCE)
V: dict[str, Any] = {"vcenter_id": 5}
REMOVAL = VcenterOperationRequested(**V, operation_id=50, kind="delete", vm_name=make_vm_name(1, "x"), at=NOW)
LEAVES = PoolScaledDown(**P, machine_id="vm-1", cause="idle", reason="x")


def cloned(*numbers: int, single_use: bool = False) -> list[Event]:
    """Machines that operations 1, 2 and so on are to clone."""
    requests = [
        VcenterOperationRequested(
            **V,
            operation_id=number,
            kind="clone",
            vm_id="vm-42",
            vm_name=make_vm_name(number, "x"),
            pool_id=2,
            single_use=single_use,
            at=NOW,
        )
        for number in numbers
    ]
    names = [f"vm-{number}" for number in numbers]
    return [PoolScaledUp(**P, machine_ids=names, waiting=1, reason="x"), *requests]


def completed(number: int, at: Any = NOW) -> VcenterOperationCompleted:
    return VcenterOperationCompleted(**V, operation_id=number, vm_id=f"vm-10{number}", at=at)


def failed(number: int) -> VcenterOperationFailed:
    return VcenterOperationFailed(**V, operation_id=number, failure="outside", error="no room", at=NOW)


def online(number: int, *, single_use: bool = False) -> list[Event]:
    return [
        NodeRegistered(node_id=number, title=make_vm_name(number, "x"), pool_id=2, single_use=single_use),
        VcenterMachineRegistered(**V, operation_id=number, node_id=number),
        msgspec.structs.replace(connected(number, f"s{number}"), at=NOW),
    ]


def read(*events: Event) -> tuple[DispatchState, AutoscalingState]:
    state, scaling = DispatchState(), AutoscalingState()
    for event in events:
        state.apply(event)
        scaling.apply(event)
    return state, scaling


def decide(*events: Event, now: Any = NOW, operation_ids: int = 10) -> list[Command]:
    numbers = count(100)
    new_ids = NewIds(
        lambda: MachineRegistration(f"da-{next(numbers)}", "r", NOW), list(range(900, 900 - operation_ids, -1))
    )
    return decide_scaling(*read(*events), "me", now, new_ids)


def test_machines_are_cloned_as_long_as_there_are_ids() -> None:
    (up,) = decide(job(), POOL, VIRTUAL, *WAITING)
    assert isinstance(up, ScaleUp)
    assert [new.machine_id for new in up.machines] == ["vm-891", "vm-892", "vm-893", "vm-894"]
    (up,) = decide(job(), POOL, VIRTUAL, *WAITING, operation_ids=1)
    assert isinstance(up, ScaleUp)
    assert len(up.machines) == 1
    assert decide(job(), POOL, VIRTUAL, *WAITING, operation_ids=0) == []
    assert decide(job(), POOL, VIRTUAL, *WAITING, VcenterDeleted(**V)) == []


def test_machines_that_are_being_cloned_count() -> None:
    world = (job(), POOL, VIRTUAL, queued(1), *cloned(1))
    assert decide(*world) == []
    assert decide(*world, completed(1)) == []
    assert decide(*world, completed(1), *online(1)) == []


def test_an_idle_machine_is_deleted() -> None:
    world = (job(), POOL, VIRTUAL, *cloned(1), completed(1), *online(1))
    (down,) = decide(*world, now=IDLE)
    assert isinstance(down, ScaleDown)
    assert (down.machine_id, down.cause, down.removal_id) == ("vm-1", "idle", 891)
    assert decide(*world, queued(1), assigned(1, 1), now=IDLE) == []
    assert decide(*world, now=IDLE, operation_ids=0) == []


def test_a_machine_is_deleted_only_after_it_was_cloned() -> None:
    world = (job(), POOL, VIRTUAL, *cloned(1), AutoscalingRemoved(**P))
    assert decide(*world) == []
    (down,) = decide(*world, completed(1))
    assert isinstance(down, ScaleDown)
    assert down.cause == "surplus"


def test_a_machine_that_fails() -> None:
    world = (job(), POOL, VIRTUAL, *cloned(1))
    started = VcenterOperationStarted(**V, operation_id=1)
    (fail,) = decide(*world, started, failed(1))
    assert isinstance(fail, FailMachine)
    assert (fail.error, fail.destroys, fail.removal_id) == ("no room", True, 891)
    (fail,) = decide(*world, completed(1), now=NOW + BOOT_TIMEOUT + timedelta(seconds=1))
    assert isinstance(fail, FailMachine)
    assert fail.error == "its agent has not registered in time"


def test_a_machine_counts_until_it_is_deleted() -> None:
    world = (job(), POOL, msgspec.structs.replace(VIRTUAL, maximum=1), *WAITING, *cloned(1), completed(1), *online(1))
    leaving = (*world, LEAVES, REMOVAL)
    assert decide(*leaving) == []
    assert decide(*leaving, completed(50)) == [RecordMachineRemoved(2, "vm-1", 50)]
    assert decide(*leaving, VcenterDeleted(**V)) == [RecordMachineRemoved(2, "vm-1", 50)]
    assert decide(*leaving, failed(50)) == []
    (again,) = decide(*leaving, failed(50), now=NOW + REMOVAL_PAUSE)
    assert again == RetryRemoval(2, "vm-1", "me", 50, 891)
    second = msgspec.structs.replace(REMOVAL, operation_id=51)
    assert decide(*leaving, failed(50), second, now=NOW + REMOVAL_PAUSE) == []
    assert decide(*leaving, failed(50), second, completed(51)) == [RecordMachineRemoved(2, "vm-1", 51)]


def test_a_machine_that_was_never_made_is_gone_once_its_failure_is_recorded() -> None:
    world = (job(), POOL, VIRTUAL, *cloned(1), failed(1))
    (fail,) = decide(*world)
    assert isinstance(fail, FailMachine)
    assert decide(*world, LEAVES) == [RecordMachineRemoved(2, "vm-1")]


def test_a_machine_that_is_being_deleted_gets_no_builds() -> None:
    state, _ = read(job(), POOL, queued(1), *cloned(1), completed(1), *online(1), REMOVAL)
    state.polled(1, 1)
    assert place_builds(state, NOW) == []


SINGLE_USE = msgspec.structs.replace(VIRTUAL, single_use=True)
USED = (
    *(job(), POOL, SINGLE_USE, *cloned(1, single_use=True), completed(1), *online(1, single_use=True)),
    *(queued(1), assigned(1, 1), finished(1, 1)),
)
"""A virtual machine for one build has had it."""
REVERT = VcenterOperationRequested(
    **V, operation_id=60, kind="revert", vm_id="vm-101", vm_name=make_vm_name(1, "x"), at=NOW
)
RENEWED = VcenterRegistrationRenewed(**V, operation_id=1, registration_id="r2", registration_until=IDLE, at=NOW)
AWAY = NodeWentOffline(node_id=1, session="s1", reason="its machine was reverted", at=NOW)


def test_a_machine_that_has_had_its_build_is_reverted() -> None:
    assert decide(*USED) == [RevertMachine(2, "vm-1", "me", 891, "it has had its only build")]
    assert decide(*USED, operation_ids=0) == []
    assert decide(*USED, NodeQuarantined(node_id=1)) == [], "somebody looks at it"
    for change in (
        VIRTUAL,
        msgspec.structs.replace(SINGLE_USE, vcenter=VcenterSource(5, "vm-43")),
        msgspec.structs.replace(SINGLE_USE, vcenter=None, docker=SET.docker),
    ):
        (down,) = decide(*USED, change)
        assert isinstance(down, ScaleDown)
        assert down.cause == "used"
    (down,) = decide(*USED, AutoscalingRemoved(**P))
    assert isinstance(down, ScaleDown)
    assert down.cause == "surplus"


def test_a_machine_that_is_being_reverted_counts_as_starting() -> None:
    waiting = (*USED, queued(2), REVERT)
    for history in (
        waiting,
        (*waiting, RENEWED, AWAY),
        (*waiting, RENEWED, AWAY, completed(60)),
    ):
        assert decide(*history) == []
        assert decide(*history, AutoscalingRemoved(**P)) == [] or history[-1] == completed(60)
        state, _ = read(*history)
        state.polled(1, 1)
        assert place_builds(state, NOW) == []


def test_a_machine_that_was_reverted_takes_another_build() -> None:
    later = NOW + timedelta(seconds=100)
    again = msgspec.structs.replace(connected(1, "s2"), at=later)
    fresh = (*USED, REVERT, RENEWED, AWAY, VcenterMachineRegistered(**V, operation_id=1, node_id=1, at=later), again)
    for history in ((*fresh, completed(60)), (*USED, REVERT, RENEWED, AWAY, completed(60), *fresh[-2:])):
        state, _ = read(*history, queued(2))
        state.polled(1, 1)
        assert [(build.build_id, node_id) for build, node_id in place_builds(state, NOW)] == [(2, 1)]
        assert decide(*history, queued(2)) == []
        used = (*history, queued(2), assigned(2, 1), finished(2, 1))
        assert decide(*used) == [RevertMachine(2, "vm-1", "me", 891, "it has had its only build")]
        assert decide(*history, now=IDLE) == [], "the idle time begins with the new registration"
        (down,) = decide(*history, now=IDLE + timedelta(seconds=100))
        assert isinstance(down, ScaleDown)
        assert down.cause == "idle"


def test_a_machine_that_cannot_be_reverted_is_replaced() -> None:
    (fail,) = decide(*USED, REVERT, failed(60))
    assert isinstance(fail, FailMachine)
    assert (fail.error, fail.destroys) == ("no room", True)
    reverted = (*USED, REVERT, RENEWED, AWAY, completed(60))
    assert decide(*reverted, now=NOW + BOOT_TIMEOUT) == []
    (fail,) = decide(*reverted, now=NOW + BOOT_TIMEOUT + timedelta(seconds=1))
    assert isinstance(fail, FailMachine)
    assert fail.error == "its agent has not registered in time"


def test_a_machine_that_a_user_reverts_may_boot() -> None:
    much_later = NOW + timedelta(hours=1)
    by_user = msgspec.structs.replace(REVERT, vm_name="", at=much_later)
    renewed, away = (msgspec.structs.replace(event, at=much_later) for event in (RENEWED, AWAY))
    world = (job(), POOL, VIRTUAL, *cloned(1), completed(1), *online(1), by_user, renewed, away)
    assert decide(*world, now=much_later + BOOT_TIMEOUT) == []
    assert len(decide(*world, now=much_later + BOOT_TIMEOUT + timedelta(seconds=1))) == 1


def test_a_machine_that_is_being_deleted_stays_out_of_use_also_if_it_registers() -> None:
    again = VcenterMachineRegistered(**V, operation_id=1, node_id=1)
    state, _ = read(*USED, REMOVAL, again, queued(2))
    state.polled(1, 1)
    assert place_builds(state, NOW) == []
