"""Commands that no agent has answered yet; the answers are in the commands' streams."""

from collections.abc import Iterable
from datetime import datetime

from psycopg import AsyncConnection

from domain.core.events import Recorded
from domain.node_commands import NodeCommandCompleted, NodeCommandRequested
from domain.nodes import NodeDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Key, Projection, Row, Rows, Table

VERSION = 1


class NodeCommandRow(Row, frozen=True):
    table = Table("node_commands", VERSION, indexes=("(node_id)",))
    id: int
    node_id: int
    timeout_s: int
    requested_at: datetime


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    return ()


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case NodeCommandRequested():
            yield NodeCommandRow(event.command_id, event.node_id, event.timeout_s, event.at)
        case NodeCommandCompleted():
            yield Delete(NodeCommandRow, event.command_id)
        case NodeDeleted():
            yield DeleteWhere(NodeCommandRow, "node_id", event.node_id)
        case _:
            return


PROJECTION = Projection(
    "node_commands",
    VERSION,
    (NodeCommandRow,),
    keys,
    apply,
    takes=(NodeCommandCompleted, NodeCommandRequested, NodeDeleted),
)


async def unanswered(connection: AsyncConnection, node_id: int) -> list[int]:
    """Commands for this node's agent, oldest first, without those that nobody waits for any more: what was asked for
    while the machine was away must not run when it comes back.
    """
    cursor = await connection.execute(
        f"SELECT id FROM {NodeCommandRow.table} WHERE node_id = %s"
        " AND requested_at + make_interval(secs => timeout_s) > now() ORDER BY id".encode(),
        (node_id,),
        prepare=True,
    )
    return [command_id for (command_id,) in await cursor.fetchall()]
