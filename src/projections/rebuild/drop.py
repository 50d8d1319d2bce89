"""Drops tables of read models that this release does not need: staging tables, retired tables, and live tables of other
versions.
"""

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from projections.engine.model import Projection
from projections.engine.schemas import (
    LIVE,
    LOCK_TIMEOUT_MS,
    SCHEMAS,
    NotReady,
    Schema,
    fetch_schema_positions,
    lock_name,
)
from projections.rebuild.switch import drop_version


async def drop(connection: AsyncConnection, projections: Sequence[Projection], names: Sequence[str]) -> list[str]:
    """Drops the tables of the projections called `names`, except this release's live tables. `names` may contain
    projections that only other releases have.

    Returns a text for each dropped version: `builds version 1 (public)`. Raises NotReady if a process still writes the
    tables.
    """
    versions = {projection.name: projection.version for projection in projections}
    dropped: list[str] = []
    for schema in SCHEMAS:
        for name, version in sorted(await fetch_schema_positions(connection, schema)):
            if name not in names or (schema == LIVE and versions.get(name) == version):
                continue
            async with connection.transaction():
                await _lock(connection, schema, name, version)
                if await drop_version(connection, schema, name, version):
                    dropped.append(f"{name} version {version} ({schema})")
    return dropped


async def drop_unused(connection: AsyncConnection, schema: Schema, name: str, version: int, position: int) -> bool:
    """Drops the tables of one version in one schema, if they are behind position `position` and no process writes them.
    Returns True if it dropped them. Raises psycopg.errors.LockNotAvailable if a query keeps them in use.
    """
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
        cursor = await connection.execute(
            f"SELECT FROM {schema}.projection_positions WHERE name = %s AND version = %s AND position < %s"
            " AND pg_try_advisory_xact_lock(hashtextextended(%s, 0)) FOR UPDATE".encode(),
            (name, version, position, lock_name(schema, name, version)),
        )
        return bool(cursor.rowcount) and await drop_version(connection, schema, name, version)


async def _lock(connection: AsyncConnection, schema: Schema, name: str, version: int) -> None:
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
    try:
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock_name(schema, name, version),)
        )
    except psycopg.errors.LockNotAvailable:
        doing = "is moved by the projector of another release" if schema == LIVE else "is being built"
        raise NotReady(f"{name} version {version} {doing}; stop that process first.") from None
    await connection.execute("SET LOCAL lock_timeout = 0")
