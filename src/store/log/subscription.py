"""Reads new events once for all subscribers in a process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import psycopg
import structlog

from domain.core.events import Recorded
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.notifications import Listener

log = structlog.get_logger()

EventHandler = Callable[[Sequence[Recorded]], Awaitable[None]]

BATCH_SIZE = 200
"""Largest number of events that one read returns."""
DEBOUNCE_S = 0.05
"""Shortest time in seconds between two reads, so that a burst of events causes few reads."""


class LogSubscription:
    """Passes new events with one of `names` to all handlers. Reads nothing while there is no handler."""

    def __init__(self, event_log: EventLog, listener: Listener, names: Sequence[str]) -> None:
        self._log = event_log
        self._cursor = LogCursor(event_log, listener, names, batch_size=BATCH_SIZE, debounce_s=DEBOUNCE_S)
        self._handlers: list[EventHandler] = []
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    @property
    def position(self) -> int:
        """The position up to which all handlers have handled the events."""
        return self._cursor.position

    @contextlib.asynccontextmanager
    async def subscribed(self, handler: EventHandler) -> AsyncIterator[None]:
        """Calls `handler` with each batch of new events, in order, as long as this context manager is open.

        The next batch is read after all handlers have got this one. If a handler raises an error, all handlers get the
        batch again.
        """
        self._handlers.append(handler)
        if self._task is None:
            self._started = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._started), name="log subscription")
        try:
            await self._started.wait()
            yield
        finally:
            self._handlers.remove(handler)
            if not self._handlers:
                self._task.cancel()
                self._task = None

    async def _run(self, started: asyncio.Event) -> None:
        with self._cursor.listening():
            # A wait for the database may swallow the cancellation (`store.postgres.cancellation`).
            while asyncio.current_task() is self._task:
                try:
                    if started.is_set():
                        await self._cursor.drain(self._handle)
                    else:
                        self._cursor.position = await self._log.read_head()
                        started.set()
                except psycopg.OperationalError as error:
                    log.warning("the end of the log cannot be read", error=str(error).strip())
                except Exception:
                    # One cause is an event of a newer release: this process cannot read it until it is upgraded, too.
                    log.exception("new events cannot be handled")
                await self._cursor.wait()

    async def _handle(self, events: Sequence[Recorded]) -> None:
        for handler in list(self._handlers):
            await handler(events)
