"""Lets the read models of a migrated database begin anew. To drop and make their tables would take fifty times as long,
and to have `ensure_tables` look at each table, ten times.
"""

import json
from itertools import chain

from psycopg import AsyncConnection

from projections.engine.engine import Engine, fetch_positions
from projections.registry import PROJECTIONS
from testhide.processes import Core


async def begin_read_models(connection: AsyncConnection) -> None:
    """Empties the live tables of all read models, which then begin at position 0 of the log."""
    tables = {projection: [str(row.table) for row in projection.rows] for projection in PROJECTIONS}
    rows = [{"name": one.name, "version": one.version, "tables": names} for one, names in tables.items()]
    emptied = [*chain.from_iterable(tables.values()), "projection_positions", "parked_events"]
    await connection.execute("; ".join(f"DELETE FROM {table}" for table in emptied).encode())
    await connection.execute(
        "INSERT INTO projection_positions (name, version, position, tables)"
        " SELECT name, version, 0, tables FROM jsonb_to_recordset(%s) AS (name text, version int, tables text[])",
        (json.dumps(rows),),
    )


async def catch_up_read_models(parts: Core) -> None:
    """Applies the rest of the log to the live tables of all read models."""
    async with parts.pool.connection() as connection:
        position = min((await fetch_positions(connection, PROJECTIONS)).values())
        events = await parts.log.read(position, 10_000)
        await Engine(connection, PROJECTIONS, announce=True).apply(events, position)
