"""Drops read tables that nothing needs any more: built beside, replaced by a switch, or of another release."""

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from projections.engine.model import Projection
from projections.engine.schemas import LOCK_MS, PLACES, Place, Unready, at, lock_name
from projections.rebuild.switch import drop_from


async def drop(connection: AsyncConnection, projections: Sequence[Projection], names: Sequence[str]) -> list[str]:
    """What of these names does not serve this code, dropped: `builds version 1 (public)`. Raises Unready.

    A name may be one that the code knows no more.
    """
    versions = {projection.name: projection.version for projection in projections}
    dropped: list[str] = []
    for place in PLACES:
        for name, version in sorted(await at(connection, place)):
            if name not in names or (place == "public" and versions.get(name) == version):
                continue
            async with connection.transaction():
                await _is_free(connection, place, name, version)
                if await drop_from(connection, place, name, version):
                    dropped.append(f"{name} version {version} ({place})")
    return dropped


async def _is_free(connection: AsyncConnection, place: Place, name: str, version: int) -> None:
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_MS}ms",))
    try:
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock_name(place, name, version),)
        )
    except psycopg.errors.LockNotAvailable:
        doing = "is kept up by the projector of another release" if place == "public" else "is being built"
        raise Unready(f"{name} version {version} {doing}; stop that process first.") from None
    await connection.execute("SET LOCAL lock_timeout = 0")
