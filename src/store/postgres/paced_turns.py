"""Lets callers take turns at work that may take only a small part of a process's time, however many callers wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from store.postgres.caller_turns import CallerTurns

REST = 10.0
"""Length of the pause after a turn, as a multiple of the turn's length: the work gets an eleventh of the time. On busy
processors a turn takes longer, and so does the pause.
"""
MAX_REST_S = 0.4
"""Longest pause after a turn, in seconds. Without this limit, the work would hardly go on while processors are busy."""


class PacedTurns(CallerTurns):
    """Lets one caller at a time work. After each turn comes a pause in which nobody works. If several callers wait,
    they take turns. A caller who comes after the pause begins at once.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        super().__init__(1)
        self._clock, self._sleep = clock, sleep
        self._next_at = clock()
        """Time at which the pause after the last turn ends."""

    @asynccontextmanager
    async def take(self, caller: str) -> AsyncIterator[None]:
        """Context manager for one turn: waits until the caller may begin, and ends the turn with the block."""
        async with super().take(caller):
            await self._sleep(max(0.0, self._next_at - self._clock()))
            begun = self._clock()
            try:
                yield
            finally:
                ended = self._clock()
                self._next_at = ended + min(REST * (ended - begun), MAX_REST_S)
