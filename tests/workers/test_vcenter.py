"""Operations on vCenters, at a vCenter in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from commands.handler import CommandContext
from commands.vcenter import CreateVcenter, DeleteVcenter
from commands.vcenter_operations import RequestVcenterOperation
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import VCENTER_OPERATION, OperationEnd, VcenterOperationCompleted, VcenterOperationFailed
from integrations.vcenter_ports import VcenterFailure, VcenterMissing, VcenterUnavailable
from tests.workers.test_known_issues import House, house  # noqa: F401
from workers.vcenter import VcenterOperator

ANN = CommandContext("user:1")


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


class Site:
    """A house with a vCenter."""

    def __init__(self, house: House) -> None:  # noqa: F811
        self.house, self.lab = house, Lab()
        self.operator = VcenterOperator(house.parts.log, house.handler, self.lab)
        self._last = 0

    async def connect(self) -> None:
        await self.house.does(CreateVcenter(1, "Lab", "vcenter.lab", "svc", b"p", "DC0"))

    async def state(self) -> Vcenter:
        state = await self.house.parts.log.load_state(VCENTER.at(1))
        assert state is not None
        return state

    async def carry_out(self, **fields: Any) -> OperationEnd:
        operation_id = await self.request(**fields)
        await self.operator.carry_out(operation_id)
        return await self.end(operation_id)

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


async def test_a_test_says_what_is_wrong(site: Site) -> None:
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationCompleted)
    assert (end.version, end.latency_ms) == ("8.0.2", 45)
    site.lab.failure = VcenterMissing("The vCenter has no datacenter 'DC0'.")
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, end.error) == ("missing", "The vCenter has no datacenter 'DC0'.")
    assert (await site.state()).error == "", "it could sign in"
    site.lab.refusal = VcenterUnavailable("vcenter.lab gives no answer.")
    end = await site.carry_out(kind="test")
    assert isinstance(end, VcenterOperationFailed)
    assert (end.failure, (await site.state()).error) == ("outside", "vcenter.lab gives no answer.")


async def test_what_has_ended_is_not_carried_out_again(site: Site) -> None:
    first = await site.carry_out(kind="test")
    await site.operator.carry_out(1)
    assert (len(site.lab.passwords), await site.end(1)) == (1, first)


async def test_nothing_is_done_for_a_deleted_vcenter(site: Site) -> None:
    operation_id = await site.request(kind="test")
    await site.house.does(DeleteVcenter(1))
    await site.operator.carry_out(operation_id)
    await site.operator.check(1)
    assert site.lab.passwords == []


async def test_a_vcenter_that_is_deleted_meanwhile(site: Site) -> None:
    operation_id = await site.request(kind="test")
    site.lab.on_check = partial(site.house.does, DeleteVcenter(1))
    await site.operator.carry_out(operation_id)
    assert (await site.state()).deleted
