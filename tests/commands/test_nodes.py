"""Nodes and the agents that connect as them."""

from typing import Any

import pytest
from hypothesis import given

from commands.nodes import ConnectNode, DeleteNode, MarkNodeOffline, RegisterNode
from domain import claims, nodes, pools
from domain.base import Event
from domain.claims import ClaimReleased, ClaimTaken
from domain.errors import Conflict, Invalid, NotFound
from domain.nodes import NODE, NodeConnected, NodeDeleted, NodeRegistered, NodeWentOffline
from domain.pools import PoolCreated
from tests.commands.given import commands, decided, folds, histories, is_decided_once

POOL = PoolCreated(pool_id=2, project_id=1, title="linux")
REGISTER = RegisterNode(7, "agent-01", "node-name-1", b"hash", 2, ("linux",), 3)
REGISTERED = NodeRegistered(node_id=7, title="agent-01", token_hash=b"hash", pool_id=2, tags=["linux"], max_parallel=3)
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
    assert decided(DeleteNode(7, "node-name-1"), TAKEN, REGISTERED) == [released, DELETED]
    assert decided(DeleteNode(7, "node-name-1"), TAKEN, REGISTERED, released, DELETED) == []


def test_there_is_no_such_node() -> None:
    with pytest.raises(NotFound):
        decided(DeleteNode(7, "node-name-1"))


@pytest.mark.parametrize("kind", [RegisterNode, ConnectNode, MarkNodeOffline, DeleteNode])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @given(commands(kind), histories(*nodes.EVENTS, *pools.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@given(histories(*nodes.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(NODE, history)
