"""Operations on vCenters, at a vCenter in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from msgspec import structs

from commands.vcenter import CreateVcenter, DeleteVcenter
from commands.vcenter_operations import RequestVcenterOperation
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import VCENTER_OPERATION, OperationEnd, VcenterOperationCompleted, VcenterOperationFailed
from domain.vcenter_vms import VCENTER_VMS, Inventory, PowerAction, PowerState, VirtualMachine
from integrations.vcenter_ports import (
    NewMachine,
    TaskState,
    VcenterFailure,
    VcenterMissing,
    VcenterStateForbids,
    VcenterUnavailable,
)
from store.clock import utcnow
from tests.workers.test_known_issues import House, house  # noqa: F401
from workers.vcenter import MAX_AGE, OperationInterrupted, VcenterOperator

URL = "https://ci.acme.com"
VM = VirtualMachine("vm-7", "agent-7", "powered_off", "Resources")
STATES: dict[PowerAction, PowerState] = {
    "power_on": "powered_on",
    "power_off": "powered_off",
    "suspend": "suspended",
    "reboot": "powered_on",
}


@dataclass
class Lab:
    """Implements `Vcenters` and `VcenterSession` in memory."""

    version: str = "8.0.2"
    latency_ms: int = 45
    refusal: VcenterFailure | None = None
    """Failure of signing in."""
    failure: VcenterFailure | None = None
    """Failure of all other calls."""
    passwords: list[bytes] = field(default_factory=list)
    on_check: Callable[[], Awaitable[None]] | None = None
    vms: dict[str, VirtualMachine] = field(default_factory=lambda: {VM.vm_id: VM})
    tasks: list[TaskState] = field(default_factory=list)
    """What the next looks at a task find; then the task is done."""
    forgets_tasks: bool = False
    loses_answers: bool = False
    """Whether changes are carried out without an answer."""
    loses_answer_of: str = ""
    """A change that is carried out without an answer the first time."""
    forgets_tasks_before: int = 0
    """Number of the first task that is not forgotten."""
    changes: list[str] = field(default_factory=list)
    guestinfo: dict[str, Mapping[str, str]] = field(default_factory=dict)

    async def check_host(self, host: str, *, is_admin: bool) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def sign_in(self, vcenter: Vcenter) -> AsyncIterator[Any]:
        self.passwords.append(vcenter.sealed_password)
        if self.refusal:
            raise self.refusal
        yield self

    async def check(self) -> None:
        if self.on_check:
            await self.on_check()
        if self.failure:
            raise self.failure

    async def fetch_vms(self) -> list[VirtualMachine]:
        return list(self.vms.values())

    async def find_vm(self, vm_id: str) -> VirtualMachine:
        if vm_id not in self.vms:
            raise VcenterMissing(f"Datacenter 'DC0' has no machine {vm_id}.")
        return self.vms[vm_id]

    async def start_power_action(self, vm_id: str, action: PowerAction) -> str | None:
        if self.vms[vm_id].power_state == STATES[action] and action != "reboot":
            raise VcenterStateForbids("The machine is powered on.")
        self.vms[vm_id] = structs.replace(self.vms[vm_id], power_state=STATES[action])
        return self._change(f"{action} {vm_id}")

    async def find_vm_by_name(self, name: str) -> VirtualMachine | None:
        return next((vm for vm in self.vms.values() if vm.name == name), None)

    async def start_clone(self, machine: NewMachine) -> str:
        vm_id = f"vm-{100 + len(self.vms)}"
        self.guestinfo[vm_id] = machine.guestinfo
        self.vms[vm_id] = VirtualMachine(vm_id, machine.name, "powered_off")
        return self._change(f"clone {machine.template_id}")

    async def start_snapshot(self, vm_id: str, name: str) -> str:
        return self._change(f"snapshot {vm_id}")

    async def start_revert(self, vm_id: str, name: str) -> str:
        self.vms[vm_id] = structs.replace(self.vms[vm_id], power_state="powered_off")
        self.guestinfo[vm_id] = {}
        return self._change(f"revert {vm_id}")

    async def start_reconfiguration(self, vm_id: str, guestinfo: Mapping[str, str]) -> str:
        self.guestinfo[vm_id] = guestinfo
        return self._change(f"reconfigure {vm_id}")

    async def start_deletion(self, vm_id: str) -> str:
        del self.vms[vm_id]
        return self._change(f"delete {vm_id}")

    async def read_task(self, task_id: str) -> TaskState:
        if self.failure:
            raise self.failure
        if self.forgets_tasks or int(task_id.removeprefix("task-")) <= self.forgets_tasks_before:
            raise VcenterMissing("vcenter.lab has no such object any more.")
        return self.tasks.pop(0) if self.tasks else TaskState(True)

    def _change(self, what: str) -> str:
        self.changes.append(what)
        if self.loses_answers or what == self.loses_answer_of:
            self.loses_answers, self.loses_answer_of = False, ""
            raise VcenterUnavailable("vcenter.lab gives no answer.")
        return f"task-{len(self.changes)}"


class Site:
    """A house with a vCenter."""

    def __init__(self, house: House) -> None:  # noqa: F811
        self.house, self.lab = house, Lab()
        self.late = timedelta()
        self.operator = VcenterOperator(house.parts.log, house.handler, self.lab, house.parts.secrets, URL, self.now)
        self.progress: list[str] = []
        self._last = 0

    def now(self) -> datetime:
        return utcnow() + self.late

    async def connect(self) -> None:
        await self.house.does(CreateVcenter(1, "Lab", "vcenter.lab", "svc", b"p", "DC0"))

    async def state(self) -> Vcenter:
        state = await self.house.parts.log.load_state(VCENTER.at(1))
        assert state is not None
        return state

    async def carry_out(self, **fields: Any) -> OperationEnd:
        operation_id = await self.request(**fields)
        await self.operator.carry_out(operation_id, self.progress.append)
        return await self.end(operation_id)

    async def inventory(self) -> Inventory:
        return await self.house.parts.log.load_state(VCENTER_VMS.at(1))

    async def request(self, **fields: Any) -> int:
        self._last += 1
        await self.house.does(RequestVcenterOperation(self._last, 1, **fields))
        return self._last

    async def end(self, operation_id: int) -> OperationEnd:
        operation = await self.house.parts.log.load_state(VCENTER_OPERATION.at(operation_id))
        assert operation is not None
        assert operation.end is not None
        return operation.end


@pytest.fixture(name="site")
async def _site(house: House) -> Site:  # noqa: F811
    site = Site(house)
    await site.connect()
    return site


async def test_a_new_vcenter_is_checked(site: Site) -> None:
    await site.operator.check(1)
    assert ((await site.state()).version, site.lab.passwords) == ("8.0.2", [b"p"])
    site.lab.refusal = VcenterUnavailable("vcenter.lab gives no answer.")
    await site.operator.check(1)
    assert (await site.state()).error == "vcenter.lab gives no answer."
    site.lab.refusal, site.lab.failure = None, VcenterMissing("The vCenter has no datacenter 'DC0'.")
    await site.operator.check(1)
    assert (await site.state()).error == "The vCenter has no datacenter 'DC0'."


async def test_a_test_says_what_is_wrong(site: Site) -> None:
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.version, end.latency_ms) == ("8.0.2", 45)
    site.lab.failure = VcenterMissing("The vCenter has no datacenter 'DC0'.")
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, end.error) == ("missing", "The vCenter has no datacenter 'DC0'.")
    assert (await site.state()).error == "The vCenter has no datacenter 'DC0'."
    assert await site.operator.sync(1) == ()
    assert (await site.state()).error == "The vCenter has no datacenter 'DC0'."
    site.lab.failure = None
    await site.carry_out(kind="sync")
    assert (await site.state()).error == ""
    site.lab.refusal = VcenterUnavailable("vcenter.lab gives no answer.")
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, (await site.state()).error) == ("outside", "vcenter.lab gives no answer.")


async def test_what_has_ended_is_not_carried_out_again(site: Site) -> None:
    first = await site.carry_out(kind="test")
    await site.operator.carry_out(1, site.progress.append)
    assert (len(site.lab.passwords), await site.end(1)) == (1, first)


async def test_nothing_is_done_for_a_deleted_vcenter(site: Site) -> None:
    operation_id = await site.request(kind="test")
    await site.house.does(DeleteVcenter(1))
    await site.operator.carry_out(operation_id, site.progress.append)
    await site.operator.check(1)
    assert site.lab.passwords == []


async def test_a_vcenter_that_is_deleted_meanwhile(site: Site) -> None:
    operation_id = await site.request(kind="test")
    site.lab.on_check = partial(site.house.does, DeleteVcenter(1))
    await site.operator.carry_out(operation_id, site.progress.append)
    assert (await site.state()).deleted


async def test_a_sync_finds_what_has_changed(site: Site) -> None:
    end = await site.carry_out(kind="sync")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.synced_vms, end.updated, await site.inventory()) == (1, 1, {"vm-7": VM})
    end = await site.carry_out(kind="sync")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.synced_vms, end.updated) == (1, 0)
    site.lab.vms = {"vm-8": VirtualMachine("vm-8", "other", "suspended")}
    end = await site.carry_out(kind="sync")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.synced_vms, end.updated, set(await site.inventory())) == (1, 2, {"vm-8"})


async def test_a_large_inventory_is_several_events(site: Site) -> None:
    names = [f"vm-{number}" for number in range(1_200)]
    site.lab.vms = {name: VirtualMachine(name, name, "powered_on") for name in names}
    await site.carry_out(kind="sync")
    assert list(await site.inventory()) == names


async def test_power(site: Site) -> None:
    site.lab.tasks = [TaskState(False, 40), TaskState(False, 80)]
    end = await site.carry_out(kind="power_on", vm_id="vm-7")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.power_state, site.progress) == ("powered_on", ["40 %", "80 %"])
    assert (await site.inventory())["vm-7"].power_state == "powered_on"
    refused = await site.carry_out(kind="power_on", vm_id="vm-7")
    assert isinstance(refused, VcenterOperationFailed)
    assert (refused.failure, refused.error) == ("refused", "The machine is powered on.")
    missing = await site.carry_out(kind="power_on", vm_id="vm-9")
    assert isinstance(missing, VcenterOperationFailed)
    assert missing.failure == "missing"


async def interrupt(site: Site, **fields: Any) -> int:
    """Requests an operation and lets its first try end without an answer of the vCenter."""
    operation_id = await site.request(**fields)
    with pytest.raises(OperationInterrupted):
        await site.operator.carry_out(operation_id, site.progress.append)
    return operation_id


async def test_a_lost_answer_makes_no_second_change(site: Site) -> None:
    site.lab.loses_answers = True
    operation_id = await interrupt(site, kind="power_on", vm_id="vm-7")
    await site.operator.carry_out(operation_id, site.progress.append)
    end = await site.end(operation_id)
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.power_state, site.lab.changes) == ("powered_on", ["power_on vm-7"])


async def test_a_reboot_is_never_repeated(site: Site) -> None:
    site.lab.loses_answers = True
    operation_id = await interrupt(site, kind="reboot", vm_id="vm-7")
    await site.operator.carry_out(operation_id, site.progress.append)
    end = await site.end(operation_id)
    assert isinstance(end, VcenterOperationFailed)
    assert ("not known" in end.error, site.lab.changes) == (True, ["reboot vm-7"])


@pytest.mark.parametrize("forgets_tasks", [False, True])
async def test_a_vcenter_that_goes_away_in_mid_task(site: Site, forgets_tasks: bool) -> None:
    site.lab.failure = VcenterUnavailable("vcenter.lab gives no answer.")
    operation_id = await interrupt(site, kind="power_on", vm_id="vm-7")
    site.lab.failure, site.lab.forgets_tasks = None, forgets_tasks
    await site.operator.carry_out(operation_id, site.progress.append)
    assert isinstance(await site.end(operation_id), VcenterOperationCompleted)
    assert site.lab.changes == ["power_on vm-7"]


async def test_a_vcenter_that_stays_away(site: Site) -> None:
    site.lab.failure = VcenterUnavailable("vcenter.lab gives no answer.")
    operation_id = await interrupt(site, kind="power_on", vm_id="vm-7")
    site.late = MAX_AGE
    await site.operator.carry_out(operation_id, site.progress.append)
    end = await site.end(operation_id)
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, "not known" in end.error) == ("timeout", True)


async def test_an_operation_that_has_not_begun_fails_at_once(site: Site) -> None:
    site.lab.refusal = VcenterUnavailable("vcenter.lab gives no answer.")
    end = await site.carry_out(kind="power_on", vm_id="vm-7")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, end.error) == ("outside", "vcenter.lab gives no answer.")
