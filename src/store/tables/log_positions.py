"""Stored positions: how far each worker has read the log, in the table `reaction_positions`.

In one transaction a worker locks its row, reads the next events (`EventLog.read_batch`), stores their effects and moves
its position. So no event is missed or handled twice, even if several processes run the worker.
"""

from collections.abc import Mapping, Sequence

import structlog
from psycopg import AsyncConnection

from store.log.ids import LAST_POSITION
from store.postgres.queries import Source, fetch_row, fetch_rows

log = structlog.get_logger()

HELD = 2**53 - 1
"""Number that is stored in place of a position beyond the end of the log. A worker with this number stands still until
`testhide repair`. No log grows past this number, and every JSON parser can read it.
"""
MIN_SKIP = 200
"""A worker's stored position is moved past positions without an event for the worker if there are more than this many
of them. To move it for fewer would cost more writes than it saves reads.
"""


async def find_beyond(source: Source) -> dict[str, str]:
    """Returns worker -> defect. Lists the workers whose position is beyond the end of the log, and those that
    `hold_beyond` holds.
    """
    rows = await fetch_rows(
        source,
        "SELECT reaction, position, head FROM reaction_positions,"
        " (SELECT coalesce(max(notification_id), 0) AS head FROM stored_events) log"
        " WHERE position > head ORDER BY reaction",
    )
    return {
        name: "its position was beyond the end of the log"
        if position == HELD
        else f"its position, {position}, is beyond the end of the log, {head}"
        for name, position, head in rows
    }


async def hold_beyond(source: Source, names: Sequence[str]) -> None:
    """Holds each of these workers whose position is beyond the end of the log: it stands still until `testhide repair`.

    Otherwise the worker would go on at this position once the log has grown past it, and miss the events before.
    """
    rows = await fetch_rows(
        source,
        "UPDATE reaction_positions p SET position = %s FROM reaction_positions was WHERE was.reaction = p.reaction"
        " AND p.reaction = ANY (%s) AND p.position < %s"
        " AND p.position > (SELECT coalesce(max(notification_id), 0) FROM stored_events)"
        " RETURNING p.reaction, was.position",
        (HELD, list(names), HELD),
    )
    for name, position in rows:
        log.error("a worker stands still until `testhide repair`", worker=name, beyond_the_log=position)


async def ensure_positions(connection: AsyncConnection, names: Sequence[str], *, at_head: bool) -> None:
    """Stores a position for each of these workers that has none yet: the end of the log if `at_head`, else 0."""
    await connection.execute(
        "INSERT INTO reaction_positions SELECT unnest(%s::text[]),"
        " CASE WHEN %s THEN (SELECT coalesce(max(notification_id), 0) FROM stored_events"
        f" WHERE notification_id <= {LAST_POSITION}) ELSE 0 END"
        " ON CONFLICT DO NOTHING",
        (list(names), at_head),
        prepare=True,
    )


async def find_behind(source: Source, events: Mapping[str, str], min_skip: int) -> list[str]:
    """Returns the workers that have an event to read. `events` maps each worker to the name of the events it reads.

    Moves the position of each other worker to the end of the log if this skips more than `min_skip` positions.
    """
    rows = await fetch_rows(
        source,
        "WITH log AS MATERIALIZED ("
        "  SELECT coalesce(max(notification_id), 0) AS last FROM stored_events"
        f"  WHERE notification_id <= {LAST_POSITION}"
        " ), found AS MATERIALIZED ("
        "  SELECT reaction, p.position, last, EXISTS (SELECT FROM stored_events"
        "   WHERE notification_id > p.position AND notification_id <= last AND topic = wanted.event) AS is_behind"
        "  FROM unnest(%s::text[], %s::text[]) AS wanted (reaction, event)"
        "  JOIN reaction_positions p USING (reaction) CROSS JOIN log"
        " ), skipped AS ("
        "  UPDATE reaction_positions p SET position = last FROM found WHERE p.reaction = found.reaction"
        "  AND p.position = found.position AND NOT is_behind AND last - p.position > %s"
        " ) SELECT reaction FROM found WHERE is_behind",
        (list(events), list(events.values()), min_skip),
    )
    return [name for (name,) in rows]


async def lock_position(connection: AsyncConnection, name: str) -> int | None:
    """Returns a worker's position, locked until the transaction ends; None for a worker without a position."""
    row = await fetch_row(connection, "SELECT position FROM reaction_positions WHERE reaction = %s FOR UPDATE", (name,))
    return None if row is None else int(row[0])


async def move_position(connection: AsyncConnection, name: str, position: int) -> None:
    await connection.execute(
        "INSERT INTO reaction_positions VALUES (%s, %s)"
        " ON CONFLICT (reaction) DO UPDATE SET position = EXCLUDED.position",
        (name, position),
        prepare=True,
    )
