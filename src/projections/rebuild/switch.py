"""Makes staging tables live, in one short transaction. The live tables that they replace are retired.

The transaction first takes a lock for which all writes of projectors must wait, so the live tables stop changing. Then
it moves the staging tables to exactly the position of the live tables, and swaps them. Appends to the log go on.
Answers to writes wait for the switch, which takes well below a second.

A switch never makes a reader fail. If a statement waits for a lock longer than STATEMENT_TIMEOUT_MS, the switch is
rolled back and tried again. This time is shorter than the time after which PostgreSQL looks for deadlocks. After a
crash at any moment, the old tables are still live.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.sql import SQL, Composed, Identifier

from projections.engine.dismissals import with_dismissals
from projections.engine.inspection import inspect
from projections.engine.model import Projection
from projections.engine.projector import catch_up
from projections.engine.schemas import (
    LIVE,
    RETIRED,
    STAGING,
    NotReady,
    Schema,
    connect,
    fetch_schema_positions,
    lock_staging,
)
from projections.rebuild.rebuild import ProgressCallback, follow_to_head, no_progress
from store.log.event_log import EventLog
from store.postgres.notifications import PROJECTED

T = TypeVar("T")

STATEMENT_TIMEOUT_MS = 300
"""Milliseconds that a statement of a switch may take. This is less than PostgreSQL's `deadlock_timeout` of 1 s, so a
switch gives way before PostgreSQL looks for deadlocks.
"""
MAX_LOCK_ATTEMPTS = 60
"""Number of attempts of a switch to get all its locks, before it gives up."""
RETRY_INTERVAL_S = 0.5
"""Seconds between two attempts of a switch to get its locks."""
_CHOSEN = "(SELECT * FROM unnest(%s::text[], %s::int[]))"
MOVE_POSITIONS = (
    # A new generation makes projectors drop their cached rows, which are stale now.
    f"UPDATE {STAGING}.projection_positions s SET generation = l.generation + 1 FROM {LIVE}.projection_positions l"
    f" WHERE l.name = s.name AND l.version = s.version AND (s.name, s.version) IN {_CHOSEN}",
    *(
        f"WITH moved AS (DELETE FROM {source}.{table} WHERE ({name}, version) IN {_CHOSEN} RETURNING *)"
        f" INSERT INTO {target}.{table} SELECT * FROM moved"
        for source, target in ((LIVE, RETIRED), (STAGING, LIVE))
        for table, name in (("projection_positions", "name"), ("parked_events", "projection"))
    ),
)
"""SQL statements that move positions and parked events between schemas. Each has two parameters: the names and the
versions of the projections.
"""

_LOSSES = f"""
    SELECT s.projection, count(*), min(s.position), (array_agg(s.error ORDER BY s.position))[1]
    FROM {STAGING}.parked_events s
    JOIN {LIVE}.projection_positions l ON (l.name, l.version) = (s.projection, s.version) AND l.position >= s.position
    WHERE (s.projection, s.version) IN {_CHOSEN} AND NOT EXISTS (
        SELECT FROM {LIVE}.parked_events p
        WHERE (p.projection, p.version, p.position) = (s.projection, s.version, s.position)
    )
    GROUP BY s.projection ORDER BY s.projection
