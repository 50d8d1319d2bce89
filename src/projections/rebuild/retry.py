"""Applies parked events again, each stream in order. Leaves dismissed events out.

A parked event is applied late: later events of other streams may have changed the rows that it changes. Where this
matters, rebuild the read model instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import AsyncConnection

from domain.core.events import Recorded
from projections.engine.batch import RowBatch, RowCache
from projections.engine.dismissals import with_dismissals
from projections.engine.engine import REFUSALS, compute_changes, error_message, find_keys, join_parts, prefetch
from projections.engine.model import Projection
from projections.engine.parking import count_parked, parked_events, waiting_streams
from projections.engine.schemas import connect
from projections.rebuild.switch import block_projectors, retry_on_lock_timeout
from store.log.event_log import EventLog
from store.postgres.notifications import PROJECTED

BATCH_SIZE = 200
"""Number of events that are applied in one transaction, which blocks projectors."""


@dataclass(frozen=True)
class Retried:
    applied: int
    left: int
    errors: Sequence[str]
    """For each stream that is still parked, its error: `build-7 at position 12: ...`."""


async def retry(conninfo: str, event_log: EventLog, projection: Projection, stream: str | None = None) -> Retried:
    """Applies the parked events of a live read model again. `stream` chooses the events of one stream; None chooses
    all.

    Raises NotReady or psycopg.OperationalError. Events that were applied before an error stay applied.
    """
    (projection,) = await with_dismissals(event_log, [projection])
    applied = 0
    errors: list[str] = []
    async with await connect(conninfo) as connection:
        for name in [stream] if stream is not None else await waiting_streams(connection, projection):
            while True:
                retry_batch = partial(_retry_batch, connection, event_log, projection, name)
                done, error = await retry_on_lock_timeout(retry_batch)
                applied += done
                if error:
                    errors.append(error)
                if error or done < BATCH_SIZE:
                    break
        left = await count_parked(connection, projection, stream)
    return Retried(applied, left, errors)


async def _retry_batch(
    connection: AsyncConnection, event_log: EventLog, projection: Projection, stream: str
) -> tuple[int, str | None]:
    """Applies the next parked events of a stream. Returns how many were applied, and the error of the event that could
    not be applied; None if all could.
    """
    version = {"name": projection.name, "version": projection.version}
    done, error = 0, None
    async with connection.transaction():
        await block_projectors(connection)
        # A new generation makes the projector drop its cached rows, which are stale now.
        await connection.execute(
            "UPDATE projection_positions SET generation = generation + 1"
            " WHERE name = %(name)s AND version = %(version)s",
            version,
        )
        for parked in await parked_events(connection, projection, BATCH_SIZE, stream):
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
    """Applies one event and writes its changes. Returns None, or the error if this fails."""
    batch = RowBatch(RowCache())
    try:
        async with connection.transaction():
            await prefetch(connection, batch, find_keys([projection], event))
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
