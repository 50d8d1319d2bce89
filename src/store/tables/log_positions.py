"""How far each worker has read the log, in the table `reaction_positions`.

A worker locks its row, reads what follows (`EventLog.read_batch`), acts and moves the position, all in one transaction:
no event is missed or acted on twice, and any number of processes may run the worker.
"""

from collections.abc import Sequence

from psycopg import AsyncConnection

from store.postgres.queries import fetch_row

MIN_SKIP = 200
"""Positions without an event of interest that are worth a write: after fewer the stored position may stay behind."""


async def ensure_positions(connection: AsyncConnection, names: Sequence[str], *, at_head: bool) -> None:
    """Workers without a position begin at the end of the log, or with its first event."""
    await connection.execute(
        "INSERT INTO reaction_positions SELECT unnest(%s::text[]),"
        " CASE WHEN %s THEN (SELECT coalesce(max(notification_id), 0) FROM stored_events) ELSE 0 END"
        " ON CONFLICT DO NOTHING",
        (list(names), at_head),
        prepare=True,
    )


async def lock_position(connection: AsyncConnection, name: str) -> int | None:
    """The position, which nobody else can move until the transaction ends; None for a worker without one."""
    row = await fetch_row(connection, "SELECT position FROM reaction_positions WHERE reaction = %s FOR UPDATE", (name,))
    return None if row is None else int(row[0])


async def move_position(connection: AsyncConnection, name: str, position: int) -> None:
    await connection.execute(
        "INSERT INTO reaction_positions VALUES (%s, %s)"
        " ON CONFLICT (reaction) DO UPDATE SET position = EXCLUDED.position",
        (name, position),
        prepare=True,
    )