"""
"""SQL query for what a switch would lose (`find_losses`). It has two parameters: the names and the versions of the
projections.
"""


class Loss(NamedTuple):
    """Events that the live tables of a read model show, and that its staging tables have parked."""

    name: str
    events: int
    first: int
    """Position of the first of these events."""
    error: str
    """Why the first of these events is parked."""


@dataclass(frozen=True)
class Switched:
    position: int
    """Position of the new live tables."""
    blocked_s: float
    """Seconds for which projectors were blocked, so that answers to writes waited."""


async def switch(
    conninfo: str, event_log: EventLog, projections: Sequence[Projection], on_progress: ProgressCallback = no_progress
) -> Switched:
    """Makes the staging tables of these projections live.

    Raises NotReady, LostLeadership or psycopg.OperationalError; then the old tables are still live.
    """
    clock = asyncio.get_running_loop().time
    projections = await with_dismissals(event_log, projections)
    async with lock_staging(conninfo, projections) as staging, await connect(conninfo) as live:
        await _check_built(staging, projections)
        await _drop_retired(live, projections)

        async def attempt() -> Switched:
            await follow_to_head(staging, event_log, projections, on_progress)
            async with live.transaction():
                await block_projectors(live)
                began = clock()
                position = await _align(live, staging, event_log, projections)
                await _move_tables(live, projections)
            return Switched(position, clock() - began)

        return await retry_on_lock_timeout(attempt)


async def find_losses(live: AsyncConnection, projections: Sequence[Projection]) -> list[Loss]:
    """Returns the events that a switch to the staging tables of these projections would lose. Such an event was applied
    to live tables that are not broken, but cannot be applied any more, for example because its row in the log has been
    damaged.
    """
    sound = (await inspect(live, projections)).sound
    chosen = [item for item in projections if item.name in sound]
    cursor = await live.execute(_LOSSES.encode(), ([item.name for item in chosen], [item.version for item in chosen]))
    return [Loss(*row) for row in await cursor.fetchall()]


async def retry_on_lock_timeout(attempt: Callable[[], Awaitable[T]]) -> T:
    """Calls `attempt` until it gets all its locks, and returns its result. Raises NotReady after MAX_LOCK_ATTEMPTS
    calls.

    `attempt` should call `block_projectors`, which limits the time that each statement waits for a lock.
    """
    for _ in range(MAX_LOCK_ATTEMPTS):
        try:
            return await attempt()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(RETRY_INTERVAL_S)
    raise NotReady(
        "Nothing was changed: long queries or transactions keep the tables in use. Try again when those have ended."
    )


async def block_projectors(live: AsyncConnection) -> None:
    """Keeps all projectors from writing until the transaction ends. Also sets the statement timeout of the transaction
    to STATEMENT_TIMEOUT_MS.
    """
    await live.execute("SELECT set_config('statement_timeout', %s, true)", (f"{STATEMENT_TIMEOUT_MS}ms",))
    await live.execute("SET LOCAL synchronous_commit = on")
    await live.execute(f"LOCK TABLE {LIVE}.projection_positions IN SHARE ROW EXCLUSIVE MODE")


async def _align(
    live: AsyncConnection, staging: AsyncConnection, event_log: EventLog, projections: Sequence[Projection]
) -> int:
    """Moves the staging tables to the position of the live tables of this version, unless the staging tables are ahead.
    Returns the position of the staging tables.

    Ignores broken live tables, whose position may be beyond the end of the log.
    """
    found = await inspect(live, projections)
    goal = max((position for name, position in found.positions.items() if name not in found.broken), default=0)
    return await catch_up(staging, event_log, projections, goal)


async def _check_built(staging: AsyncConnection, projections: Sequence[Projection]) -> None:
    cursor = await staging.execute("SELECT name, version FROM projection_positions WHERE built_at IS NOT NULL")
    built = await cursor.fetchall()
    if missing := [item.name for item in projections if (item.name, item.version) not in built]:
        raise NotReady(f"{missing[0]} is not built yet: run `testhide projections rebuild {' '.join(missing)}` first.")


async def _drop_retired(live: AsyncConnection, projections: Sequence[Projection]) -> None:
    """Drops tables that an earlier switch has retired. Call this before the transaction of a switch, since dropping
    large tables takes long.
    """
    async with live.transaction():
        for projection in projections:
            await drop_version(live, RETIRED, projection.name, projection.version)
            await _drop_unlisted(live, RETIRED, projection)


async def _move_tables(live: AsyncConnection, projections: Sequence[Projection]) -> None:
    """Retires the live tables of the projections' versions, and makes the staging tables live. Live tables of other
    versions stay, since another release may read them.
    """
    for projection in projections:
        await _drop_unlisted(live, LIVE, projection)
    old = [table for projection in projections for table in await _fetch_tables(live, LIVE, projection)]
    new = [table for projection in projections for table in await _fetch_tables(live, STAGING, projection)]
    if old:
        names = SQL(", ").join(Identifier(LIVE, table) for table in old)
        await live.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
    moves = [_set_schema(table, LIVE, RETIRED) for table in old] + [_set_schema(table, STAGING, LIVE) for table in new]
    versions = ([item.name for item in projections], [item.version for item in projections])
    async with live.pipeline():
        for move in moves:
            await live.execute(move)
        for statement in MOVE_POSITIONS:
            await live.execute(statement.encode(), versions)
        await live.execute("SELECT pg_notify(%s, '')", (PROJECTED,))


async def _fetch_tables(connection: AsyncConnection, schema: Schema, projection: Projection) -> list[str]:
    """Returns the names of the projection's tables in a schema, without lost tables."""
    cursor = await connection.execute(
        f"SELECT listed FROM {schema}.projection_positions CROSS JOIN unnest(tables) AS listed"
        f" WHERE name = %s AND version = %s AND to_regclass('{schema}.' || quote_ident(listed)) IS NOT NULL".encode(),
        (projection.name, projection.version),
    )
    return [table for (table,) in await cursor.fetchall()]


async def _drop_unlisted(live: AsyncConnection, schema: Schema, projection: Projection) -> None:
    """Drops the projection's tables in `schema` if `projection_positions` does not list them. While they exist, no
    tables with their names can be moved into the schema.
    """
    if (projection.name, projection.version) not in await fetch_schema_positions(live, schema):
        for row in projection.rows:
            await live.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(schema, str(row.table))))


async def drop_version(connection: AsyncConnection, schema: Schema, name: str, version: int) -> bool:
    """Drops the tables of one version in one schema, in the caller's transaction. Returns False if there are none."""
    cursor = await connection.execute(
        f"DELETE FROM {schema}.projection_positions WHERE name = %s AND version = %s RETURNING tables".encode(),
        (name, version),
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    for table in row[0]:
        await connection.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(schema, table)))
    await connection.execute(
        f"DELETE FROM {schema}.parked_events WHERE projection = %s AND version = %s".encode(), (name, version)
    )
    return True


def _set_schema(table: str, source: Schema, target: Schema) -> Composed:
    return SQL("ALTER TABLE {} SET SCHEMA {}").format(Identifier(source, table), Identifier(target))
