"""Nodes as rows."""

from datetime import UTC, datetime
from typing import Literal

import hypothesis

from domain import nodes
from domain.builds import BuildAssigned, BuildFinished, BuildRequeued
from domain.core.events import Event
from domain.nodes import (
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
from projections.nodes import PROJECTION, NodeRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
REGISTERED = NodeRegistered(at=NOW, node_id=7, title="agent-01", token_hash=b"hash", pool_id=2, tags=["linux"])


def connected(session: str) -> NodeConnected:
    return NodeConnected(
        at=NOW, node_id=7, session=session, version="1", platform="linux", hostname="h", cpu_cores=8, ram_gb=16.0
    )


def assigned(build_id: int) -> BuildAssigned:
    return BuildAssigned(build_id=build_id, job_id=1, project_id=1, node_id=7, attempt=1)


def finished(build_id: int, status: Literal["passed", "failed"], node_id: int | None = 7) -> BuildFinished:
    return BuildFinished(build_id=build_id, job_id=1, project_id=1, status=status, node_id=node_id)


def test_a_new_node_is_offline() -> None:
    row = given(REGISTERED).when(PROJECTION).one(NodeRow)
    assert row == NodeRow(7, "agent-01", 2, ["linux"], 1, b"hash", NOW)
    assert (row.status, row.session) == ("offline", None)


def test_the_token_that_the_agent_uses_outlives_rotations() -> None:
    def rotated(token: bytes, old_until: datetime | None = NOW) -> NodeTokenRotated:
        return NodeTokenRotated(at=NOW, node_id=7, token_hash=token, old_until=old_until)

    def tokens(*events: Event) -> tuple[bytes, bytes | None, datetime | None]:
        row = given(REGISTERED, *events).when(PROJECTION).one(NodeRow)
        return row.token_hash, row.old_token_hash, row.old_token_until

    retired = NodeTokenRetired(node_id=7)
    assert tokens(rotated(b"a")) == (b"a", b"hash", NOW)
    assert tokens(rotated(b"a"), rotated(b"b")) == (b"b", b"hash", NOW), "the agent may not have used the first"
    assert tokens(rotated(b"a"), retired) == (b"a", None, None)
    assert tokens(rotated(b"a"), retired, rotated(b"b")) == (b"b", b"a", NOW)
    assert tokens(rotated(b"a"), rotated(b"b", None)) == (b"b", None, None)


def test_a_connected_node_says_what_it_is() -> None:
    row = given(REGISTERED, connected("s1")).when(PROJECTION).one(NodeRow)
    assert (row.status, row.session, row.cpu_cores, row.ram_gb, row.connected_at) == ("online", "s1", 8, 16.0, NOW)


def test_only_its_own_session_takes_a_node_offline() -> None:
    rows = given(REGISTERED, connected("s1"), connected("s2")).when(PROJECTION)
    rows.apply(NodeWentOffline(node_id=7, session="s1", reason="silent"))
    assert rows.one(NodeRow).status == "online"
    rows.apply(NodeWentOffline(node_id=7, session="s2", reason="silent"))
    assert (rows.one(NodeRow).status, rows.one(NodeRow).session) == ("offline", None)


def test_quarantine_is_what_a_node_shows_whoever_is_connected() -> None:
    rows = given(REGISTERED, NodeQuarantined(node_id=7), connected("s1")).when(PROJECTION)
    assert (rows.one(NodeRow).status, rows.one(NodeRow).session) == ("quarantined", "s1")
    assert rows.apply(NodeReleased(node_id=7)).one(NodeRow).status == "online"
    rows.apply(NodeQuarantined(node_id=7), NodeWentOffline(node_id=7, session="s1", reason="silent"))
    assert rows.one(NodeRow).status == "quarantined"
    assert rows.apply(NodeReleased(node_id=7)).one(NodeRow).status == "offline"


def test_a_node_changes() -> None:
    update = NodeUpdated(node_id=7, title="new", claim="c", tags=["gpu"], max_parallel=4, cleared=("pool_id",))
    row = given(REGISTERED, update).when(PROJECTION).one(NodeRow)
    assert row == NodeRow(7, "new", None, ["gpu"], 4, b"hash", NOW)


def test_builds_are_counted() -> None:
    rows = given(REGISTERED, assigned(1), assigned(2), assigned(3)).when(PROJECTION)
    assert rows.one(NodeRow).running_builds == 3
    rows.apply(finished(1, "passed"), finished(2, "failed"), finished(9, "failed", None))
    lost = BuildRequeued(build_id=3, job_id=1, project_id=1, node_id=7, attempt=1, reason="agent_lost")
    rows.apply(lost)
    row = rows.one(NodeRow)
    assert (row.running_builds, row.failed_builds, row.lost_builds) == (0, 1, 1)
    assert rows.apply(finished(3, "passed")).one(NodeRow).running_builds == 0


def test_a_deleted_node_leaves_no_row() -> None:
    assert given(REGISTERED, NodeDeleted(node_id=7), finished(1, "passed")).when(PROJECTION).all(NodeRow) == []


@hypothesis.given(histories(*nodes.EVENTS, BuildAssigned, BuildRequeued, BuildFinished))
def test_no_history_fails(history: list[Event]) -> None:
    rows = given(*history).when(PROJECTION)
    assert all(row.running_builds >= 0 for row in rows.all(NodeRow))
