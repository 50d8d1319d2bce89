"""Read model of commands that agents have not answered yet. Answers are only in the log."""

from collections.abc import Iterable
from datetime import datetime

from domain.core.events import Recorded
from domain.node_commands import NodeCommandCompleted, NodeCommandEvent, NodeCommandRequested
from domain.nodes import NodeDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, no_rows
from projections.engine.queries import fetch_column
from store.postgres.queries import Source

VERSION = 1


class NodeCommandRow(Row, frozen=True):
    table = Table("node_commands", VERSION, indexes=("(node_id)",))
    id: int
    node_id: int
    timeout_s: int
    requested_at: datetime


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case NodeCommandRequested():
            yield NodeCommandRow(event.command_id, event.node_id, event.timeout_s, event.at)
        case NodeCommandCompleted():
            yield Delete(NodeCommandRow, event.command_id)
        case NodeDeleted():
            yield DeleteWhere(NodeCommandRow, "node_id", event.node_id)


PROJECTION = Projection(
    "node_commands", VERSION, (NodeCommandRow,), no_rows, apply, handles=(NodeCommandEvent, NodeDeleted)
)


async def find_unanswered(source: Source, node_id: int) -> list[int]:
    """Returns the ids of the commands that the node's agent has not answered, oldest first.

    Leaves out commands whose timeout has passed, so that no old command runs when a machine comes back.
    """
    query = (
        f"SELECT id FROM {NodeCommandRow.table} WHERE node_id = %(node)s"
        " AND requested_at + make_interval(secs => timeout_s) > now() ORDER BY id"
    )
    return await fetch_column(source, query, {"node": node_id})
