"""Applies parked events again, in the order of their streams.

They come late: rows may have moved on by events of other streams. Where that matters, a rebuild is exact; a retry is
for what failed by itself, and costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import AsyncConnection

from domain.core.events import Recorded
from projections.engine.batch import Batch, Cache
from projections.engine.engine import REFUSALS, compute_changes, error_message, join_parts, prefetch
from projections.engine.model import Projection
from projections.engine.parking import count_parked, parked_events, waiting_streams
from projections.engine.schemas import connect
from projections.rebuild.switch import patiently, stand_still
from store.log.event_log import EventLog
from store.postgres.notifications import PROJECTED

AT_ONCE = 200
"""Events in one transaction, in which no projector moves."""


@dataclass(frozen=True)
class Retried:
    applied: int
    left: int
    errors: Sequence[str]
    """Why a stream still waits: `build-7 at position 12: ...`."""


async def retry(conninfo: str, event_log: EventLog, projection: Projection, stream: str | None = None) -> Retried:
    """Of the serving tables. Raises psycopg.OperationalError; what was applied until then is."""
    applied = 0
    errors: list[str] = []
    async with await connect(conninfo) as connection:
        for name in [stream] if stream is not None else await waiting_streams(connection, projection):
            while True:
                done, error = await patiently(partial(_some, connection, event_log, projection, name))
                applied += done
                if error:
                    errors.append(error)
                if error or done < AT_ONCE:
                    break
        left = await count_parked(connection, projection, stream)
    return Retried(applied, left, errors)


async def _some(
    connection: AsyncConnection, event_log: EventLog, projection: Projection, stream: str
) -> tuple[int, str | None]:
    """How many of the stream's next events were applied, and what stopped it."""
    version = {"name": projection.name, "version": projection.version}
    done, error = 0, None
    async with connection.transaction():
        await stand_still(connection)
        # What a projector remembers of the rows is wrong from now on.
        await connection.execute(
            "UPDATE projection_positions SET generation = generation + 1"
            " WHERE name = %(name)s AND version = %(version)s",
            version,
        )
        for parked in await parked_events(connection, projection, AT_ONCE, stream):
            (event,) = await event_log.read(parked.position - 1, 1)
            error = await _apply(connection, projection, event)
            at = version | {"position": parked.position, "error": error}
            if error is not None:
                await connection.execute(
                    "UPDATE parked_events SET error = %(error)s"
                    " WHERE projection = %(name)s AND version = %(version)s AND position = %(position)s",
                    at,
                )
                error = f"{stream} at position {parked.position}: {error}"
                break
            await connection.execute(
                "DELETE FROM parked_events"
                " WHERE projection = %(name)s AND version = %(version)s AND position = %(position)s",
                at,
            )
            done += 1
        await connection.execute("SELECT pg_notify(%s, '')", (PROJECTED,))
    return done, error


async def _apply(connection: AsyncConnection, projection: Projection, event: Recorded) -> str | None:
    """Writes what follows from one event; why not, when it cannot."""
    batch = Batch(Cache())
    try:
        async with connection.transaction():
            await prefetch(connection, batch, [event], [projection])
            batch.change(compute_changes(projection, event, batch))
            if not batch.is_empty:
                query, parameters = join_parts(batch.statements())
                await connection.execute(f"{query} SELECT".encode(), parameters)
    except psycopg.Error as error:
        if not isinstance(error, REFUSALS):
            raise
        return error_message(error)
    except Exception as error:
        return error_message(error)
    return None
