"""Following the log: read what was appended after a position, then wait for more.

A cursor keeps its position in memory. A reader whose position has to outlive the process, and to move in the
transaction of its effect, keeps it in a row (`store.tables.log_positions`) and takes from a cursor only the waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field

from domain.core.events import Recorded
from store.log.event_log import EventLog
from store.postgres.cancellation import wait_for
from store.postgres.notifications import EVENTS, Listener, may_contain, newest_position

BATCH_SIZE = 500
"""Events."""
POLL_INTERVAL_S = 1.0
"""A reader looks again after this long without a notification, which may be lost together with its connection."""


@dataclass(eq=False)
class LogCursor:
    """Moves along the log, batch by batch. Belongs to one task.

    It reads the events with one of `names` (all events by default) and steps over stretches that have none.
    `notify_on` are the names whose append ends a wait, `names` by default. At least `debounce_s` lie between a read and
    the next one, so that a burst of events costs few reads.
    """

    event_log: EventLog
    listener: Listener
    names: Sequence[str] | None = None
    _: KW_ONLY
    notify_on: Collection[str] | None = None
    batch_size: int = BATCH_SIZE
    poll_interval_s: float = POLL_INTERVAL_S
    debounce_s: float = 0.0
    position: int = field(default=0, init=False)
    """Every event of interest up to here has been handled."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def follow(self, step: Callable[[], Awaitable[object]]) -> None:
        """Calls `step` now and whenever events of interest were appended, for ever."""
        with self.listening():
            while True:
                await step()
                await self.wait()

    async def drain(self, handle: Callable[[Sequence[Recorded]], Awaitable[object]]) -> None:
        """Passes all events of interest after the position to `handle`, in order, batch by batch.

        The position moves when `handle` has returned: a batch for which it raises is passed again next time.
        """
        is_full = True
        while is_full:
            events, position, is_full = await self.event_log.read_batch(self.position, self.batch_size, self.names)
            if events:
                await handle(events)
            self.position = position

    def listening(self, *, min_new: int = 1) -> AbstractContextManager[None]:
        """Ends waits at the append of an event of interest, at least `min_new` beyond the position, while open."""

        def appended(payload: str | None) -> None:
            names = self.names if self.notify_on is None else self.notify_on
            if payload is None or (
                newest_position(payload) >= self.position + min_new and (names is None or may_contain(payload, names))
            ):
                self.notify()

        return self.listener.subscribed(EVENTS, appended)

    def notify(self) -> None:
        """Ends the wait that is under way, or the next one."""
        self._changed.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for a notification since the last wait, `timeout_s` or the poll interval at most; False without one."""
        if self.debounce_s:
            await asyncio.sleep(self.debounce_s)
        changed = await wait_for(self._changed, self.poll_interval_s if timeout_s is None else timeout_s)
        self._changed.clear()
        return changed
