"""Limits for heavy reads, by caller: no caller can use up the memory or the time of all others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domain.core.errors import TooManyRequests

RETRY_AFTER_S = 5
"""Seconds after which a refused caller may try again."""


class _Turn:
    """The reads of one caller: their number, and a lock that lets one of them run at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = asyncio.Lock()


class CallerTurns:
    """Lets `concurrent` reads run at once, each of a different caller. One caller may have at most `of_caller` reads
    running or waiting, and all callers together at most `total`; 0 means no limit. `kind` names the reads in messages.
    """

    def __init__(self, concurrent: int, of_caller: int = 0, total: int = 0, kind: str = "reads") -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._of_caller = of_caller
        self._total = total
        self._kind = kind
        self._turns: dict[str, _Turn] = {}
        """Caller -> the caller's reads."""

    def __len__(self) -> int:
        return sum(turn.count for turn in self._turns.values())

    @asynccontextmanager
    async def take(self, caller: str) -> AsyncIterator[None]:
        """Waits until no other read of the caller runs, and fewer than `concurrent` run in all. Raises TooManyRequests
        if the caller or all callers together have reached their limit of running and waiting reads.
        """
        turn = self._turns.get(caller) or _Turn()
        is_over = self._of_caller and turn.count >= self._of_caller
        if is_over or (self._total and len(self) >= self._total):
            who = "You have" if is_over else "There are"
            raise TooManyRequests(f"{who} too many {self._kind} under way; wait for one.", RETRY_AFTER_S)
        self._turns[caller] = turn
        turn.count += 1
        try:
            async with turn.lock, self._slots:
                yield
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[caller]
