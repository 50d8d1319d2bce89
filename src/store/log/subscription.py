"""The end of the log as it grows, read once for all in a process who want it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import psycopg
import structlog

from domain.core.events import Recorded
from store.log.event_log import EventLog
from store.postgres.notifications import Listener, wait_for

log = structlog.get_logger()

Take = Callable[[Sequence[Recorded]], Awaitable[None]]

BATCH = 200
LOOK_AGAIN_S = 1.0
REST_S = 0.05
"""Between two looks that find something: many events cost one look."""
TRY_AGAIN_S = 0.5


class LogSubscription:
    """Only events with one of `names`. Reads nothing while nobody follows."""

    def __init__(self, event_log: EventLog, listener: Listener, names: Sequence[str]) -> None:
        self._log = event_log
        self._listener = listener
        self._names = names
        self._takers: list[Take] = []
        self._following: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self.position = 0
        """Everything up to here has been told."""

    @contextlib.asynccontextmanager
    async def followed(self, take: Take) -> AsyncIterator[None]:
        """Within it `take` is called with what is appended, in order; no more is read until it returns. When it raises
        it is called again with the same events.
        """
        self._takers.append(take)
        if self._following is None:
            self._begun = asyncio.Event()
            self._following = asyncio.create_task(self._follow(self._begun), name="tail")
        try:
            await self._begun.wait()
            yield
        finally:
            self._takers.remove(take)
            if not self._takers:
                self._following.cancel()
                self._following = None

    async def _follow(self, begun: asyncio.Event) -> None:
        news = asyncio.Event()
        with self._listener.woken(news, self._names):
            # By itself, too: a cancellation may be lost in what waits for the database (`store.postgres.cancellation`).
            while asyncio.current_task() is self._following:
                news.clear()
                pause, found = LOOK_AGAIN_S, False
                try:
                    if begun.is_set():
                        found = await self._look()
                    else:
                        self.position = await self._log.head()
                        begun.set()
                except psycopg.OperationalError as error:
                    log.warning("the end of the log cannot be read", error=str(error).strip())
                    pause = TRY_AGAIN_S
                except Exception:
                    # An event of a newer release, say: its followers wait until this process is replaced too.
                    log.exception("the end of the log cannot be told")
                    pause = LOOK_AGAIN_S
                if found:
                    await asyncio.sleep(REST_S)
                await wait_for(news, pause)

    async def _look(self) -> bool:
        """Tells what is new; whether there was anything."""
        found, is_whole = False, False
        while not is_whole:
            head = await self._log.head()
            events = await self._log.read(self.position, BATCH, self._names)
            is_whole = len(events) < BATCH
            # More may have been appended between the two.
            last = events[-1].position if events else 0
            if events:
                found = True
                for take in list(self._takers):
                    await take(events)
            self.position = max(head, last) if is_whole else last
        return found
