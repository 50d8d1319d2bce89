"""Parked events: events that a projection could not apply, and the later events of the same streams.

A projection that has parked an event also parks all later events of its stream, so that they are applied in order.
Other streams go on. `engine` and `bulk_loader` decide which events are parked; this module stores them.
`projections.rebuild.retry` applies parked events again, except dismissed ones.
"""

from collections.abc import Collection, Sequence

import msgspec
from psycopg import AsyncConnection

from domain.core.events import Recorded
from projections.engine.model import Projection
from projections.engine.queries import fetch_all, fetch_column, fetch_one, fetch_value
from projections.engine.statements import Statement

WAITS = "an earlier event of its stream is parked"

Parked = tuple[Projection, Recorded, str]
"""A projection, an event that it parks, and the error. The error is WAITS if an earlier event of the stream is
parked.
"""


class ParkedEvent(msgspec.Struct):
    position: int
    stream: str
    error: str


def park(parked: Collection[Parked]) -> Statement:
    return (
        "INSERT INTO parked_events (projection, version, position, stream, error)"
        " SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[])"
        " ON CONFLICT (projection, version, position) DO UPDATE SET error = EXCLUDED.error",
        [
            [projection.name for projection, _, _ in parked],
            [projection.version for projection, _, _ in parked],
            [event.position for _, event, _ in parked],
            [event.stream for _, event, _ in parked],
            [_storable(error) for _, _, error in parked],
        ],
    )


async def blocked_streams(connection: AsyncConnection, projections: Sequence[Projection]) -> set[tuple[str, str]]:
    """Returns (projection name, stream) for each stream with events that a projection has parked."""
    cursor = await connection.execute("SELECT DISTINCT projection, version, stream FROM parked_events")
    versions = {projection.name: projection.version for projection in projections}
    return {(name, stream) for name, version, stream in await cursor.fetchall() if versions.get(name) == version}


async def parked_events(
    connection: AsyncConnection, projection: Projection, limit: int, stream: str | None = None
) -> list[ParkedEvent]:
    """Returns the first `limit` events that the projection has parked, ordered by position. With `stream`, returns only
    events of this stream.
    """
    return await fetch_all(
        connection,
        ParkedEvent,
        "SELECT position, stream, error FROM parked_events WHERE projection = %(name)s AND version = %(version)s"
        " AND (%(stream)s::text IS NULL OR stream = %(stream)s) ORDER BY position LIMIT %(limit)s",
        {"name": projection.name, "version": projection.version, "stream": stream, "limit": limit},
    )


async def find_parked(connection: AsyncConnection, projection: Projection, position: int) -> ParkedEvent | None:
    return await fetch_one(
        connection,
        ParkedEvent,
        "SELECT position, stream, error FROM parked_events"
        " WHERE projection = %(name)s AND version = %(version)s AND position = %(position)s",
        {"name": projection.name, "version": projection.version, "position": position},
    )


async def count_parked(connection: AsyncConnection, projection: Projection, stream: str | None = None) -> int:
    found = await fetch_value(
        connection,
        "SELECT count(*) FROM parked_events WHERE projection = %(name)s AND version = %(version)s"
        " AND (%(stream)s::text IS NULL OR stream = %(stream)s)",
        {"name": projection.name, "version": projection.version, "stream": stream},
    )
    return int(found)


async def waiting_streams(connection: AsyncConnection, projection: Projection) -> list[str]:
    """Returns the streams with events that the projection has parked. The stream with the earliest parked event comes
    first.
    """
    return await fetch_column(
        connection,
        "SELECT stream FROM parked_events WHERE projection = %(name)s AND version = %(version)s"
        " GROUP BY stream ORDER BY min(position)",
        {"name": projection.name, "version": projection.version},
    )


async def is_parked(connection: AsyncConnection, versions: dict[str, int], first: int, last: int) -> bool:
    """Returns whether one of the projections in `versions` has parked an event at a position from `first` to `last`.
    `versions` maps the name of a projection to its version.
    """
    cursor = await connection.execute(
        "SELECT projection, version FROM parked_events WHERE position BETWEEN %s AND %s", (first, last)
    )
    return any(versions.get(name) == version for name, version in await cursor.fetchall())


def _storable(error: str) -> str:
    return error.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:2_000]
