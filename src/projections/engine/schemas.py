"""PostgreSQL schemas for the tables of read models: live, staging and retired.

The server reads the live tables (schema `public`). Staging tables (`beside`) have the same names and are being built.
Retired tables (`previous`) were replaced by a switch. Each schema has its own tables `projection_positions` and
`parked_events`. The engine's SQL names no schema: the search path of its connection decides which tables it writes.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import psycopg
from psycopg import AsyncConnection

from projections.engine.model import Projection

Schema = Literal["public", "beside", "previous"]
LIVE: Schema = "public"
STAGING: Schema = "beside"
RETIRED: Schema = "previous"
SCHEMAS: tuple[Schema, ...] = (LIVE, STAGING, RETIRED)

LOCK_TIMEOUT_MS = 1_000
"""Milliseconds to wait for the lock of a projection. A process that has just ended may still hold it for a moment."""


class NotReady(Exception):
    """Raised when an operator asks for something that is not possible now. The message says what to do first."""


async def connect(conninfo: str, schema: Schema = LIVE) -> AsyncConnection:
    connection = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5)
    try:
        # A crash loses rows and position together, and both are made anew from the log: no need to wait for the disk.
        await connection.execute("SET synchronous_commit = off")
        if schema != LIVE:
            await connection.execute("SELECT set_config('search_path', %s, false)", (schema,))
    except BaseException:  # cancellation too
        await connection.close()
        raise
    return connection


def lock_name(schema: Schema, name: str, version: int) -> str:
    """Returns the name of the advisory lock for the tables of one version in one schema. A projector or a rebuild holds
    the lock while it writes these tables.
    """
    return f"testhide {schema} {name} {version}"


@contextlib.asynccontextmanager
async def lock_staging(conninfo: str, projections: Sequence[Projection]) -> AsyncIterator[AsyncConnection]:
    """Takes the locks of these projections' staging tables. Yields the connection that holds the locks; its search path
    leads to the staging tables. Raises NotReady if another process holds one of the locks.
    """
    async with await connect(conninfo, STAGING) as connection:
        await connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_TIMEOUT_MS}ms",))
        for projection in projections:
            name = lock_name(STAGING, projection.name, projection.version)
            try:
                await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
            except psycopg.errors.LockNotAvailable:
                raise NotReady(
                    f"{projection.name} is being built or compared by another process; wait for it or stop it."
                ) from None
        await connection.execute("RESET lock_timeout")
        yield connection


async def find_held_locks(connection: AsyncConnection, lock_names: Sequence[str]) -> set[str]:
    """Returns the names among `lock_names` whose advisory lock some process holds."""
    cursor = await connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE hashtextextended(name, 0) IN ("
        "  SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted"
        "  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        (list(lock_names),),
    )
    return {name for (name,) in await cursor.fetchall()}


async def fetch_schema_positions(connection: AsyncConnection, schema: Schema) -> dict[tuple[str, int], int]:
    """Returns (projection name, version) -> position for all projections with tables in this schema."""
    cursor = await connection.execute(f"SELECT name, version, position FROM {schema}.projection_positions".encode())
    return {(name, version): position for name, version, position in await cursor.fetchall()}
