"""Nodes and the agents that connect as them."""

from typing import Any

import pytest
from hypothesis import given

from commands.nodes import (
    ConnectNode,
    DeleteNode,
    MarkNodeOffline,
    QuarantineNode,
    RegisterNode,
    ReleaseNode,
    UpdateNode,
)
from domain import claims, nodes, pools
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import Event
from domain.nodes import (
    NODE,
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted
from tests.support.given import commands, decided, folds, histories, is_decided_once

POOL = PoolCreated(pool_id=2, project_id=1, title="linux")
REGISTER = RegisterNode(7, "agent-01", "node-name-1", b"hash", 2, ("linux",), 3)
REGISTERED = NodeRegistered(
    node_id=7, title="agent-01", claim="node-name-1", token_hash=b"hash", pool_id=2, tags=["linux"], max_parallel=3
)
TAKEN = ClaimTaken(claim="node-name-1", owner="node-7")
DELETED = NodeDeleted(node_id=7)


def connect(session: str, **more: Any) -> ConnectNode:
    return ConnectNode(7, session, "1.0", "linux-amd64", "host", 8, 16.0, **more)


def connected(session: str) -> NodeConnected:
    return NodeConnected(
        node_id=7, session=session, version="1.0", platform="linux-amd64", hostname="host", cpu_cores=8, ram_gb=16.0
    )


def test_register() -> None:
    assert decided(REGISTER, POOL) == [TAKEN, REGISTERED]
    assert decided(REGISTER, POOL, TAKEN, REGISTERED) == []


def test_a_node_needs_a_pool() -> None:
    with pytest.raises(Invalid) as caught:
        decided(REGISTER)
    assert caught.value.errors[0].field == "pool_id"


def test_a_name_is_taken_once() -> None:
    with pytest.raises(Conflict, match="agent-01"):
        decided(REGISTER, POOL, ClaimTaken(claim="node-name-1", owner="node-6"))


def test_an_agent_connects() -> None:
    assert decided(connect("s1"), REGISTERED) == [connected("s1")]
    assert decided(connect("s1"), REGISTERED, connected("s1")) == []


def test_one_agent_at_a_time() -> None:
    with pytest.raises(Conflict, match="agent-01"):
        decided(connect("s2"), REGISTERED, connected("s1"))


def test_a_dead_agent_is_replaced() -> None:
    assert decided(connect("s2", replaces_dead=True), REGISTERED, connected("s1")) == [connected("s2")]


def test_an_heir_takes_the_place_of_its_predecessor_alone() -> None:
    assert decided(connect("s2", replaces_session="s1"), REGISTERED, connected("s1")) == [connected("s2")]
    with pytest.raises(Conflict, match="agent-01"):
        decided(connect("s3", replaces_session="s1"), REGISTERED, connected("s1"), connected("s2"))


@pytest.mark.parametrize("history", [(), (REGISTERED, DELETED)])
def test_no_agent_connects_as_a_node_that_is_none(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        decided(connect("s1"), *history)


def test_going_offline() -> None:
    offline = NodeWentOffline(node_id=7, session="s1", reason="silent")
    assert decided(MarkNodeOffline(7, "s1", "silent"), REGISTERED, connected("s1")) == [offline]
    assert decided(MarkNodeOffline(7, "s1", "silent"), REGISTERED, connected("s1"), offline) == []
    assert decided(MarkNodeOffline(7, "s1", "silent"), REGISTERED, connected("s1"), connected("s2")) == []


def test_delete_frees_the_name() -> None:
    released = ClaimReleased(claim="node-name-1", owner="node-7")
    assert decided(DeleteNode(7), TAKEN, REGISTERED) == [released, DELETED]
    assert decided(DeleteNode(7), TAKEN, REGISTERED, released, DELETED) == []


def test_only_what_changes_is_told() -> None:
    command = UpdateNode(7, "agent-01", "node-name-1", 2, ("gpu",), 3)
    updated = NodeUpdated(node_id=7, tags=["gpu"])
    assert decided(command, POOL, REGISTERED, TAKEN) == [updated]
    assert decided(command, POOL, REGISTERED, TAKEN, updated) == []
    assert decided(UpdateNode(7, cleared=("pool_id",)), REGISTERED) == [NodeUpdated(node_id=7, cleared=("pool_id",))]


def test_a_new_name_is_taken_and_the_old_one_free() -> None:
    command = UpdateNode(7, title="agent-02", claim="node-name-2")
    assert decided(command, REGISTERED, TAKEN) == [
        ClaimTaken(claim="node-name-2", owner="node-7"),
        ClaimReleased(claim="node-name-1", owner="node-7"),
        NodeUpdated(node_id=7, title="agent-02", claim="node-name-2"),
    ]
    with pytest.raises(Conflict, match="agent-02"):
        decided(command, REGISTERED, TAKEN, ClaimTaken(claim="node-name-2", owner="node-6"))


def test_a_node_moves_only_to_a_pool_that_is_there() -> None:
    for history in ((), (PoolCreated(pool_id=3, project_id=1, title="x"), PoolDeleted(pool_id=3, project_id=1))):
        with pytest.raises(Invalid) as caught:
            decided(UpdateNode(7, pool_id=3), REGISTERED, *history)
        assert caught.value.errors[0].field == "pool_id"


def test_quarantine() -> None:
    quarantined, released = NodeQuarantined(node_id=7), NodeReleased(node_id=7)
    assert decided(QuarantineNode(7), REGISTERED) == [quarantined]
    assert decided(QuarantineNode(7), REGISTERED, quarantined) == []
    assert decided(ReleaseNode(7), REGISTERED, quarantined) == [released]
    assert decided(ReleaseNode(7), REGISTERED, quarantined, released) == []


@pytest.mark.parametrize("command", [DeleteNode(7), UpdateNode(7), QuarantineNode(7), ReleaseNode(7)])
def test_there_is_no_such_node(command: Any) -> None:
    with pytest.raises(NotFound):
        decided(command)


@pytest.mark.parametrize(
    "kind", [RegisterNode, ConnectNode, MarkNodeOffline, UpdateNode, QuarantineNode, ReleaseNode, DeleteNode]
)
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @given(commands(kind), histories(*nodes.EVENTS, *pools.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@given(histories(*nodes.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(NODE, history)
