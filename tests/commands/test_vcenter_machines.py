"""Decisions about machines that were cloned in a vCenter: their registration as nodes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from commands.vcenter_operations import REGISTRATION_LIFETIME, RegisterVcenterMachine, RenewVcenterRegistration
from domain.claims import ClaimTaken
from domain.core.errors import Conflict, Unauthenticated
from domain.nodes import NO_TOKEN, NodeConnected, NodeDeleted, NodeRegistered, NodeTokenRotated, NodeWentOffline
from domain.pools import PoolCreated
from domain.vcenter import VcenterCreated, VcenterDeleted
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationRequested,
    VcenterRegistrationRenewed,
    find_operation_id,
    make_machine_id,
    make_vm_name,
    read_machine_id,
)
from tests.support.spec import given

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
NAME = make_vm_name(9, "c0ffee")
CREATED = VcenterCreated(vcenter_id=5)
POOL = PoolCreated(pool_id=3, title="vms", project_id=1)
CLONE = VcenterOperationRequested(
    at=NOW, operation_id=9, vcenter_id=5, kind="clone", vm_id="vm-7", vm_name=NAME, pool_id=3
)
REGISTER = RegisterVcenterMachine(9, "0", b"hash", 12, "claim", NOW)
REGISTERED = VcenterMachineRegistered(operation_id=9, vcenter_id=5, node_id=12, token_hash=b"hash")
NODE = NodeRegistered(node_id=12, title=NAME, claim="claim", token_hash=b"hash", pool_id=3)


def test_a_machine_becomes_a_node_once() -> None:
    claimed, *others = given(CREATED, POOL, CLONE).when(REGISTER)
    assert isinstance(claimed, ClaimTaken)
    assert others == [NODE, REGISTERED]
    again = given(CREATED, POOL, CLONE, claimed, REGISTERED)
    again.when(REGISTER).then_nothing()
    with pytest.raises(Unauthenticated, match="it works once"):
        again.when(RegisterVcenterMachine(9, "0", b"other", 13, "claim", NOW))
    with pytest.raises(Conflict, match="already is a node"):
        given(CREATED, POOL, CLONE, claimed).when(RegisterVcenterMachine(9, "0", b"hash", 13, "claim", NOW))


def test_a_machine_that_was_reverted_registers_again_as_the_same_node() -> None:
    until = NOW + timedelta(hours=5)
    renew = RenewVcenterRegistration(9, "next", until)
    renewed = VcenterRegistrationRenewed(operation_id=9, vcenter_id=5, registration_id="next", registration_until=until)
    online = NodeConnected(
        node_id=12, session="s1", version="1", platform="linux", hostname="h", cpu_cores=1, ram_gb=1.0
    )
    offline = NodeWentOffline(node_id=12, session="s1", reason="its machine was reverted")
    world = (CREATED, POOL, CLONE, NODE, REGISTERED)
    revoked = NodeTokenRotated(node_id=12, token_hash=NO_TOKEN)
    given(*world).when(renew).then(renewed, revoked)
    given(*world, online).when(renew).then(renewed, revoked, offline)
    given(*world, renewed).when(renew).then_nothing()
    given(CREATED, POOL, CLONE).when(renew).then(renewed)
    given(*world, NodeDeleted(node_id=12)).when(renew).then(renewed)
    given().when(renew).then_nothing()

    again = RegisterVcenterMachine(9, "next", b"new", 13, "claim", until)
    registered = VcenterMachineRegistered(operation_id=9, vcenter_id=5, node_id=12, token_hash=b"new")
    rotated = NodeTokenRotated(node_id=12, token_hash=b"new")
    given(*world, renewed).when(again).then(rotated, registered)
    given(*world, renewed, registered).when(again).then_nothing()
    for late in (REGISTER, replace(again, now=until + timedelta(seconds=1))):
        with pytest.raises(Unauthenticated, match="not valid"):
            given(*world, renewed).when(late)
    claimed, *others = given(*world, NodeDeleted(node_id=12), renewed).when(again)
    assert isinstance(claimed, ClaimTaken)
    assert [type(event) for event in others] == [NodeRegistered, VcenterMachineRegistered]


def test_tokens_that_are_not_valid() -> None:
    sync = VcenterOperationRequested(at=NOW, operation_id=9, vcenter_id=5, kind="sync")
    late = RegisterVcenterMachine(9, "0", b"hash", 12, "claim", NOW + REGISTRATION_LIFETIME + timedelta(seconds=1))
    for history, command in (
        ([CREATED, POOL], REGISTER),
        ([CREATED, POOL, sync], REGISTER),
        ([CREATED, VcenterDeleted(vcenter_id=5), POOL, CLONE], REGISTER),
        ([CREATED, POOL, CLONE], late),
    ):
        with pytest.raises(Unauthenticated, match="not valid"):
            given(*history).when(command)


@pytest.mark.parametrize("name", ["agent", "testhide-", "testhide-x-1", f"testhide-{'9' * 99}-x", "my-testhide-9-x"])
def test_names_of_others(name: str) -> None:
    assert find_operation_id(name) is None


def test_names_and_ids() -> None:
    assert (find_operation_id(NAME), read_machine_id(make_machine_id(9)), read_machine_id("da-9")) == (9, 9, None)
