"""Makes what was built beside serve, in one short transaction.

First it takes the lock of the positions, which every write of a projector takes before anything else: from then on
the serving tables stand still and the tables beside are brought to exactly their position. Then tables and positions
change places. Appends go on; what waits are answers to writes, for as long as this takes, well below a second.

Readers are never made to fail: a lock that is not had at once is given up before anybody looks for a deadlock, all is
undone, and the next try comes a moment later. So a crash at any point leaves the old tables serving.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.sql import SQL, Composed, Identifier

from projections.engine.engine import Engine
from projections.engine.model import Projection
from projections.engine.projector import BATCH_SIZE, catch_up
from projections.engine.schemas import Unready, alone_beside, at, connect
from projections.rebuild.rebuild import Told, follow, tell_nobody
from store.log.event_log import EventLog
from store.postgres.notifications import PROJECTED

T = TypeVar("T")

HOLD_MS = 300
"""How long one statement of the switch may wait; below PostgreSQL's `deadlock_timeout` of a second."""
TRIES = 60
PAUSE_S = 0.5
_CHOSEN = "(SELECT * FROM unnest(%s::text[], %s::int[]))"
EXCHANGE = (
    # What a projector remembers of the rows is wrong from now on: the generation tells it.
    "UPDATE beside.projection_positions b SET generation = p.generation + 1 FROM public.projection_positions p"
    f" WHERE p.name = b.name AND p.version = b.version AND (b.name, b.version) IN {_CHOSEN}",
    *(
        f"WITH moved AS (DELETE FROM {source}.{table} WHERE ({name}, version) IN {_CHOSEN} RETURNING *)"
        f" INSERT INTO {target}.{table} SELECT * FROM moved"
        for source, target in (("public", "previous"), ("beside", "public"))
        for table, name in (("projection_positions", "name"), ("parked_events", "projection"))
    ),
)
"""Of positions and parked events, for the chosen names and versions."""


@dataclass(frozen=True)
class Switched:
    position: int
    """At which these serve now."""
    held_s: float
    """How long the projectors stood still, and answers to writes with them."""


async def switch(
    conninfo: str, event_log: EventLog, projections: Sequence[Projection], told: Told = tell_nobody
) -> Switched:
    """Raises places.Unready, LostLeadership and psycopg.OperationalError; then nothing has changed."""
    clock = asyncio.get_running_loop().time
    async with alone_beside(conninfo, projections) as beside, await connect(conninfo) as serving:
        await _all_built(beside, projections)
        await _make_room(serving, projections)

        async def exchanged() -> Switched:
            await follow(beside, event_log, projections, told)
            async with serving.transaction():
                await stand_still(serving)
                began = clock()
                position = await _align(serving, beside, event_log, projections)
                await _exchange(serving, projections)
            return Switched(position, clock() - began)

        return await patiently(exchanged)


async def patiently(once: Callable[[], Awaitable[T]]) -> T:
    """Does what stands still for a moment, again when a lock was not to be had. Raises places.Unready."""
    for _ in range(TRIES):
        try:
            return await once()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(PAUSE_S)
    raise Unready(
        "Nothing was changed: long queries or transactions keep the tables in use. Try again when those have ended."
    )


async def stand_still(serving: AsyncConnection) -> None:
    """Until the end of the transaction no projector moves anything."""
    await serving.execute("SELECT set_config('statement_timeout', %s, true)", (f"{HOLD_MS}ms",))
    await serving.execute("SET LOCAL synchronous_commit = on")
    await serving.execute("LOCK TABLE public.projection_positions IN SHARE ROW EXCLUSIVE MODE")


async def _align(
    serving: AsyncConnection, beside: AsyncConnection, event_log: EventLog, projections: Sequence[Projection]
) -> int:
    """Brings what stands beside to where the same versions serve, if it is not further; the position."""
    positions = await at(serving, "public")
    goal = max((positions.get((item.name, item.version), 0) for item in projections), default=0)
    position = await catch_up(beside, event_log, projections)
    engine = Engine(beside, projections, announce=False)
    while position < goal:
        batch = await event_log.read_batch(position, BATCH_SIZE, up_to=goal)
        await engine.apply(batch.events, position)
        position = batch.position
    return position


async def _all_built(beside: AsyncConnection, projections: Sequence[Projection]) -> None:
    cursor = await beside.execute("SELECT name, version FROM projection_positions WHERE built_at IS NOT NULL")
    built = await cursor.fetchall()
    if lacking := [item.name for item in projections if (item.name, item.version) not in built]:
        raise Unready(f"{lacking[0]} is not built yet: run `testhide projections rebuild {' '.join(lacking)}` first.")


async def _make_room(serving: AsyncConnection, projections: Sequence[Projection]) -> None:
    """What an earlier switch replaced goes before this one begins: the more is dropped, the longer it takes."""
    async with serving.transaction():
        for projection in projections:
            await drop_from(serving, "previous", projection.name, projection.version)


async def _exchange(serving: AsyncConnection, projections: Sequence[Projection]) -> None:
    """Only a projection of the same version has tables that make room; another version's go on serving its release."""
    old = [table for projection in projections for table in await _tables(serving, "public", projection)]
    new = [table for projection in projections for table in await _tables(serving, "beside", projection)]
    if old:
        names = SQL(", ").join(Identifier("public", table) for table in old)
        await serving.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
    moves = [_move(table, "public", "previous") for table in old] + [_move(table, "beside", "public") for table in new]
    versions = ([item.name for item in projections], [item.version for item in projections])
    async with serving.pipeline():
        for move in moves:
            await serving.execute(move)
        for statement in EXCHANGE:
            await serving.execute(statement.encode(), versions)
        await serving.execute("SELECT pg_notify(%s, '')", (PROJECTED,))


async def _tables(connection: AsyncConnection, place: str, projection: Projection) -> list[str]:
    cursor = await connection.execute(
        f"SELECT tables FROM {place}.projection_positions WHERE name = %s AND version = %s".encode(),
        (projection.name, projection.version),
    )
    row = await cursor.fetchone()
    return list(row[0]) if row is not None else []


async def drop_from(connection: AsyncConnection, place: str, name: str, version: int) -> bool:
    """Drops the tables of one version in one place; False when there are none. Within the caller's transaction."""
    cursor = await connection.execute(
        f"DELETE FROM {place}.projection_positions WHERE name = %s AND version = %s RETURNING tables".encode(),
        (name, version),
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    for table in row[0]:
        await connection.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(place, table)))
    await connection.execute(
        f"DELETE FROM {place}.parked_events WHERE projection = %s AND version = %s".encode(), (name, version)
    )
    return True


def _move(table: str, source: str, target: str) -> Composed:
    return SQL("ALTER TABLE {} SET SCHEMA {}").format(Identifier(source, table), Identifier(target))
