"""Listens to PostgreSQL notifications, on one connection for all subscribers of a process.

Notifications are lost while the connection is down. So each subscriber is called with None when the connection breaks
and after every connect, which means that anything may have changed. Subscribers should read first and wait afterwards.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.pq.abc import PGconn
from psycopg.sql import SQL, Identifier

from store.postgres.cancellation import cancel_and_wait

log = structlog.get_logger()

Callback = Callable[[str | None], None]

# The channels.
EVENTS = "stored_events"
"""Payload: the newest position in the log, then the names of the appended events: `1025 build.queued
build.commented`.
"""
PROJECTED = "projected"
"""Payload: a position, and a hash of the names and versions of the read models that have reached this position. An
empty payload means that the positions must be read from the database.
"""
AGENT_NOTIFICATIONS = "stored_events_wakes"
"""Payload: `7:1025` if the agent of node 7 can fetch build 1025; `7:cmd-3` if it can fetch command 3; `done:3` if
command 3 has been answered; `7:` if the session of that agent has ended.
"""
POLLS = "polls"
"""Payload: a node id, how many builds its agent asks for, and when, in microseconds since 1970: `7:2:1795787000000000`.
`7:0:…` means that the agent has stopped asking.
"""
BUILD_LOGS = "build_logs"
"""Payload: the id of a build whose log has new lines."""
SEALS = "seals"
"""Asks the sealer for a checkpoint over the whole log. No payload."""
ROOT_KEYS = "root_keys"
"""The key ring has changed (`store.key_ring.ring`). No payload."""

CONNECT_TIMEOUT_S = 5
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Longest pause before the listener connects again. Each failure doubles the pause, up to this limit."""


def may_contain(payload: str, names: Collection[str]) -> bool:
    """Returns whether a payload of the channel EVENTS has at least one of these event names."""
    return any(name in names for name in payload.split(" ")[1:])


def newest_position(payload: str) -> int:
    """Returns the position at the beginning of a payload of the channel EVENTS."""
    return int(payload.partition(" ")[0])


class Listener:
    """Listens on `channels`, and reconnects when the connection breaks."""

    def __init__(self, conninfo: str, *channels: str) -> None:
        self._conninfo = conninfo
        self._channels = channels
        self._callbacks: dict[str, list[Callback]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self._is_listening = asyncio.Event()

    async def start(self) -> None:
        """Starts listening. Returns once all channels are listened on."""
        self._task = asyncio.create_task(self._run(), name="listener")
        await self._is_listening.wait()

    async def close(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)

    @contextlib.contextmanager
    def subscribed(self, channel: str, callback: Callback) -> Iterator[None]:
        """Calls `callback` with each payload of the channel as long as this context manager is open. Calls it with None
        if notifications may have been lost.

        The callback runs on the event loop: it must neither block nor raise.
        """
        assert channel in self._channels, f"this process does not listen on {channel}"
        self._callbacks[channel].append(callback)
        try:
            yield
        finally:
            self._callbacks[channel].remove(callback)

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
                ) as connection:
                    for channel in self._channels:
                        await connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
                    self._is_listening.set()
                    pause_s = FIRST_PAUSE_S
                    self._call_all()
                    await self._receive(connection)
            except psycopg.OperationalError as error:
                self._call_all()
                log.warning("listener lost its connection", error=str(error).strip(), again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _receive(self, connection: AsyncConnection) -> None:
        """Calls the callbacks with each notification until the connection breaks. Then raises psycopg.OperationalError.

        The event loop watches the socket all the time. The generator `notifies` of psycopg would begin and end the
        watching for each notification, which takes several times as long.
        """
        loop, socket = asyncio.get_running_loop(), connection.pgconn.socket
        lost: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                connection.pgconn.consume_input()
            except psycopg.OperationalError as error:
                # At once, since the socket is closed: another one may get its number.
                loop.remove_reader(socket)
                if not lost.done():
                    lost.set_exception(error)
            else:
                self._call_notified(connection.pgconn)

        loop.add_reader(socket, read)
        try:
            read()  # what came together with the answer to LISTEN
            await lost
        finally:
            if lost.cancelled():
                loop.remove_reader(socket)

    def _call_notified(self, pgconn: PGconn) -> None:
        while (notification := pgconn.notifies()) is not None:
            for callback in list(self._callbacks[notification.relname.decode()]):
                callback(notification.extra.decode())

    def _call_all(self) -> None:
        for callbacks in list(self._callbacks.values()):
            for callback in list(callbacks):
                callback(None)
