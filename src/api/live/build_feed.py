"""A build's log as server-sent events: exactly the documented `data:` lines.

With ids each message carries `attempt:line`, and a reader that comes back with `Last-Event-ID` goes on after it,
nothing lost or doubled, at any process. All readers of a build in a process share one feed: it looks for new lines at
most every REST_S, and each line is read and written as a message once.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import TypeVar

import msgspec
import psycopg
import structlog

from api.http.services import Services
from api.live.readers import Reader
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildAssigned,
    BuildDeleted,
    BuildFinished,
    BuildRequeued,
    BuildStarted,
    Deleted,
    Finished,
    Verdict,
)
from domain.core.errors import StreamDamaged
from domain.core.events import Recorded, readable
from store.log.subscription import LogSubscription
from store.postgres.notifications import BUILD_LOGS, wait_for
from store.tables.build_logs import BuildLogs, Line

log = structlog.get_logger()

T = TypeVar("T")

REST_S = 0.1
"""Between two looks that find lines: many lines are one message to each reader."""
LOOK_AGAIN_S = 1.0
TRY_AGAIN_S = 0.5
KEPT = 8 * 1024 * 1024
"""Bytes of messages that a process keeps for readers that are a little behind."""
MAX_ID_LENGTH = 100
"""Characters of a message's id; Python reads no number of thousands of digits."""
STILL_HERE = b": still here\n\n"
CHANGES = [event.name for event in (BuildAssigned, BuildRequeued, BuildStarted, BuildFinished, BuildDeleted)]

Place = tuple[int, int]
"""An attempt, and how many of its lines one has."""


def shown(line: Line) -> str:
    """`[10:00:05] PASSED tests/test_api.py::test_login`, in UTC."""
    seconds = line.at_ms // 1000 % 86_400  # whatever an agent's clock says
    return f"[{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}] {line.text}"


def data(message: object) -> bytes:
    # Some clients split lines at these too; in JSON they can be written otherwise.
    text = msgspec.json.encode(message).decode()
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
    return f"data: {text}\n\n".encode()


class Piece:
    """Lines that follow each other, as messages."""

    def __init__(self, attempt: int, first: int, lines: Sequence[Line]) -> None:
        self.end: Place = (attempt, first + len(lines))
        self._numbered = range(first + 1, first + len(lines) + 1)
        self._messages = [data({"type": "log", "data": shown(line)}) for line in lines]
        self.size = sum(map(len, self._messages))

    @cached_property
    def plain(self) -> bytes:
        return b"".join(self._messages)

    @cached_property
    def with_ids(self) -> bytes:
        attempt, _ = self.end
        numbered = zip(self._numbered, self._messages, strict=True)
        return b"".join(b"id: %d:%d\n%b" % (attempt, number, message) for number, message in numbered)


class Pieces:
    """What was read last, of all builds. What many ask for at once is read once."""

    def __init__(self, build_logs: BuildLogs) -> None:
        self._logs = build_logs
        self._kept: dict[tuple[int, Place], Piece] = {}
        self._size = 0
        self._under_way: dict[tuple[int, Place], asyncio.Task[Piece | None]] = {}

    async def after(self, build_id: int, place: Place, until: int | None = None) -> Piece | None:
        """What follows a place, up to line `until` at most; None where nothing does."""
        key = (build_id, place)
        if (piece := self._kept.get(key)) is not None:
            return piece
        if (reading := self._under_way.get(key)) is None:
            reading = self._under_way[key] = asyncio.create_task(self._read(key, until))
            reading.add_done_callback(partial(self._is_read, key))
        # Whoever gives up does not take it from the others.
        return await asyncio.shield(reading)

    def _is_read(self, key: tuple[int, Place], reading: asyncio.Task[Piece | None]) -> None:
        del self._under_way[key]
        if not reading.cancelled():
            reading.exception()  # who asked may be gone, and then it is nobody's

    async def _read(self, key: tuple[int, Place], until: int | None) -> Piece | None:
        build_id, (attempt, first) = key
        lines = await self._logs.read_page(build_id, attempt, first)
        if until is not None:
            lines = lines[: until - first]
        if not lines:
            return None
        piece = self._kept[key] = Piece(attempt, first, lines)
        self._size += piece.size
        while self._size > KEPT and len(self._kept) > 1:
            self._size -= self._kept.pop(next(iter(self._kept))).size
        return piece

    def forget(self, build_id: int) -> None:
        for key in [key for key in self._kept if key[0] == build_id]:
            self._size -= self._kept.pop(key).size


