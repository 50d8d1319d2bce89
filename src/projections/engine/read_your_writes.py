"""Read-your-writes: requests wait here until the read models have reached a position of the log.

Each process has one LISTEN and a heap of waiting requests. A notification contains the projector's position and the
digest of its read models. In three cases the process reads the positions from the database instead:

- after every LISTEN and once a second, since a broken connection loses notifications;
- when the digest is not that of this process, because another release runs too or only some read models moved;
- when an event was parked.

The position can go back. When the database crashes, it loses the newest changes of read models, since their
transactions do not wait for the disk (`projections.engine.schemas`). A read model that is no longer broken may be
behind the others. So a broken connection makes the position unknown, and a position that is read from the database
replaces a higher one.

No request waits for a broken read model. If the wait for a position of the log timed out, further requests for this
position, or for a later one, do not wait. This lasts until the read models have reached the position. A wait for a
position that the log did not have yet says nothing about the read models.
"""

import asyncio
import heapq
from collections.abc import Sequence
from itertools import count

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from projections.engine.model import Projection, versions_digest
from projections.engine.parking import is_parked
from store.postgres.cancellation import wait_for
from store.postgres.notifications import PROJECTED, Listener

log = structlog.get_logger()

WAIT_TIMEOUT_S = 2.0
"""Longest time in seconds that a request waits for the read models. Then it is answered although they are behind."""
POLL_INTERVAL_S = 1.0
"""Seconds between two reads of the positions, in case a notification was lost."""
RETRY_INTERVAL_S = 0.1
"""Seconds between two tries to reach the database."""


class ProjectionWaiter:
    """Knows the position of the read models, and lets requests of this process wait until the read models have reached
    a higher one.
    """

    def __init__(self, pool: AsyncConnectionPool, listener: Listener, projections: Sequence[Projection]) -> None:
        self._pool = pool
        self._listener = listener
        self._versions = {projection.name: projection.version for projection in projections}
        self._digest = versions_digest(projections)
        self._position = 0
        self._must_read = True
        """True if the position must be read from the database before notifications count again."""
        self._lost_count = 0
        """Number of times that the connection of the listener broke or was made anew."""
        self._has_parked = False
        self._has_broken = False
        self._late: int | None = None
        """Lowest position of the log for which a wait has timed out. None if no wait has, or once the read models have
        reached the position.
        """
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._stale = asyncio.Event()

    async def run(self) -> None:
        """Follows the position of the read models. When they reach a position, wakes the requests that wait for it.
        Runs for ever.
        """
        with self._listener.subscribed(PROJECTED, self._notified):
            while True:
                self._stale.clear()
                pause = POLL_INTERVAL_S
                try:
                    before, lost = self._position, self._lost_count
                    found = await self.read_position()
                    if self._lost_count == lost:
                        # If the read models went back, so does the position. Otherwise, a notification during the
                        # read may have raised it above the position found.
                        self._position = found if found < before else self._position
                        self._advance(found)
                    self._must_read = self._stale.is_set()
                except psycopg.Error as error:
                    log.warning("the read models' position cannot be read", error=str(error).strip())
                    pause = RETRY_INTERVAL_S
                await wait_for(self._stale, pause)

    async def wait(self, position: int, first: int | None = None, *, is_in_log: bool = True) -> bool:
        """Waits until the read models show the events from position `first` (default: `position`) to `position`.

        Returns False if this takes longer than WAIT_TIMEOUT_S, if one of these events is parked, or if a read model is
        broken. After a time-out, returns False at once for this position and later ones, until the read models have
        reached it. `is_in_log` says whether the log already has the position: if not, a time-out has no effect on other
        requests.
        """
        if not await self.wait_reached(position, is_in_log=is_in_log) or self._has_broken:
            return False
        if not self._has_parked:
            return True
        async with self._pool.connection() as connection:
            return not await is_parked(connection, self._versions, position if first is None else first, position)

    async def wait_reached(self, position: int, *, is_in_log: bool = True) -> bool:
        """Waits until all read models, except broken ones, have reached the position. Ignores parked events.

        Returns False after WAIT_TIMEOUT_S. After such a time-out for a position of the log, returns False at once for
        this position and later ones, until the read models have reached it.
        """
        if position <= self._position:
            return True
        if self._late is not None and self._late <= position:
            return False
        reached = asyncio.get_running_loop().create_future()
        entry = (position, next(self._order), reached)
        heapq.heappush(self._heap, entry)
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                await reached
        except TimeoutError:
            if is_in_log:
                self._late = position if self._late is None else min(self._late, position)
            return False
        finally:
            if entry in self._heap:
                self._heap.remove(entry)
                heapq.heapify(self._heap)
        return True

    @property
    def waiter_count(self) -> int:
        return len(self._heap)

    @property
    def position(self) -> int:
        """The newest position that all read models have reached, as far as this process knows."""
        return self._position

    @property
    def is_degraded(self) -> bool:
        """True if this process found parked events or broken read models when it last read the positions from the
        database.
        """
        return self._has_parked or self._has_broken

    async def read_position(self) -> int:
        """Returns the position that all read models, except broken ones, have reached; 0 if a read model has no live
        tables.

        Also records whether events are parked. An event that is parked after this read has a higher position, and a
        notification follows.
        """
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT name, version, position, broken IS NOT NULL FROM projection_positions", prepare=True
            )
            found = [row[2:] for row in await cursor.fetchall() if self._versions.get(row[0]) == row[1]]
            cursor = await connection.execute("SELECT DISTINCT projection, version FROM parked_events", prepare=True)
            self._has_parked = any(self._versions.get(name) == version for name, version in await cursor.fetchall())
        self._has_broken = any(is_broken for _, is_broken in found)
        sound = [position for position, is_broken in found if not is_broken]
        return min(sound, default=0) if len(found) == len(self._versions) else 0

    def _notified(self, payload: str | None) -> None:
        if payload is None:
            self._position = 0
            self._lost_count += 1
        position, _, digest = (payload or "").partition(" ")
        if position and digest == self._digest and not self._must_read:
            self._advance(int(position))
        else:
            self._must_read = True
            self._stale.set()

    def _advance(self, position: int) -> None:
        self._position = max(self._position, position)
        if self._late is not None and self._late <= self._position:
            self._late = None
        while self._heap and self._heap[0][0] <= self._position:
            _, _, reached = heapq.heappop(self._heap)
            if not reached.done():
                reached.set_result(None)
