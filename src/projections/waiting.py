"""Read your writes: wait until the read models have reached a position.

One LISTEN a process and a heap of waiters. Notifications can be lost with their connection, so the position is read
again after every LISTEN and once a second. When the lag is already above the limit nobody waits: the answer says so
at once.
"""

import asyncio
import heapq
from collections.abc import Sequence
from itertools import count

from psycopg_pool import AsyncConnectionPool

from projections.model import Projection
from store.listen import PROJECTED, Listener

LIMIT_S = 2.0


class Waiter:
    def __init__(self, pool: AsyncConnectionPool, listener: Listener, projections: Sequence[Projection]) -> None:
        self._pool = pool
        self._listener = listener
        self._versions = {projection.name: projection.version for projection in projections}
        self._position = 0
        self._behind_since: float | None = None
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._stale = asyncio.Event()

    async def run(self) -> None:
        with self._listener.subscribed(PROJECTED, self._notified):
            while True:
                self._stale.clear()
                self._reached(await self.read_position())
                try:
                    await asyncio.wait_for(self._stale.wait(), 1.0)
                except TimeoutError:
                    continue

    async def wait(self, position: int) -> bool:
        """True once the read models are at `position`; False after LIMIT_S, or at once when they lag by more."""
        if position <= self._position:
            return True
        now = asyncio.get_running_loop().time()
        if self._heap and self._behind_since is not None and now - self._behind_since > LIMIT_S:
            return False
        if self._behind_since is None:
            self._behind_since = now
        reached = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (position, next(self._order), reached))
        try:
            await asyncio.wait_for(reached, LIMIT_S)
        except TimeoutError:
            return False
        return True

    async def read_position(self) -> int:
        """Where the read models are: the position that all of them have reached."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT name, version, position FROM projection_positions", prepare=True)
            at = [
                position for name, version, position in await cursor.fetchall() if self._versions.get(name) == version
            ]
        return min(at) if len(at) == len(self._versions) else 0

    def _notified(self, payload: str | None) -> None:
        if payload:
            self._reached(int(payload))
        else:
            self._stale.set()

    def _reached(self, position: int) -> None:
        if position > self._position:
            self._position = position
            self._behind_since = None
        while self._heap and self._heap[0][0] <= self._position:
            _, _, reached = heapq.heappop(self._heap)
            if not reached.done():
                reached.set_result(None)
        if self._heap and self._behind_since is None:
            self._behind_since = asyncio.get_running_loop().time()
