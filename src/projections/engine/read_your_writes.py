"""Read your writes: wait until the read models have reached a position.

One LISTEN a process and a heap of waiters. Notifications can be lost with their connection, so the position is read
again after every LISTEN and once a second; also when a notification is of other read models than this process reads
(another release runs beside it, or not all of them moved), or when an event was parked. Once somebody has waited in
vain, nobody waits for that position or a later one until it is reached: the answer says so at once.
"""

import asyncio
import heapq
from collections.abc import Sequence
from itertools import count

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from projections.engine.model import Projection, digest
from projections.engine.parking import is_parked
from store.postgres.notifications import PROJECTED, Listener, wait_for

log = structlog.get_logger()

LIMIT_S = 2.0
LOOK_AGAIN_S = 1.0
TRY_AGAIN_S = 0.1


class Waiter:
    def __init__(self, pool: AsyncConnectionPool, listener: Listener, projections: Sequence[Projection]) -> None:
        self._pool = pool
        self._listener = listener
        self._versions = {projection.name: projection.version for projection in projections}
        self._digest = digest(projections)
        self._position = 0
        self._looking = True
        """Until the positions have been read again, a notification alone does not say enough."""
        self._degraded = False
        self._late: int | None = None
        """The lowest position that somebody waited for in vain and that is still not reached."""
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._stale = asyncio.Event()

    async def run(self) -> None:
        with self._listener.subscribed(PROJECTED, self._notified):
            while True:
                self._stale.clear()
                pause = LOOK_AGAIN_S
                try:
                    self._reached(await self._look())
                    self._looking = self._stale.is_set()
                except psycopg.OperationalError as error:
                    log.warning("the read models' position cannot be read", error=str(error).strip())
                    pause = TRY_AGAIN_S
                await wait_for(self._stale, pause)

    async def wait(self, position: int, first: int | None = None) -> bool:
        """True once the read models show the events from `first` (that one alone where none is given) to `position`;
        False after LIMIT_S, at once when they already lag by more, and when one of the events was parked.
        """
        if not await self.reached(position):
            return False
        if not self._degraded:
            return True
        async with self._pool.connection() as connection:
            return not await is_parked(connection, self._versions, position if first is None else first, position)

    async def reached(self, position: int) -> bool:
        """As `wait`, but parked events count."""
        if position <= self._position:
            return True
        if self._late is not None and self._late <= position:
            return False
        reached = asyncio.get_running_loop().create_future()
        place = (position, next(self._order), reached)
        heapq.heappush(self._heap, place)
        try:
            async with asyncio.timeout(LIMIT_S):
                await reached
        except TimeoutError:
            self._late = position if self._late is None else min(self._late, position)
            return False
        finally:
            if place in self._heap:
                self._heap.remove(place)
                heapq.heapify(self._heap)
        return True

    @property
    def waiting(self) -> int:
        return len(self._heap)

    @property
    def degraded(self) -> bool:
        """Whether there are parked events, as of the last look."""
        return self._degraded

    async def read_position(self) -> int:
        """Where the read models are: the position that all of them have reached; 0 while one does not serve."""
        async with self._pool.connection() as connection:
            return await self._read_position(connection)

    async def _look(self) -> int:
        """Positions first: an event that is parked later is behind them, and announced."""
        async with self._pool.connection() as connection:
            position = await self._read_position(connection)
            cursor = await connection.execute("SELECT DISTINCT projection, version FROM parked_events", prepare=True)
            self._degraded = any(self._versions.get(name) == version for name, version in await cursor.fetchall())
        return position

    async def _read_position(self, connection: AsyncConnection) -> int:
        cursor = await connection.execute("SELECT name, version, position FROM projection_positions", prepare=True)
        at = [position for name, version, position in await cursor.fetchall() if self._versions.get(name) == version]
        return min(at) if len(at) == len(self._versions) else 0

    def _notified(self, payload: str | None) -> None:
        position, _, of = (payload or "").partition(" ")
        if position and of == self._digest and not self._looking:
            self._reached(int(position))
        else:
            self._looking = True
            self._stale.set()

    def _reached(self, position: int) -> None:
        self._position = max(self._position, position)
        if self._late is not None and self._late <= self._position:
            self._late = None
        while self._heap and self._heap[0][0] <= self._position:
            _, _, reached = heapq.heappop(self._heap)
            if not reached.done():
                reached.set_result(None)
