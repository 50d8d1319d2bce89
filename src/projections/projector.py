"""The projector: one leader moves all projections along the log; standbys wait for its lock.

Its connection holds the lock and writes the rows, so a leader that lost its connection can neither write nor lead.
"""

import asyncio
from collections.abc import Sequence

import psycopg
import structlog
from psycopg import AsyncConnection

from projections.engine import Engine, LostLeadership, drop_tables, ensure_tables, positions
from projections.model import Projection
from store.listen import EVENTS, Listener
from store.log import EventLog

log = structlog.get_logger()

LOCK = "testhide projector"
BATCH = 500
"""Events read at once; also the size of a write while catching up."""


class AlreadyRunning(Exception):
    """Another process leads the projections."""


class Projector:
    def __init__(
        self, conninfo: str, event_log: EventLog, listener: Listener, projections: Sequence[Projection]
    ) -> None:
        self._conninfo = conninfo
        self._log = event_log
        self._listener = listener
        self._projections = projections
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        with self._listener.subscribed(EVENTS, lambda payload: self._news.set()):
            while True:
                try:
                    async with await _connect(self._conninfo) as connection:
                        await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (LOCK,))
                        log.info("leading the projections")
                        await self._lead(connection)
                except (psycopg.OperationalError, LostLeadership) as error:
                    log.warning("leadership lost", error=str(error).strip())
                    await asyncio.sleep(0.2)

    async def _lead(self, connection: AsyncConnection) -> None:
        await ensure_tables(connection, self._projections)
        position = await catch_up(connection, self._log, self._projections)
        engine = Engine(connection, self._projections, announce=True)
        while True:
            self._news.clear()
            while events := await self._log.read(position, BATCH):
                position = await engine.apply(events, position)
                if len(events) < BATCH:
                    break  # what came meanwhile is in the news
            try:
                await asyncio.wait_for(self._news.wait(), 1.0)
            except TimeoutError:
                # Also notices a server that is gone while nothing happens.
                await connection.execute("SELECT 1")


async def catch_up(connection: AsyncConnection, event_log: EventLog, projections: Sequence[Projection]) -> int:
    """Brings all projections to one position, those that lag (new ones, say) by themselves; returns it."""
    at = await positions(connection, projections)
    goal = max(at.values(), default=0)
    for projection in projections:
        position = at[projection.name]
        engine = Engine(connection, [projection], announce=False)
        while position < goal:
            events = [event for event in await event_log.read(position, BATCH) if event.position <= goal]
            position = await engine.apply(events, position) if events else goal
    return goal


async def rebuild(conninfo: str, event_log: EventLog, projections: Sequence[Projection]) -> int:
    """Drops the tables and makes them again from the whole log. Raises AlreadyRunning while a projector leads."""
    async with await _connect(conninfo) as connection:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (LOCK,))
        if (await cursor.fetchone()) != (True,):
            raise AlreadyRunning("a projector is running; stop it first: a rebuild replaces the tables it writes")
        await drop_tables(connection, projections)
        await ensure_tables(connection, projections)
        engine = Engine(connection, projections, announce=False)
        position = 0
        while events := await event_log.read(position, BATCH):
            position = await engine.apply(events, position)
        return position


async def _connect(conninfo: str) -> AsyncConnection:
    connection = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5)
    # Rows and position are lost together in a crash and made again from the log: no need to wait for the disk.
    await connection.execute("SET synchronous_commit = off")
    return connection
