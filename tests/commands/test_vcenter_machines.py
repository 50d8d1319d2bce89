"""Decisions about machines that were cloned in a vCenter: their registration as nodes."""

from datetime import UTC, datetime, timedelta

import pytest

from commands.vcenter_operations import REGISTRATION_LIFETIME, RegisterVcenterMachine
from domain.claims import ClaimTaken
from domain.core.errors import Conflict, Unauthenticated
from domain.nodes import NodeRegistered
from domain.pools import PoolCreated
from domain.vcenter import VcenterCreated, VcenterDeleted
from domain.vcenter_operations import (
    VcenterMachineRegistered,
    VcenterOperationRequested,
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
REGISTER = RegisterVcenterMachine(9, b"hash", 12, "claim", NOW)
REGISTERED = VcenterMachineRegistered(operation_id=9, vcenter_id=5, node_id=12, token_hash=b"hash")
NODE = NodeRegistered(node_id=12, title=NAME, claim="claim", token_hash=b"hash", pool_id=3)


def test_a_machine_becomes_a_node_once() -> None:
    claimed, *others = given(CREATED, POOL, CLONE).when(REGISTER)
    assert isinstance(claimed, ClaimTaken)
    assert others == [NODE, REGISTERED]
    again = given(CREATED, POOL, CLONE, claimed, REGISTERED)
    again.when(REGISTER).then_nothing()
    with pytest.raises(Unauthenticated, match="it works once"):
        again.when(RegisterVcenterMachine(9, b"other", 13, "claim", NOW))
    with pytest.raises(Conflict, match="already is a node"):
        given(CREATED, POOL, CLONE, claimed).when(RegisterVcenterMachine(9, b"hash", 13, "claim", NOW))


def test_tokens_that_are_not_valid() -> None:
    sync = VcenterOperationRequested(at=NOW, operation_id=9, vcenter_id=5, kind="sync")
    late = RegisterVcenterMachine(9, b"hash", 12, "claim", NOW + REGISTRATION_LIFETIME + timedelta(seconds=1))
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
