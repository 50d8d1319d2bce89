"""Sends the log of a build as server-sent events: a JSON message for each line, then the build's status, then `done`.

On request, each message has the id `attempt:line`. A client that reconnects with `Last-Event-ID`, to whatever process,
gets the lines after that id, without a gap or a repetition. All clients of a build in a process share one feed, which
reads new lines at most every `DEBOUNCE_S` and encodes each line once.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import TypeVar

import msgspec
import psycopg
import structlog

from api.http.services import Services
from api.live.stream_clients import StreamClient
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildAssigned,
    BuildDeleted,
    BuildFinished,
    BuildRequeued,
    BuildStarted,
    DeletedBuild,
    Finished,
    Verdict,
)
from domain.core.errors import Invalid, StreamDamaged
from domain.core.events import Recorded, readable
from store.log.subscription import LogSubscription
from store.postgres.cancellation import wait_for
from store.postgres.notifications import BUILD_LOGS
from store.tables.build_logs import BuildLogs, Line

log = structlog.get_logger()

T = TypeVar("T")

DEBOUNCE_S = 0.1
"""Shortest time in seconds between two reads of the log while lines arrive, so that lines that follow one another fast
are sent together.
"""
POLL_INTERVAL_S = 1.0
"""Seconds between two reads of the log if no notification arrives. A notification may be lost."""
RETRY_INTERVAL_S = 0.5
"""Seconds between two attempts to reach the database."""
MAX_CACHED_BYTES = 8 * 1024 * 1024
"""Largest number of bytes of messages that a process caches for clients that are a little behind."""
DONE = ":done"
"""End of the id of the message `done`. A client that reconnects with an id that ends like this has received everything.
"""
MESSAGE_ID = re.compile(rf"([0-9]{{1,16}}):([0-9]{{1,16}})(?:{DONE})?")
STILL_HERE = b": still here\n\n"
CHANGES = [event.name for event in (BuildAssigned, BuildRequeued, BuildStarted, BuildFinished, BuildDeleted)]

LogOffset = tuple[int, int]
"""Offset in the logs of all attempts of a build: the number of an attempt, and the number of lines of this attempt that
come before the offset.
"""


def format_line(line: Line) -> str:
    """Returns a line with its time in UTC in front: `[10:00:05] PASSED tests/test_api.py::test_login`."""
    seconds = line.at_ms // 1000 % 86_400  # agents' clocks may be wrong, so the date is not shown
    return f"[{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}] {line.text}"


def encode_message(message: object) -> bytes:
    """Returns a server-sent event that contains the message as JSON."""
    # Some clients also split lines at these characters, so they are escaped in the JSON.
    text = msgspec.json.encode(message).decode()
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
    return f"data: {text}\n\n".encode()


class LogChunk:
    """Consecutive lines of a log, encoded as messages."""

    def __init__(self, attempt: int, first: int, lines: Sequence[Line]) -> None:
        self.end: LogOffset = (attempt, first + len(lines))
        self._numbered = range(first + 1, first + len(lines) + 1)
        self._messages = [encode_message({"type": "log", "data": format_line(line)}) for line in lines]
        self.size = sum(map(len, self._messages))

    @cached_property
    def plain(self) -> bytes:
        return b"".join(self._messages)

    @cached_property
    def with_ids(self) -> bytes:
        attempt, _ = self.end
        numbered = zip(self._numbered, self._messages, strict=True)
        return b"".join(b"id: %d:%d\n%b" % (attempt, number, message) for number, message in numbered)


class LogChunkCache:
    """Cache of the chunks that were read last, from the logs of all builds. Simultaneous requests for the same chunk
    read it only once.
    """

    def __init__(self, build_logs: BuildLogs) -> None:
        self._logs = build_logs
        self._chunks: dict[tuple[int, LogOffset], LogChunk] = {}
        self._size = 0
        self._loading: dict[tuple[int, LogOffset], asyncio.Task[LogChunk | None]] = {}

    async def load(self, build_id: int, offset: LogOffset, until: int | None = None) -> LogChunk | None:
        """Returns the chunk of lines that begins at `offset` and ends at line `until` at the latest. Returns None if
        there are no lines at `offset`.
        """
        key = (build_id, offset)
        if until is not None and offset[1] >= until:
            return None
        if (chunk := self._chunks.get(key)) is not None:
            return chunk
        if (loading := self._loading.get(key)) is None:
            loading = self._loading[key] = asyncio.create_task(self._load(key, until))
            loading.add_done_callback(partial(self._finish, key))
        # Cancelling one caller must not cancel the task, since others may wait for it.
        return await asyncio.shield(loading)

    def _finish(self, key: tuple[int, LogOffset], loading: asyncio.Task[LogChunk | None]) -> None:
        del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # retrieved here, in case that all callers were cancelled

    async def _load(self, key: tuple[int, LogOffset], until: int | None) -> LogChunk | None:
        build_id, (attempt, first) = key
        lines = await self._logs.read_page(build_id, attempt, first)
        if until is not None:
            lines = lines[: until - first]
        if not lines:
            return None
        chunk = self._chunks[key] = LogChunk(attempt, first, lines)
        self._size += chunk.size
        while self._size > MAX_CACHED_BYTES and len(self._chunks) > 1:
            self._size -= self._chunks.pop(next(iter(self._chunks))).size
        return chunk

    def drop(self, build_id: int) -> None:
        for key in [key for key in self._chunks if key[0] == build_id]:
            self._size -= self._chunks.pop(key).size


class BuildFeed:
    """Feed for all clients of a build: it follows the build and its log."""

    def __init__(self, services: Services, chunks: LogChunkCache, subscription: LogSubscription, build_id: int) -> None:
        self._services = services
        self._chunks = chunks
        self._subscription = subscription
        self.build_id = build_id
        self.clients: set[StreamClient] = set()
        self.end: LogOffset = (0, 0)
        """Offset after the last stored line that the feed has found."""
        self.status: Verdict | None = None
        """Verdict of the build, once it has finished and all of its lines are known; None before."""
        self.is_gone = False
        """Whether the build does not exist, was deleted, or cannot be read."""
        self.changed = asyncio.Event()
        self._has_begun = asyncio.Event()
        self._stream = BUILD.at(build_id)
        self._build: AnyBuild | None = None
        self._position = 0
        self._version = 0
        self._events: list[Recorded] = []
        """Events that `refresh` has not folded yet."""
        self._refreshing = asyncio.Lock()

    async def run(self) -> None:
        """Reads the build and its log until the build has ended or no client is left."""
        try:
            async with self._subscription.subscribed(self._take):
                # Check `clients` here: the cancellation at the end of the last client may be lost in a wait for the
                # database (`store.postgres.cancellation`).
                while self.status is None and not self.is_gone and self.clients:
                    self.changed.clear()
                    had, began = self.end, time.monotonic()
                    await retry_until_connected(self.refresh)
                    if self.end != had:
                        await asyncio.sleep(DEBOUNCE_S - (time.monotonic() - began))
                    await wait_for(self.changed, POLL_INTERVAL_S)
        except StreamDamaged as error:
            log.error("a build's stream ends early", build=self.build_id, detail=error.detail)
        finally:
            # Also after an error, so that clients do not wait for a feed that has ended.
            self.is_gone = self.status is None
            self._has_begun.set()
            self._wake()

    async def refresh(self) -> None:
        """Reads what is new since the last call: events, which it folds into the build, and lines of the log."""
        async with self._refreshing:
            await self._refresh()

    async def begin(self, offset: LogOffset | None) -> LogOffset:
        """Returns the offset at which a client begins: `offset`, or the end of the log if `offset` lies beyond it. If
        `offset` is None or names an attempt that does not exist, returns the beginning of the present attempt.
        """
        await self._has_begun.wait()
        if offset is not None and offset > self.end and self.status is None:
            await retry_until_connected(self.refresh)  # another process may have sent lines that are new to this one
        if offset is None or offset[0] > self.end[0]:
            return (self.end[0], 0)
        # A client may have seen lines that were in flight when the build was stopped: they are not in the log.
        return min(offset, self.end)

    async def load_next(self, offset: LogOffset) -> LogChunk | None:
        """Returns the chunk of lines after an offset. At the end of an attempt, this is the first chunk of the next
        attempt. Returns None if the feed has found no lines after the offset, or if they were deleted.
        """
        while offset < self.end:
            is_last = offset[0] == self.end[0]
            chunk = await self._chunks.load(self.build_id, offset, self.end[1] if is_last else None)
            if chunk is not None:
                return chunk
            if is_last:
                self.is_gone = True  # the lines have been deleted
                return None
            offset = (offset[0] + 1, 0)
        return None

    async def _take(self, events: Sequence[Recorded]) -> None:
        if of_build := [recorded for recorded in events if recorded.stream == self._stream.name]:
            self._events += of_build
            self.changed.set()

    async def _refresh(self) -> None:
        # Read the events before the lines, so that all lines that were stored before the events are found.
        if not self._has_begun.is_set():
            loaded = await self._services.log.load_at_version(self._stream)
            self._build, self._version, self._position = loaded.state, loaded.version, loaded.position
            attempt = 0 if self._build is None else self._build.attempt
            stored = await self._services.build_logs.count_lines(self.build_id, attempt)
            self.end = attempt, stored if self._lines_at_end is None else min(stored, self._lines_at_end)
            self._has_begun.set()
        else:
            events, self._events = self._events, []
            self._fold(readable(events))
        await self._read_lines()
        match self._build:
            case None | DeletedBuild():
                self.is_gone = True
            case Finished():
                # A client that reads `done` must find the build finished in its next GET.
                await self._services.waiter.wait(self._position)
                self.status = self._build.status
            case _:
                return
        self._wake()

    def _fold(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if recorded.version > self._version:
                self._build = BUILD.evolve(self._build, recorded.event)
                self._version, self._position = recorded.version, recorded.position

    async def _read_lines(self) -> None:
        """Reads the lines up to the present end of the log, and sets `end` to this offset. Reads the rest of an earlier
        attempt before the lines of the present one.
        """
        attempt = self.end[0] if self._build is None else self._build.attempt
        while True:
            until = self._lines_at_end if self.end[0] == attempt else None
            while (chunk := await self._chunks.load(self.build_id, self.end, until)) is not None:
                self.end = chunk.end
                self._wake()
            if self.end[0] == attempt:
                return
            self.end = (attempt, 0)
            self._wake()

    @property
    def _lines_at_end(self) -> int | None:
        """Number of lines of the log when the build ended; None if the build has not ended. Lines that were stored
        later do not belong to the log.
        """
        return self._build.log_lines if isinstance(self._build, Finished) else None

    def _wake(self) -> None:
        for client in self.clients:
            client.changed.set()


class BuildFeeds:
    """Feeds of one process: one for each build that has clients."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._chunks = LogChunkCache(services.build_logs)
        self._subscription = LogSubscription(services.log, services.listener, CHANGES)
        self._feeds: dict[int, tuple[BuildFeed, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with self._services.listener.subscribed(BUILD_LOGS, self._on_notify):
            yield

    @contextlib.contextmanager
    def registered(self, build_id: int, client: StreamClient) -> Iterator[BuildFeed]:
        """Yields the feed of a build, with the client registered until the block ends. The first client starts the
        feed, and the last one ends it.
        """
        if build_id not in self._feeds:
            feed = BuildFeed(self._services, self._chunks, self._subscription, build_id)
            self._feeds[build_id] = feed, asyncio.create_task(feed.run(), name=f"build {build_id}")
        feed, running = self._feeds[build_id]
        feed.clients.add(client)
        try:
            yield feed
        finally:
            feed.clients.discard(client)
            if not feed.clients:
                running.cancel()
                del self._feeds[build_id]
                self._chunks.drop(build_id)

    def _on_notify(self, payload: str | None) -> None:
        if payload is None:
            for feed, _ in self._feeds.values():
                feed.changed.set()
        elif entry := self._feeds.get(int(payload)):
            entry[0].changed.set()


class BuildStream:
    """Source of the messages about a build for one client (see `api.live.stream_clients`)."""

    def __init__(self, feeds: BuildFeeds, build_id: int, *, with_ids: bool, after: LogOffset | None) -> None:
        self._feeds = feeds
        self._build_id = build_id
        self._with_ids = with_ids
        self._after = after

    async def __call__(self, client: StreamClient) -> None:
        with self._feeds.registered(self._build_id, client) as feed:
            offset = await feed.begin(self._after)
            while True:
                while (chunk := await retry_until_connected(partial(feed.load_next, offset))) is not None:
                    await client.send(chunk.with_ids if self._with_ids else chunk.plain)
                    offset = chunk.end
                if feed.is_gone:
                    return
                if feed.status is not None:
                    last_id = b"id: %d:%d\n" % feed.end if self._with_ids else b""
                    done_id = b"id: %d:%d%s\n" % (*feed.end, DONE.encode()) if self._with_ids else b""
                    status = encode_message({"type": "status", "data": feed.status})
                    await client.send(last_id + status + done_id + encode_message({"type": "done"}))
                    return
                await client.wait()


async def retry_until_connected(read: Callable[[], Awaitable[T]]) -> T:
    """Returns the result of `read`. While the database cannot be reached, calls `read` again every
    `RETRY_INTERVAL_S`.
    """
    while True:
        try:
            return await read()
        except psycopg.OperationalError as error:
            log.warning("a stream waits for the database", error=str(error).strip())
            await asyncio.sleep(RETRY_INTERVAL_S)


def parse_offset(last_event_id: str | None) -> LogOffset | None:
    """Returns the offset in `Last-Event-ID`, at which a reconnecting client continues. Returns None for a new client,
    which sends no such header. Raises Invalid if the header contains no offset.
    """
    if not last_event_id:
        return None
    match = MESSAGE_ID.fullmatch(last_event_id)
    if match is None:
        raise Invalid.field("Last-Event-ID", "must be the id of a message of this stream, such as 1:250")
    return int(match[1]), int(match[2])
