"""The projector: moves the serving read models along the log; a standby takes over what is free.

Each projection is led, in its version, by whoever holds its advisory lock. So the projector of a new release leads the
versions that are new in it while that of the release before keeps up those that it knows. The connection holds the
locks and writes the rows: a leader that lost it can neither write nor lead.
"""

import asyncio
import math
from collections.abc import Sequence

import psycopg
import structlog
from psycopg import AsyncConnection

from projections.engine.engine import Engine, LostLeadership, positions
from projections.engine.model import Projection
from projections.engine.schemas import connect, lock_name
from store.log.event_log import EventLog
from store.postgres.notifications import EVENTS, Listener, wait_for

log = structlog.get_logger()

GATE = "testhide projector takes over"
"""Held while locks are taken, so that of two projectors that start at once one gets all."""
BATCH = 500
"""Events read at once; also the size of a write while catching up."""
TAKE_OVER_S = 0.2
"""How often a projector looks whether a projection that it does not lead has become free, or serves now."""
LOOK_S = 1.0


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
        """Leads whatever it can, for ever."""
        with self._listener.subscribed(EVENTS, lambda payload: self._news.set()):
            while True:
                try:
                    async with await connect(self._conninfo) as connection:
                        await self._lead(connection)
                except LostLeadership as error:
                    # A switch or a retry changed the rows; what this process remembers of them is old.
                    log.info("starting over", reason=str(error))
                except psycopg.OperationalError as error:
                    log.warning("leadership lost", error=str(error).strip())
                    await asyncio.sleep(0.2)

    async def _lead(self, connection: AsyncConnection) -> None:
        clock = asyncio.get_running_loop().time
        led: list[Projection] = []
        engine: Engine | None = None
        position = 0
        while True:
            if taken := await self._take(connection, [item for item in self._projections if item not in led]):
                log.info("leading", projections=[projection.name for projection in taken])
                led = [item for item in self._projections if item in led or item in taken]
                position = await catch_up(connection, self._log, led)
                engine = Engine(connection, led, announce=True)
            look_again = clock() + (TAKE_OVER_S if len(led) < len(self._projections) else math.inf)
            while (left := look_again - clock()) > 0:
                self._news.clear()
                if engine is not None:
                    position = await self._follow(engine, position)
                await self._wait(connection, min(left, LOOK_S))

    async def _take(self, connection: AsyncConnection, projections: Sequence[Projection]) -> list[Projection]:
        """Those that serve and that nobody led."""
        by_lock = {lock_name("public", item.name, item.version): item for item in projections}
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (GATE,))
            cursor = await connection.execute(
                # Materialized, so that no lock is taken of what does not serve.
                "WITH serving AS MATERIALIZED ("
                "  SELECT lock FROM unnest(%s::text[], %s::text[], %s::int[]) AS wanted (lock, name, version)"
                "  JOIN projection_positions USING (name, version))"
                " SELECT lock FROM serving WHERE pg_try_advisory_lock(hashtextextended(lock, 0))",
                (list(by_lock), [item.name for item in projections], [item.version for item in projections]),
            )
            return [by_lock[lock] for (lock,) in await cursor.fetchall()]

    async def _follow(self, engine: Engine, position: int) -> int:
        while events := await self._log.read(position, BATCH):
            position = await engine.apply(events, position)
            if len(events) < BATCH:
                break  # what came meanwhile is in the news
        return position

    async def _wait(self, connection: AsyncConnection, timeout_s: float) -> None:
        if not await wait_for(self._news, timeout_s):
            # Also notices a server that is gone while nothing happens.
            await connection.execute("SELECT 1")


async def catch_up(
    connection: AsyncConnection, event_log: EventLog, projections: Sequence[Projection], goal: int = 0
) -> int:
    """Brings all projections to one position, at least `goal`, those that lag by themselves; returns it."""
    reached = await positions(connection, projections)
    goal = max(goal, *reached.values())
    for projection in projections:
        position = reached[projection.name]
        engine = Engine(connection, [projection], announce=False)
        while position < goal:
            events = [event for event in await event_log.read(position, BATCH) if event.position <= goal]
            position = await engine.apply(events, position) if events else goal
    return goal
