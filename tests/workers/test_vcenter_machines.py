"""Machines that a server clones, reverts and deletes, at a vCenter in memory."""

import pytest
from msgspec import structs

from commands.registrations import read_registration_token
from commands.vcenter import UpdateVcenter
from commands.vcenter_operations import RegisterVcenterMachine
from domain.nodes import NODE
from domain.vcenter_operations import VCENTER_OPERATION, VcenterOperationCompleted, VcenterOperationFailed
from integrations.vcenter_ports import VcenterUnavailable
from store.clock import utcnow
from tests.workers.test_known_issues import House, house  # noqa: F401
from tests.workers.test_vcenter import URL, VM, Site, interrupt
from workers.vcenter import OperationInterrupted, VcenterOperator


@pytest.fixture(name="site")
async def _site(house: House) -> Site:  # noqa: F811
    site = Site(house)
    await site.connect()
    return site


async def test_a_clone_can_register(site: Site) -> None:
    end = await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.vm_id, end.power_state) == ("vm-101", "powered_on")
    assert site.lab.changes == ["clone vm-7", "snapshot vm-101", "power_on vm-101"]
    guestinfo = site.lab.guestinfo["vm-101"]
    assert guestinfo["server"] == URL
    assert read_registration_token(site.house.parts.secrets, guestinfo["registration-token"]) == ("vm-1", "0")


async def test_no_machine_is_cloned_that_cannot_reach_the_server(site: Site) -> None:
    parts, handler = site.house.parts, site.house.handler
    url = "http://127.0.0.1:8000"
    site.operator = VcenterOperator(parts.log, handler, site.lab, parts.secrets, url, site.now)
    end = await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, "TESTHIDE_BASE_URL" in end.error, site.lab.changes) == ("outside", True, [])
    await site.house.does(UpdateVcenter(1, host="127.0.0.1:8989", sealed_password=b"p"))
    end = await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-2-c0ffee")
    assert isinstance(end, VcenterOperationCompleted), "a vCenter on this machine, such as a simulator"


@pytest.mark.parametrize("lost", ["clone", "task"])
async def test_a_clone_is_made_once(site: Site, lost: str) -> None:
    site.lab.loses_answers = lost == "clone"
    site.lab.failure = None if lost == "clone" else VcenterUnavailable("vcenter.lab gives no answer.")
    operation_id = await interrupt(site, kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    site.lab.failure = None
    await site.operator.carry_out(operation_id, site.progress.append)
    assert isinstance(await site.end(operation_id), VcenterOperationCompleted)
    assert site.lab.changes.count("clone vm-7") == 1


async def test_a_machine_that_is_reverted_can_register_again(site: Site) -> None:
    await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    await site.house.does(RegisterVcenterMachine(1, "0", b"token", 5, "name-5", utcnow()))
    before = len(site.lab.changes)
    end = await site.carry_out(kind="revert", vm_id="vm-101")
    assert isinstance(end, VcenterOperationCompleted)
    assert end.power_state == "powered_on"
    steps = ["power_off vm-101", "revert vm-101", "reconfigure vm-101", "power_on vm-101"]
    assert site.lab.changes[before:] == steps
    token = site.lab.guestinfo["vm-101"]["registration-token"]
    found = read_registration_token(site.house.parts.secrets, token)
    assert found is not None
    assert (found[0], found[1] != "0") == ("vm-1", True)
    await site.house.does(RegisterVcenterMachine(1, found[1], b"other", 6, "name-6", utcnow()))
    assert (await site.house.parts.log.load_state(NODE.at(5))) is not None
    assert (await site.house.parts.log.load_state(NODE.at(6))) is None


@pytest.mark.parametrize("lost", ["power_off", "revert", "reconfigure", "power_on"])
@pytest.mark.parametrize("forgets_tasks", [False, True])
async def test_a_revert_whose_answers_are_lost(site: Site, lost: str, forgets_tasks: bool) -> None:
    await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    site.lab.loses_answer_of = f"{lost} vm-101"
    operation_id = await interrupt(site, kind="revert", vm_id="vm-101")
    site.lab.forgets_tasks_before = len(site.lab.changes) if forgets_tasks else 0
    await site.operator.carry_out(operation_id, site.progress.append)
    assert isinstance(await site.end(operation_id), VcenterOperationCompleted)
    clone = await site.house.parts.log.load_state(VCENTER_OPERATION.at(1))
    assert clone is not None
    token = site.lab.guestinfo["vm-101"]["registration-token"]
    assert read_registration_token(site.house.parts.secrets, token) == ("vm-1", clone.registration_id)
    assert site.lab.vms["vm-101"].power_state == "powered_on"


async def test_a_machine_is_deleted(site: Site) -> None:
    await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    site.lab.loses_answers = True
    with pytest.raises(OperationInterrupted):  # the machine could be powered off, but without an answer
        await site.carry_out(kind="delete", vm_id="vm-101")
    await site.operator.carry_out(2, site.progress.append)
    assert isinstance(await site.end(2), VcenterOperationCompleted)
    assert ("vm-101" in site.lab.vms, "vm-101" in await site.inventory()) == (False, False)


async def test_the_node_of_a_deleted_machine_is_deleted(site: Site) -> None:
    await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    await site.house.does(RegisterVcenterMachine(1, "0", b"token", 5, "name-5", utcnow()))
    assert isinstance(await site.carry_out(kind="delete", vm_id="vm-101"), VcenterOperationCompleted)
    node = await site.house.parts.log.load_state(NODE.at(5))
    assert node is not None
    assert node.deleted


@pytest.mark.parametrize("name", ["agent-7", "testhide-1-other", "testhide-99-c0ffee", "testhide-x"])
@pytest.mark.parametrize("kind", ["revert", "delete"])
async def test_machines_of_others_are_left_as_they_are(site: Site, kind: str, name: str) -> None:
    await site.carry_out(kind="clone", vm_id="vm-7", vm_name="testhide-1-c0ffee")
    site.lab.vms["vm-7"] = structs.replace(VM, name=name)
    before = list(site.lab.changes)
    end = await site.carry_out(kind=kind, vm_id="vm-7")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, site.lab.changes) == ("refused", before)
