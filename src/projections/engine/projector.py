"""The projector: applies events to the live read models that it leads.

A projector leads a version of a projection while it holds the version's advisory lock. So the projector of a new
release can lead the new versions while the projector of the old release leads the others. One connection holds the
locks and writes the rows. So a projector that loses its locks can no longer write.

A projector does not lead broken read models (`projections.engine.inspection`), and goes on with the others.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import psycopg
import structlog
from psycopg import AsyncConnection

from domain.core.events import Recorded
from projections.engine.dismissals import with_dismissals
from projections.engine.engine import Engine, LostLeadership, fetch_positions
from projections.engine.inspection import mark_broken
from projections.engine.model import Projection
from projections.engine.schemas import LIVE, connect, lock_name
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.notifications import Listener

log = structlog.get_logger()

GATE = "testhide projector takes over"
"""Name of the advisory lock that a projector holds while it takes the locks of projections. So of two projectors that
start together, one gets all locks.
"""
BATCH_SIZE = 500
"""Number of events that are read at once. While the projector is behind the log, it also writes the rows of this many
events at once.
"""
TAKE_OVER_INTERVAL_S = 0.2
"""Seconds between two attempts to take locks that another projector holds."""
INSPECTION_INTERVAL_S = 1.0
"""Seconds between two inspections of the tables by a projector that leads all projections. An inspection also notices a
lost connection.
"""


class Projector:
    def __init__(
        self, conninfo: str, event_log: EventLog, listener: Listener, projections: Sequence[Projection]
    ) -> None:
        self._conninfo = conninfo
        self._log = event_log
        self._listener = listener
        self._projections = projections

    async def run(self) -> None:
        """Leads all projections that no other process leads, and applies events to them. Runs for ever."""
        while True:
            try:
                async with await connect(self._conninfo) as connection:
                    # All queries find their rows by a key or by ctid. Otherwise PostgreSQL might scan a table that was
                    # small when it made the plan, and read all old versions of its rows.
                    await connection.execute("SET enable_seqscan = off")
                    cursor = LogCursor(self._log.on(connection), self._listener, batch_size=BATCH_SIZE)
                    with cursor.listening():
                        await self._lead(connection, cursor)
            except LostLeadership as error:
                # A switch or a retry has changed the rows, so the cached rows are stale; or a read model is broken.
                log.info("leading anew", reason=str(error))
            except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
                # A write to a lost table, for example, fails before the next inspection.
                log.warning("leadership lost", error=str(error).strip())
                await asyncio.sleep(0.2)

    async def _lead(self, connection: AsyncConnection, cursor: LogCursor) -> None:
        clock = asyncio.get_running_loop().time
        projections = await with_dismissals(cursor.event_log, self._projections)
        led: list[Projection] = []
        engine: Engine | None = None
        while True:
            others = [item for item in projections if item not in led]
            locked = await self._lock(connection, others) if others else []
            if locked:
                log.info("leading", projections=[projection.name for projection in locked])
                led = [item for item in projections if item in led or item in locked]
            if led and (broken := await mark_broken(connection, led)):
                log.error("read models are broken", broken=broken)
                raise LostLeadership(f"broken: {', '.join(broken)}")
            if locked:
                cursor.position = await catch_up(connection, cursor.event_log, led)
                engine = Engine(connection, led, announce=True)
            leads_all = len(led) == len(projections)
            next_inspection = clock() + (INSPECTION_INTERVAL_S if leads_all else TAKE_OVER_INTERVAL_S)
            while (left := next_inspection - clock()) > 0:
                if engine is not None:
                    await cursor.drain(partial(_apply, engine, cursor))
                await cursor.wait(left)

    async def _lock(self, connection: AsyncConnection, projections: Sequence[Projection]) -> list[Projection]:
        """Takes the locks of the projections that have live tables, are not marked as broken and have no leader.
        Returns these projections.
        """
        by_lock = {lock_name(LIVE, item.name, item.version): item for item in projections}
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (GATE,))
            cursor = await connection.execute(
                # MATERIALIZED, so that no lock is taken for a projection without live tables.
                "WITH live AS MATERIALIZED ("
                "  SELECT lock FROM unnest(%s::text[], %s::text[], %s::int[]) AS wanted (lock, name, version)"
                "  JOIN projection_positions USING (name, version) WHERE broken IS NULL)"
                " SELECT lock FROM live WHERE pg_try_advisory_lock(hashtextextended(lock, 0))",
                (list(by_lock), [item.name for item in projections], [item.version for item in projections]),
            )
            return [by_lock[lock] for (lock,) in await cursor.fetchall()]


async def _apply(engine: Engine, cursor: LogCursor, events: Sequence[Recorded]) -> None:
    await engine.apply(events, cursor.position)


async def catch_up(
    connection: AsyncConnection, event_log: EventLog, projections: Sequence[Projection], goal: int = 0
) -> int:
    """Moves all projections to one position, and returns this position. It is `goal`, or the position of the foremost
    projection if this is higher.
    """
    positions = await fetch_positions(connection, projections)
    goal = max(goal, *positions.values())
    for position in sorted(set(positions.values())):
        group = [projection for projection in projections if positions[projection.name] == position]
        engine = Engine(connection, group, announce=False)
        while position < goal:
            batch = await event_log.read_batch(position, BATCH_SIZE, up_to=goal)
            await engine.apply(batch.events, position)
            position = batch.position
    return goal
