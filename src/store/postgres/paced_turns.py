"""Turns at work that must leave most of the time to others, however much of it is asked for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from store.postgres.caller_turns import CallerTurns

REST = 10.0
"""Length of the rest after a turn, as a multiple of the turn: the work gets an eleventh of the time. On busy
processors, turns take longer, and so do the rests.
"""
MAX_REST_S = 0.4
"""Longest rest, in seconds, so that the work goes on however busy the processors are."""


class PacedTurns(CallerTurns):
    """Lets one turn at a time be taken, each time by another caller if several wait, and lets a rest follow each turn.
    Who comes after the rest does not wait.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        super().__init__(1)
        self._clock, self._sleep = clock, sleep
        self._next_at = clock()
        """Time at which the rest after the last turn ends."""

    @asynccontextmanager
    async def take(self, caller: str) -> AsyncIterator[None]:
        """Waits for a turn of the caller, which lasts until the block ends."""
        async with super().take(caller):
            await self._sleep(max(0.0, self._next_at - self._clock()))
            begun = self._clock()
            try:
                yield
            finally:
                ended = self._clock()
                self._next_at = ended + min(REST * (ended - begun), MAX_REST_S)
