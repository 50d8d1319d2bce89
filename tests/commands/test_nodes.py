"""Nodes and the agents that connect as them."""

from typing import Any

import hypothesis
import pytest

from commands.nodes import (
    ConnectNode,
    DeleteNode,
    MarkNodeOffline,
    QuarantineNode,
    RegisterNode,
    ReleaseNode,
    RetireOldToken,
    RotateNodeToken,
    UpdateNode,
)
from domain import claims, nodes, pools
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import UNSTAMPED, Event
from domain.nodes import (
    NODE,
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeTokenRetired,
    NodeTokenRotated,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

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
    given(POOL).when(REGISTER).then(TAKEN, REGISTERED)
    given(POOL, TAKEN, REGISTERED).when(REGISTER).then_nothing()


def test_a_node_needs_a_pool() -> None:
    with pytest.raises(Invalid) as caught:
        given().when(REGISTER)
    assert caught.value.errors[0].field == "pool_id"


def test_a_name_is_taken_once() -> None:
    with pytest.raises(Conflict, match="agent-01"):
        given(POOL, ClaimTaken(claim="node-name-1", owner="node-6")).when(REGISTER)


def test_the_old_token_is_retired_once() -> None:
    rotated = NodeTokenRotated(node_id=7, token_hash=b"new", old_until=UNSTAMPED)
    given(REGISTERED).when(RotateNodeToken(7, b"new", UNSTAMPED)).then(rotated)
    given(REGISTERED, rotated).when(RetireOldToken(7)).then(NodeTokenRetired(node_id=7))
    given(REGISTERED, rotated, NodeTokenRetired(node_id=7)).when(RetireOldToken(7)).then_nothing()
    given(REGISTERED, NodeTokenRotated(node_id=7, token_hash=b"new")).when(RetireOldToken(7)).then_nothing()
    with pytest.raises(NotFound):
        given(REGISTERED, DELETED).when(RotateNodeToken(7, b"new", None))


def test_a_rotation_at_once_ends_the_session() -> None:
    rotated = NodeTokenRotated(node_id=7, token_hash=b"new")
    offline = NodeWentOffline(node_id=7, session="s1", reason="its token is not valid any more")
    given(REGISTERED, connected("s1")).when(RotateNodeToken(7, b"new", None)).then(rotated, offline)
    given(REGISTERED).when(RotateNodeToken(7, b"new", None)).then(rotated)
    later = NodeTokenRotated(node_id=7, token_hash=b"new", old_until=UNSTAMPED)
    given(REGISTERED, connected("s1")).when(RotateNodeToken(7, b"new", UNSTAMPED)).then(later)


def test_an_agent_connects() -> None:
    given(REGISTERED).when(connect("s1")).then(connected("s1"))
    given(REGISTERED, connected("s1")).when(connect("s1")).then_nothing()


def test_one_agent_at_a_time() -> None:
    with pytest.raises(Conflict, match="agent-01"):
        given(REGISTERED, connected("s1")).when(connect("s2"))


def test_a_dead_agent_is_replaced() -> None:
    given(REGISTERED, connected("s1")).when(connect("s2", replaces_dead=True)).then(connected("s2"))


def test_an_heir_takes_the_place_of_its_predecessor_alone() -> None:
    given(REGISTERED, connected("s1")).when(connect("s2", replaces_session="s1")).then(connected("s2"))
    with pytest.raises(Conflict, match="agent-01"):
        given(REGISTERED, connected("s1"), connected("s2")).when(connect("s3", replaces_session="s1"))


@pytest.mark.parametrize("history", [(), (REGISTERED, DELETED)])
def test_no_agent_connects_as_a_node_that_is_none(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        given(*history).when(connect("s1"))


def test_going_offline() -> None:
    offline = NodeWentOffline(node_id=7, session="s1", reason="silent")
    given(REGISTERED, connected("s1")).when(MarkNodeOffline(7, "s1", "silent")).then(offline)
    given(REGISTERED, connected("s1"), offline).when(MarkNodeOffline(7, "s1", "silent")).then_nothing()
    given(REGISTERED, connected("s1"), connected("s2")).when(MarkNodeOffline(7, "s1", "silent")).then_nothing()


def test_delete_frees_the_name() -> None:
    released = ClaimReleased(claim="node-name-1", owner="node-7")
    given(TAKEN, REGISTERED).when(DeleteNode(7)).then(released, DELETED)
    given(TAKEN, REGISTERED, released, DELETED).when(DeleteNode(7)).then_nothing()


def test_only_what_changes_is_told() -> None:
    command = UpdateNode(7, "agent-01", "node-name-1", 2, ("gpu",), 3)
    updated = NodeUpdated(node_id=7, tags=["gpu"])
    given(POOL, REGISTERED, TAKEN).when(command).then(updated)
    given(POOL, REGISTERED, TAKEN, updated).when(command).then_nothing()
    given(REGISTERED).when(UpdateNode(7, cleared=("pool_id",))).then(NodeUpdated(node_id=7, cleared=("pool_id",)))


def test_a_new_name_is_taken_and_the_old_one_free() -> None:
    command = UpdateNode(7, title="agent-02", claim="node-name-2")
    given(REGISTERED, TAKEN).when(command).then(
        ClaimTaken(claim="node-name-2", owner="node-7"),
        ClaimReleased(claim="node-name-1", owner="node-7"),
        NodeUpdated(node_id=7, title="agent-02", claim="node-name-2"),
    )
    with pytest.raises(Conflict, match="agent-02"):
        given(REGISTERED, TAKEN, ClaimTaken(claim="node-name-2", owner="node-6")).when(command)


def test_a_node_moves_only_to_a_pool_that_is_there() -> None:
    for history in ((), (PoolCreated(pool_id=3, project_id=1, title="x"), PoolDeleted(pool_id=3, project_id=1))):
        with pytest.raises(Invalid) as caught:
            given(REGISTERED, *history).when(UpdateNode(7, pool_id=3))
        assert caught.value.errors[0].field == "pool_id"


def test_quarantine() -> None:
    quarantined, released = NodeQuarantined(node_id=7), NodeReleased(node_id=7)
    given(REGISTERED).when(QuarantineNode(7)).then(quarantined)
    given(REGISTERED, quarantined).when(QuarantineNode(7)).then_nothing()
    given(REGISTERED, quarantined).when(ReleaseNode(7)).then(released)
    given(REGISTERED, quarantined, released).when(ReleaseNode(7)).then_nothing()


@pytest.mark.parametrize("command", [DeleteNode(7), UpdateNode(7), QuarantineNode(7), ReleaseNode(7)])
def test_there_is_no_such_node(command: Any) -> None:
    with pytest.raises(NotFound):
        given().when(command)


@pytest.mark.parametrize(
    "kind", [RegisterNode, ConnectNode, MarkNodeOffline, UpdateNode, QuarantineNode, ReleaseNode, DeleteNode]
)
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*nodes.EVENTS, *pools.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*nodes.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(NODE, history)