class BuildFeed:
    """How far a build is, for its readers."""

    def __init__(self, services: Services, pieces: Pieces, log_subscription: LogSubscription, build_id: int) -> None:
        self._services = services
        self._pieces = pieces
        self._log_subscription = log_subscription
        self.build_id = build_id
        self.readers: set[Reader] = set()
        self.end: Place = (0, 0)
        self.status: Verdict | None = None
        """Once it is finished, and all of its lines are known."""
        self.is_gone = False
        self.news = asyncio.Event()
        self._begun = asyncio.Event()
        self._stream = BUILD.at(build_id)
        self._build: AnyBuild | None = None
        self._position = 0
        self._version = 0
        self._taken: list[Recorded] = []
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Until the build has ended."""
        try:
            async with self._log_subscription.subscribed(self._take):
                # Cancelled without readers; a wait for the database may lose that (`store.postgres.cancellation`).
                while self.status is None and not self.is_gone and self.readers:
                    self.news.clear()
                    had, began = self.end, time.monotonic()
                    await patiently(self.look)
                    if self.end != had:
                        await asyncio.sleep(REST_S - (time.monotonic() - began))
                    await wait_for(self.news, LOOK_AGAIN_S)
        except StreamDamaged as error:
            log.error("a build's stream ends early", build=self.build_id, detail=error.detail)
        finally:
            # Whatever happened, nobody waits for it in vain.
            self.is_gone = self.status is None
            self._begun.set()
            self._wake()

    async def look(self) -> None:
        """Takes in what is stored by now."""
        async with self._looking:
            await self._look()

    async def begin(self, last_event_id: str | None) -> Place:
        """Where a reader begins: after what it has, at the attempt's beginning when the id is not one of ours."""
        await self._begun.wait()
        place = _place(last_event_id)
        if place is not None and place > self.end and self.status is None:
            await patiently(self.look)  # Another process may have told it more than this one knows.
        return (self.end[0], 0) if place is None or place > self.end else place

    async def after(self, place: Place) -> Piece | None:
        """What follows a place by now, attempts that it missed included; None at the end of what is known."""
        while place < self.end:
            is_last = place[0] == self.end[0]
            piece = await self._pieces.after(self.build_id, place, self.end[1] if is_last else None)
            if piece is not None:
                return piece
            if is_last:
                # What was there has been deleted.
                self.is_gone = True
                return None
            place = (place[0] + 1, 0)
        return None

    async def _take(self, events: Sequence[Recorded]) -> None:
        if taken := [recorded for recorded in events if recorded.stream == self._stream.name]:
            self._taken += taken
            self.news.set()

    async def _look(self) -> None:
        # The build first: what was stored before it moved on is found by the reading that follows.
        if not self._begun.is_set():
            self._fold((await self._services.log.load([self._stream.name]))[self._stream.name])
            attempt = 0 if self._build is None else self._build.attempt
            self.end = attempt, await self._services.build_logs.count_lines(self.build_id, attempt)
            self._begun.set()
        else:
            taken, self._taken = self._taken, []
            self._fold(readable(taken))
        await self._read()
        match self._build:
            case None | Deleted():
                self.is_gone = True
            case Finished():
                # Whoever reads `done` may ask for the build next, and should find it finished.
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

    async def _read(self) -> None:
        """The rest of the attempt that was known, then the attempt by now."""
        attempt = self.end[0] if self._build is None else self._build.attempt
        while True:
            while (piece := await self._pieces.after(self.build_id, self.end)) is not None:
                self.end = piece.end
                self._wake()
            if self.end[0] == attempt:
                return
            self.end = (attempt, 0)
            self._wake()

    def _wake(self) -> None:
        for reader in self.readers:
            reader.news.set()


class BuildFeeds:
    """Of one process: a feed for each build that somebody reads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pieces = Pieces(services.build_logs)
        self._log_subscription = LogSubscription(services.log, services.listener, CHANGES)
        self._feeds: dict[int, tuple[BuildFeed, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with self._services.listener.subscribed(BUILD_LOGS, self._notified):
            yield

    @contextlib.contextmanager
    def reading(self, build_id: int, reader: Reader) -> Iterator[BuildFeed]:
        """The build's feed; its first reader starts it, its last one ends it."""
        if build_id not in self._feeds:
            feed = BuildFeed(self._services, self._pieces, self._log_subscription, build_id)
            self._feeds[build_id] = feed, asyncio.create_task(feed.run(), name=f"build {build_id}")
        feed, running = self._feeds[build_id]
        feed.readers.add(reader)
        try:
            yield feed
        finally:
            feed.readers.discard(reader)
            if not feed.readers:
                running.cancel()
                del self._feeds[build_id]
                self._pieces.forget(build_id)

    def _notified(self, payload: str | None) -> None:
        if payload is None:
            for feed, _ in self._feeds.values():
                feed.news.set()
        elif entry := self._feeds.get(int(payload)):
            entry[0].news.set()


class BuildStream:
    """What one reader of a build is sent."""

    def __init__(self, feeds: BuildFeeds, build_id: int, *, with_ids: bool, after: str | None) -> None:
        self._feeds = feeds
        self._build_id = build_id
        self._with_ids = with_ids
        self._last_event_id = after

    async def __call__(self, reader: Reader) -> None:
        with self._feeds.reading(self._build_id, reader) as feed:
            place = await feed.begin(self._last_event_id)
            while True:
                while (piece := await patiently(partial(feed.after, place))) is not None:
                    await reader.send(piece.with_ids if self._with_ids else piece.plain)
                    place = piece.end
                if feed.is_gone:
                    return
                if feed.status is not None:
                    last_id = b"id: %d:%d\n" % feed.end if self._with_ids else b""
                    ends = data({"type": "status", "data": feed.status}), data({"type": "done"})
                    await reader.send(b"".join(last_id + message for message in ends))
                    return
                await reader.wait()


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """As soon as the database answers."""
    while True:
        try:
            return await read()
        except psycopg.OperationalError as error:
            log.warning("a stream waits for the database", error=str(error).strip())
            await asyncio.sleep(TRY_AGAIN_S)


def _place(last_event_id: str | None) -> Place | None:
    attempt, _, line = (last_event_id or "")[:MAX_ID_LENGTH].partition(":")
    return (int(attempt), int(line)) if attempt.isdecimal() and line.isdecimal() and int(attempt) > 0 else None
