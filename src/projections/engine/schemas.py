"""Where a projection's tables stand, each place a PostgreSQL schema.

`public` serves. `beside` holds what is being built, under the same table names; `previous` what a switch replaced.
Each has positions and parked events of its own, and the engine's SQL names no schema, so a connection whose search
path is `beside` builds there by the code that keeps the serving tables up.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import psycopg
from psycopg import AsyncConnection

from projections.engine.engine import ensure_tables
from projections.engine.model import Projection

Place = Literal["public", "beside", "previous"]
PLACES: tuple[Place, ...] = ("public", "beside", "previous")


LOCK_MS = 1_000
"""How long a lock is waited for: a process that has just ended may seem to hold it for a moment."""


class Unready(Exception):
    """The operator asked for what is not possible now; the sentence says what to do."""


async def connect(conninfo: str, place: Place = "public") -> AsyncConnection:
    connection = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5)
    try:
        # Rows and position are lost together in a crash and made again from the log: no need to wait for the disk.
        await connection.execute("SET synchronous_commit = off")
        if place != "public":
            await connection.execute("SELECT set_config('search_path', %s, false)", (place,))
    except BaseException:  # cancelled, too
        await connection.close()
        raise
    return connection


def lock_name(place: Place, name: str, version: int) -> str:
    """Of the advisory lock whose holder moves these tables: a projector, or a build."""
    return f"testhide {place} {name} {version}"


@contextlib.asynccontextmanager
async def alone_beside(conninfo: str, projections: Sequence[Projection]) -> AsyncIterator[AsyncConnection]:
    """A connection to the tables beside that nobody else moves meanwhile. Raises Unready."""
    async with await connect(conninfo, "beside") as connection:
        await connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_MS}ms",))
        for projection in projections:
            name = lock_name("beside", projection.name, projection.version)
            try:
                await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
            except psycopg.errors.LockNotAvailable:
                raise Unready(
                    f"{projection.name} is being built or compared by another process; wait for it or stop it."
                ) from None
        await connection.execute("RESET lock_timeout")
        yield connection


async def held(connection: AsyncConnection, lock_names: Sequence[str]) -> set[str]:
    """Those of the locks that somebody holds."""
    cursor = await connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE hashtextextended(name, 0) IN ("
        "  SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted"
        "  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        (list(lock_names),),
    )
    return {name for (name,) in await cursor.fetchall()}


async def at(connection: AsyncConnection, place: Place) -> dict[tuple[str, int], int]:
    """The positions of all tables that stand there, by name and version."""
    cursor = await connection.execute(f"SELECT name, version, position FROM {place}.projection_positions".encode())
    return {(name, version): position for name, version, position in await cursor.fetchall()}


async def missing(connection: AsyncConnection, projections: Sequence[Projection]) -> list[Projection]:
    """Those that do not serve in the version that this code knows."""
    serving = await at(connection, "public")
    return [projection for projection in projections if (projection.name, projection.version) not in serving]


async def begin(connection: AsyncConnection, projections: Sequence[Projection]) -> list[Projection]:
    """On an empty log makes the serving tables that are missing; answers those that have to be built."""
    lacking = await missing(connection, projections)
    cursor = await connection.execute("SELECT EXISTS (SELECT FROM stored_events)")
    if lacking and (await cursor.fetchone()) == (False,):
        await ensure_tables(connection, lacking)
        return []
    return lacking
