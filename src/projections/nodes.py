"""Read model of nodes. An agent's measurements are not events: queries read them from the table `agent_gauges`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, Unpack

import msgspec

from domain import nodes
from domain.builds import BuildAssigned, BuildFinished, BuildRequeued
from domain.core.events import Event, Recorded, copy_fields
from projections.auth_changes import ReadCredentials, log_positions
from projections.engine.model import Change, Delete, Key, Projection, Row, Rows, Table, changed_columns
from projections.engine.queries import Window, fetch_all, fetch_one, find_row
from store.postgres.queries import Source

VERSION = 2

NEVER = -1
"""Value of `last_heartbeat_s` for a node whose agent has never sent measurements."""

Status = Literal["online", "offline", "quarantined"]


class NodeRow(Row, frozen=True):
    table = Table("nodes", VERSION, indexes=("(token_hash)", "(old_token_hash)", "(pool_id, id)", "(lower(name))"))
    id: int
    name: str
    pool_id: int | None
    tags: list[str]
    max_parallel: int
    token_hash: bytes
    created_at: datetime
    old_token_hash: bytes | None = None
    """Hash of the previous token, which is valid until the agent has used the new one. None if no previous token is
    valid.
    """
    old_token_until: datetime | None = None
    status: str = "offline"
    session: str | None = None
    """Session of the connected agent; None while the node is offline."""
    quarantined: bool = False
    version: str = ""
    platform: str = ""
    hostname: str = ""
    cpu_cores: int = 0
    ram_gb: float = 0.0
    connected_at: datetime | None = None
    running_builds: int = 0
    failed_builds: int = 0
    lost_builds: int = 0
    """Number of builds that were queued again because the node's agent was lost."""


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case nodes.NodeRegistered() | nodes.NodeDeleted():
            return
        case nodes.NodeEvent() as event:
            yield NodeRow, (event.node_id,)
        case BuildAssigned() | BuildRequeued():
            yield NodeRow, (recorded.event.node_id,)
        case BuildFinished(node_id=int(node_id)):
            yield NodeRow, (node_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case nodes.NodeRegistered():
            yield copy_fields(NodeRow, event, id=event.node_id, name=event.title, created_at=event.at)
        case nodes.NodeDeleted():
            yield Delete(NodeRow, event.node_id)
        case nodes.NodeEvent():
            node = rows.get(NodeRow, event.node_id)
            if node is not None and (columns := _node_changes(event, node)):
                node = msgspec.structs.replace(node, **columns)
                yield msgspec.structs.replace(node, status=_status(node))
        case BuildAssigned() | BuildRequeued() | BuildFinished():
            node = None if event.node_id is None else rows.get(NodeRow, event.node_id)
            if node is not None:
                yield msgspec.structs.replace(node, **_build_counts(event, node))


def _status(node: NodeRow) -> Status:
    if node.quarantined:
        return "quarantined"
    return "offline" if node.session is None else "online"


def _node_changes(event: nodes.NodeEvent, node: NodeRow) -> dict[str, Any]:
    match event:
        case nodes.NodeConnected():
            described = ("session", "version", "platform", "hostname", "cpu_cores", "ram_gb")
            return {field: getattr(event, field) for field in described} | {"connected_at": event.at}
        case nodes.NodeWentOffline():
            # The event about the end of a session may arrive after another session has replaced this one.
            return {"session": None} if event.session == node.session else {}
        case nodes.NodeUpdated():
            return changed_columns(node, event)
        case nodes.NodeTokenRotated():
            # The agent still uses the oldest token if it has not used the token of the previous rotation yet.
            old = (node.old_token_hash or node.token_hash) if event.old_until else None
            return {"token_hash": event.token_hash, "old_token_hash": old, "old_token_until": event.old_until}
        case nodes.NodeTokenRetired():
            return {"old_token_hash": None, "old_token_until": None}
        case nodes.NodeQuarantined() | nodes.NodeReleased():
            return {"quarantined": isinstance(event, nodes.NodeQuarantined)}
        case _:
            return {}


def _build_counts(event: BuildAssigned | BuildRequeued | BuildFinished, node: NodeRow) -> dict[str, Any]:
    # A build may end twice for a node: first it is queued again, and later its agent finishes it all the same.
    released = {"running_builds": max(0, node.running_builds - 1)}
    match event:
        case BuildAssigned():
            return {"running_builds": node.running_builds + 1}
        case BuildRequeued():
            return released | {"lost_builds": node.lost_builds + (event.reason == "agent_lost")}
        case BuildFinished():
            return released | {"failed_builds": node.failed_builds + (event.status == "failed")}


PROJECTION = Projection(
    "nodes", VERSION, (NodeRow,), keys, apply, handles=(BuildAssigned, BuildFinished, BuildRequeued, nodes.NodeEvent)
)


class NodeView(msgspec.Struct, frozen=True):
    """A node, with the last measurements of its agent as whole numbers. The measurements are 0 while the node is
    offline, and null in historical reads.
    """

    id: int
    name: str
    status: Status
    pool_id: int | None
    running_builds: int
    """Number of builds that run on the node now."""
    cpu_pct: int | None
    tags: list[str]
    max_parallel: int
    connected_at: datetime | None
    """When the agent's session began."""
    uptime_s: int | None
    cpu_cores: int
    ram_gb: int
    version: str
    platform: str
    hostname: str
    failed_builds: int
    """Number of builds that failed on the node."""
    lost_builds: int
    """Number of builds that were lost on the node because its agent fell silent."""


class NodeHealth(msgspec.Struct, frozen=True):
    """The last measurements of a node's agent and their age. If the agent has never sent any, the measurements are
    shown as 0 and their age as -1.
    """

    node_id: int
    cpu_pct: int
    ram_pct: int
    disk_free_gb: int
    last_heartbeat_s: int
    """Seconds since the agent last sent measurements; -1 if it never did."""
    status: Status


def _rounded(gauge: str) -> str:
    return f"round(coalesce(g.{gauge}, 0)::numeric)::bigint"


_VIEW = f"""
    SELECT n.id, n.name, n.status, n.pool_id, n.running_builds, {_rounded("cpu_pct")}, n.tags, n.max_parallel,
        n.connected_at, coalesce(g.uptime_s, 0), n.cpu_cores, round(n.ram_gb::numeric)::bigint, n.version, n.platform,
        n.hostname, n.failed_builds, n.lost_builds
    FROM {NodeRow.table} n LEFT JOIN agent_gauges g ON g.node_id = n.id AND g.session = n.session
"""


class AgentCredentials(ReadCredentials, frozen=True):
    """The node to which an agent's token belongs, with the hashes of the node's tokens."""

    losses = (nodes.NodeDeleted, nodes.NodeTokenRetired, nodes.NodeTokenRotated)

    sent_hash: bytes
    """Hash of the token that the agent has sent."""
    node_id: int
    token_hash: bytes
    old_token_hash: bytes | None

    @property
    def streams(self) -> list[str]:
        return [nodes.NODE.at(self.node_id).name]

    def loses_by(self, event: Event) -> bool:
        if isinstance(event, nodes.NodeDeleted) or self.sent_hash == self.old_token_hash:
            return True
        return isinstance(event, nodes.NodeTokenRotated) and event.old_until is None


_LOG = log_positions([("nodes", VERSION)], AgentCredentials.losses)


async def find_by_token(source: Source, token_hash: bytes) -> AgentCredentials | None:
    """Returns the node whose agent token has this hash; None if there is none. The previous token matches, too, while
    it is still accepted.
    """
    query = (
        f"SELECT head, shown, %(hash)s::bytea, id, token_hash, old_token_hash FROM {_LOG}, {NodeRow.table}"
        " WHERE token_hash = %(hash)s OR (old_token_hash = %(hash)s AND old_token_until > now())"
    )
    return await fetch_one(source, AgentCredentials, query, {"hash": token_hash})


async def find(source: Source, node_id: int) -> NodeRow | None:
    return await find_row(source, NodeRow, node_id)


async def find_view(source: Source, node_id: int) -> NodeView | None:
    return await fetch_one(source, NodeView, f"{_VIEW} WHERE n.id = %(id)s", {"id": node_id})


async def find_view_by_name(source: Source, name: str) -> NodeView | None:
    """Returns the node with exactly this name; None if there is none. Names are unique."""
    query = f"{_VIEW} WHERE lower(n.name) = lower(%(name)s) AND n.name = %(name)s"
    return await fetch_one(source, NodeView, query, {"name": name})


async def fetch_page(
    source: Source, *, pool_id: int | None, status: str | None, **window: Unpack[Window]
) -> list[NodeView]:
    return await fetch_all(
        source,
        NodeView,
        f"{_VIEW} WHERE n.id > %(after)s AND (%(pool)s::bigint IS NULL OR n.pool_id = %(pool)s)"
        " AND (%(status)s::text IS NULL OR n.status = %(status)s) ORDER BY n.id"
        " OFFSET %(offset)s LIMIT %(limit)s",
        {"pool": pool_id, "status": status, **window},
    )


async def find_health(source: Source, node_id: int) -> NodeHealth | None:
    return await fetch_one(
        source,
        NodeHealth,
        f"SELECT n.id, {_rounded('cpu_pct')}, {_rounded('ram_pct')}, {_rounded('disk_free_gb')},"
        f" CASE WHEN g.seen_at IS NULL THEN {NEVER} ELSE greatest(0, extract(epoch FROM now() - g.seen_at)) END::bigint"
        ", n.status"
        f" FROM {NodeRow.table} n LEFT JOIN agent_gauges g ON g.node_id = n.id WHERE n.id = %(id)s",
        {"id": node_id},
    )
