"""One LISTEN connection a process, shared by everything in it that waits for something.

A notification may be lost while the connection is down, so after every (re)connect each subscriber is called with
None, which means: look again. Subscribers look first, then wait; and those with a deadline look once a second anyway.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from store.postgres.cancellation import cancel_and_wait

log = structlog.get_logger()

Callback = Callable[[str | None], None]

EVENTS = "stored_events"
"""Payload: the newest position in the log, and the names of what was appended: `1025 build.queued build.commented`."""
PROJECTED = "projected"
"""Payload: a position and which read models have reached it (their `digest`); empty: look at the positions."""
AGENT_NOTIFICATIONS = "stored_events_wakes"
"""Payload: the node whose agent has something to fetch, and what: `7:1025` a build, `7:cmd-3` a command. `done:3`: the
command has been answered.
"""
POLLS = "polls"
"""Payload: the node id whose agent asks for work or stopped asking."""
BUILD_LOGS = "build_logs"
"""Payload: the build id that has new log lines."""


def may_contain(payload: str, names: Collection[str]) -> bool:
    """Whether an event with one of these names was appended, by a payload of EVENTS."""
    return any(name in names for name in payload.split(" ")[1:])


def newest_position(payload: str) -> int:
    """The position in a payload of EVENTS."""
    return int(payload.partition(" ")[0])


async def wait_for(news: asyncio.Event, within_s: float) -> bool:
    """Whether it is set in time.

    Not by `asyncio.wait_for`: that of Python 3.11 swallows a cancellation that comes together with the event, and who
    cancelled waits for ever.
    """
    try:
        async with asyncio.timeout(within_s):
            return await news.wait()
    except TimeoutError:
        return False


class Listener:
    def __init__(self, conninfo: str, *channels: str) -> None:
        self._conninfo = conninfo
        self._channels = channels
        self._callbacks: dict[str, list[Callback]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Returns once the process listens."""
        self._task = asyncio.create_task(self._run(), name="listener")
        await self._ready.wait()

    async def close(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)

    @contextlib.contextmanager
    def subscribed(self, channel: str, callback: Callback) -> Iterator[None]:
        """Calls `callback` on the event loop for each notification; it must not block or raise."""
        assert channel in self._channels, f"this process does not listen on {channel}"
        self._callbacks[channel].append(callback)
        try:
            yield
        finally:
            self._callbacks[channel].remove(callback)

    async def _run(self) -> None:
        pause = 0.05
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=5
                ) as connection:
                    for channel in self._channels:
                        await connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
                    self._ready.set()
                    pause = 0.05
                    for callbacks in list(self._callbacks.values()):
                        for callback in list(callbacks):
                            callback(None)
                    async for notification in connection.notifies():
                        for callback in list(self._callbacks[notification.channel]):
                            callback(notification.payload)
            except psycopg.OperationalError as error:
                log.warning("listener lost its connection", error=str(error).strip(), again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
