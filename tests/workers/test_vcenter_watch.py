"""What a worker does about vCenters without being asked: it syncs them, deletes what failed clones have left over, and
ends operations that nobody carries out any more.
"""

from typing import Any

import pytest
from msgspec import structs

from commands.vcenter import DeleteVcenter
from commands.vcenter_operations import FailVcenterOperation, RecordVcenterVms, RegisterVcenterMachine
from domain.vcenter_operations import (
    CARRYING_OUT,
    VcenterOperationFailed,
    VcenterOperationRequested,
)
from domain.vcenter_vms import VcenterVmsChanged, VirtualMachine
from integrations.vcenter_ports import VcenterUnavailable
from store.clock import utcnow
from store.tables.reactions import halt
from tests.support.spec import given
from tests.workers.test_known_issues import House, house  # noqa: F401
from tests.workers.test_vcenter import VM, Site
from workers.vcenter_watch import VcenterWatch


class WatchedSite(Site):
    def __init__(self, house: House) -> None:  # noqa: F811
        super().__init__(house)
        parts = house.parts
        self.watch = VcenterWatch(parts.pool, parts.log, house.handler, parts.ids, self.operator)

    async def request(self, **fields: Any) -> int:
        self._last = await self.house.parts.ids.draw("vcenter_operations") - 1
        return await super().request(**fields)

    async def sync_all(self) -> None:
        await self.house.shown()
        await self.watch.sync_all()
        await self.house.shown()

    async def deletions(self) -> list[str]:
        """Returns the ids of the machines whose deletion was requested."""
        recorded = await self.house.parts.log.read(0, 1_000, [VcenterOperationRequested.name])
        events = [one.event for one in recorded]
        return [one.vm_id for one in events if isinstance(one, VcenterOperationRequested) and one.kind == "delete"]


@pytest.fixture(name="site")
async def _site(house: House) -> WatchedSite:  # noqa: F811
    site = WatchedSite(house)
    await site.connect()
    return site


async def test_what_others_have_changed_is_noticed(site: WatchedSite) -> None:
    await site.sync_all()
    assert await site.inventory() == {"vm-7": VM}
    site.lab.vms["vm-7"] = structs.replace(VM, power_state="powered_on")
    await site.sync_all()
    assert (await site.inventory())["vm-7"].power_state == "powered_on"
    head = await site.house.parts.log.read_head()
    await site.sync_all()
    assert await site.house.parts.log.read_head() == head, "nothing has changed"


async def test_a_vcenter_that_gives_no_answer_keeps_its_machines(site: WatchedSite) -> None:
    await site.sync_all()
    site.lab.refusal = VcenterUnavailable("vcenter.lab gives no answer.")
    await site.sync_all()
    assert ((await site.state()).error, list(await site.inventory())) == ("vcenter.lab gives no answer.", ["vm-7"])
    await site.house.does(DeleteVcenter(1))
    signed_in = len(site.lab.passwords)
    await site.sync_all()
    assert len(site.lab.passwords) == signed_in


def test_an_operation_knows_better_than_a_sync_that_began_before_it() -> None:
    old, other = VirtualMachine("vm-1", "a", "powered_off"), VirtualMachine("vm-2", "b", "powered_off")
    new = structs.replace(old, power_state="powered_on")
    known = VcenterVmsChanged(vcenter_id=1, changed=[old])
    operated = VcenterVmsChanged(vcenter_id=1, changed=[new])
    sync = RecordVcenterVms(1, [old, other], {"vm-1": old})
    given(known, operated).when(sync).then(VcenterVmsChanged(vcenter_id=1, changed=[other]))
    given(operated).when(RecordVcenterVms(1, [], {})).then_nothing()
    given(operated).when(RecordVcenterVms(1, [], {"vm-1": new})).then(VcenterVmsChanged(vcenter_id=1, removed=["vm-1"]))


async def test_a_machine_that_a_failed_clone_has_left_over_is_deleted(site: WatchedSite) -> None:
    name = "testhide-1-c0ffee"
    site.lab.vms["vm-101"] = VirtualMachine("vm-101", name, "powered_off")
    operation_id = await site.request(kind="clone", vm_id="vm-7", vm_name=name)
    await site.sync_all()
    assert await site.deletions() == [], "it may still be made"
    await site.house.does(FailVcenterOperation(operation_id, "outside", "no room"))
    site.lab.vms["vm-102"] = VirtualMachine("vm-102", "testhide-1-other", "powered_off")
    await site.sync_all()
    assert await site.deletions() == ["vm-101"]
    await site.sync_all()
    assert await site.deletions() == ["vm-101"], "it is under way"


async def test_a_machine_with_an_agent_is_not_left_over(site: WatchedSite) -> None:
    name = "testhide-1-c0ffee"
    site.lab.vms["vm-101"] = VirtualMachine("vm-101", name, "powered_on")
    operation_id = await site.request(kind="clone", vm_id="vm-7", vm_name=name)
    await site.house.does(
        RegisterVcenterMachine(operation_id, "0", b"token", 5, "name-5", utcnow()),
        FailVcenterOperation(operation_id, "timeout", "no answer"),
    )
    await site.sync_all()
    assert await site.deletions() == []


@pytest.mark.parametrize("end", ["parked", "cancelled"])
async def test_an_operation_that_is_given_up_fails(site: WatchedSite, end: str) -> None:
    operation_id = await site.request(kind="power_on", vm_id="vm-7")
    await site.house.shown()
    (position,) = [one.position for one in await site.house.parts.log.read(0, 1_000, [VcenterOperationRequested.name])]
    async with site.house.parts.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO due_reactions (reaction, position) VALUES (%s, %s)", (CARRYING_OUT, position)
        )
        await connection.execute(
            "INSERT INTO reaction_positions (reaction, position) VALUES (%s, %s)", (CARRYING_OUT, position)
        )
    assert await site.watch.end_given_up() == 0, "it is due"
    async with site.house.parts.pool.connection() as connection:
        if end == "parked":
            assert await halt(connection, CARRYING_OUT, position, "RuntimeError")
        else:
            await connection.execute("DELETE FROM due_reactions")
    assert await site.watch.end_given_up() == 1
    failed = await site.end(operation_id)
    assert isinstance(failed, VcenterOperationFailed)
    assert (failed.failure, "A fault of this server" in failed.error) == ("timeout", True)
    await site.house.shown()
    assert await site.watch.end_given_up() == 0
