"""Follows the log: reads the events after a position, then waits for more.

A cursor has its position in memory only. Some workers need a position that outlives the process and moves in the
transaction of their effect. These workers store the position in a row (`store.tables.log_positions`), and use a cursor
only to wait.
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
"""Largest number of events that one read returns."""
POLL_INTERVAL_S = 1.0
"""Seconds without a notification after which a reader reads again, since a broken connection loses notifications."""


@dataclass(eq=False)
class LogCursor:
    """Reads the log from its position on, batch by batch. Only one task may use a cursor.

    The cursor passes on events with one of `names` (None: all events) and skips the others. A wait ends when an event
    with a name in `notify_on` is appended; None stands for the same names as `names`. At least `debounce_s` pass
    between two reads, so that a burst of events needs few reads.
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
    """Position up to which all events with one of `names` were handled."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def follow(self, step: Callable[[], Awaitable[object]]) -> None:
        """Calls `step` at once, then after each notification, and at the latest when the poll interval has passed. Runs
        for ever.
        """
        with self.listening():
            while True:
                await step()
                await self.wait()

    async def drain(self, handle: Callable[[Sequence[Recorded]], Awaitable[object]]) -> None:
        """Passes the events after the position to `handle`, in order and batch by batch, until the end of the log.

        The position moves each time `handle` has returned. If `handle` raises, the next call of `drain` passes the same
        batch again.
        """
        is_full = True
        while is_full:
            events, position, is_full = await self.event_log.read_batch(self.position, self.batch_size, self.names)
            if events:
                await handle(events)
            self.position = position

    def listening(self, *, min_new: int = 1) -> AbstractContextManager[None]:
        """Returns a context manager. While it is open, an appended event ends `wait` if its position is at least
        `min_new` after the cursor's position.
        """

        def appended(payload: str | None) -> None:
            names = self.names if self.notify_on is None else self.notify_on
            if payload is None or (
                newest_position(payload) >= self.position + min_new and (names is None or may_contain(payload, names))
            ):
                self.notify()

        return self.listener.subscribed(EVENTS, appended)

    def notify(self) -> None:
        """Ends the current `wait`. If nobody waits now, the next `wait` returns at once."""
        self._changed.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for a notification, for at most `timeout_s` seconds (None: the poll interval).

        Returns True if a notification has arrived since the last wait, False after a time-out.
        """
        if self.debounce_s:
            await asyncio.sleep(self.debounce_s)
        changed = await wait_for(self._changed, self.poll_interval_s if timeout_s is None else timeout_s)
        self._changed.clear()
        return changed
