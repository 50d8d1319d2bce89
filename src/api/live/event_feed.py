"""Sends the events of the log as server-sent events. Each client gets the events that its user may see.

The id of a message is the event's position. A client that reconnects with `Last-Event-ID`, to whatever process, gets
the events after that position, without a gap or a repetition.

All clients of a process share one feed, which reads and encodes each event once. The feed remembers its newest
messages. A client that needs older ones gets them from the audit trail, page by page, and users take turns at these
pages.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from api.http.permissions import User
from api.http.services import Services
from api.live.build_feed import encode_message, retry_until_connected
from api.live.stream_clients import StreamClient, refresh_callers
from domain.core.events import Recorded
from domain.projects import MemberAdmitted, ProjectCreated
from domain.registry import EVENTS
from projections import audit_trail
from projections.audit_trail import NO_PROJECT, TrailFilter
from projections.audit_view.entries import EVENT_AREAS, AuditEntry, FoldLimits, add_changes, describe_all, load_page
from store.log.subscription import LogSubscription
from store.postgres.caller_turns import CallerTurns

MAX_REMEMBERED_BYTES = 8 * 1024 * 1024
"""Largest number of bytes of the newest messages that a process remembers for clients that are a little behind."""
EVENT_BATCH = 10
"""Number of new events that are encoded at once."""
PAGE_SIZE = 100
"""Largest number of events on a page from the audit trail, for a client that needs events which the feed no longer
remembers.
"""
PAGE_READ_BYTES = 8 * 1024 * 1024
"""Number of bytes of events after which the reading of a page from the audit trail ends, even if the page has fewer
than PAGE_SIZE events.
"""
PIECE_BYTES = 256 * 1024
"""Number of bytes of messages that are sent to a client at once. For each client that does not read, this many bytes
stay in memory.
"""
CATCH_UPS = 2
"""Largest number of pages from the audit trail that a process reads at the same time, at most one for each user."""
FEED_LIMITS = FoldLimits(200, 4 * 1024 * 1024)
"""Largest number of events at the beginning of a stream, and of their bytes, that are folded to show what each event
changed. Later events of the stream are sent without their changes. Folding this much takes some 30 ms.
"""
INDEX_RETRY_S = 1.0
"""Seconds before the next attempt to read a page for a client, if the read models have not reached the end of the page
yet.
"""

FOR_EVERYBODY = {"nodes", "pools", "templates"}
"""Areas whose events all users see if the events belong to no project."""
FOR_PROJECT_ADMINS = {"audit"}
"""Areas whose events only admins of the project see."""
NOT_ONLY_FOR_ADMINS = [
    name
    for name, event in EVENTS.items()
    if "project_id" in event.__struct_fields__ or EVENT_AREAS[name] in FOR_EVERYBODY
]
"""Types of events that users who are not admins may see, within the projects that they can read."""
GRANTING = (ProjectCreated, MemberAdmitted)
"""Events after which users may see more than before."""


class FeedMessage(msgspec.Struct, frozen=True):
    """An encoded event. The fields besides `body` decide which users may see the event."""

    position: int
    type: str
    area: str
    project_id: int | None
    body: bytes


class OlderMessages(NamedTuple):
    messages: Sequence[FeedMessage]
    position: int | None
    """Position up to which `messages` are complete; None if they are complete up to the end of the range that was asked
    for.
    """


class EventFeed:
    """Feed of the newest events, encoded as messages, for all clients of a process. It runs while it has clients."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._subscription = LogSubscription(services.log, services.listener, list(EVENTS))
        self._clients: set[StreamClient] = set()
        self._running: asyncio.Task[None] | None = None
        self._has_begun = asyncio.Event()
        self._turns = CallerTurns(CATCH_UPS)
        self._messages: list[FeedMessage] = []
        self._positions: list[int] = []
        self._size = 0
        self.floor = 0
        """Position after which all messages are remembered."""
        self.position = 0
        """Position up to which all events have been encoded."""

    def __len__(self) -> int:
        return len(self._clients)

    @contextlib.contextmanager
    def registered(self, client: StreamClient) -> Iterator[None]:
        """Registers a client until the block ends. The first client starts the feed, and the last one ends it."""
        if self._running is None:
            self._has_begun = asyncio.Event()
            self._running = asyncio.create_task(self._run(self._has_begun), name="events")
        self._clients.add(client)
        try:
            yield
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._running.cancel()
                self._running = None
                self._messages, self._positions, self._size = [], [], 0

    async def begin(self, last: int | None) -> int:
        """Returns the position after which a client begins: `last`, which the client asks for, or the end of the log if
        `last` lies beyond it. If `last` is None, returns the present position of the feed.
        """
        await self._has_begun.wait()
        if last is None:
            return self.position
        return min(last, await retry_until_connected(self._services.log.read_head))

    def after(self, position: int) -> list[FeedMessage]:
        """Returns the remembered messages after a position. They are complete if the position is `floor` or later."""
        return self._messages[bisect_right(self._positions, position) :]

    async def load_older(self, wanted: TrailFilter, limit: int, caller: str) -> OlderMessages | None:
        """Returns a page of at most `limit` messages that the feed no longer remembers. Returns None if the read models
        have not yet reached the position before `wanted.before`. Simultaneous callers take turns.
        """
        services = self._services
        if not await services.waiter.wait_reached((wanted.before or 1) - 1):
            return None
        async with self._turns.take(caller):
            positions = await audit_trail.find_positions(services.pool, wanted, newest=False, limit=limit)
            page = await load_page(services.pool, services.log, positions, FEED_LIMITS, PAGE_READ_BYTES)
        found: list[FeedMessage] = []
        size = 0
        for entry in page.entries:
            if size >= PIECE_BYTES:
                break
            found.append(_message(entry))
            size += len(found[-1].body)
        if page.is_cut or len(found) < len(page.entries):
            return OlderMessages(found, found[-1].position)
        return OlderMessages(found, positions[-1] if len(positions) == limit else None)

    async def _run(self, has_begun: asyncio.Event) -> None:
        async with self._subscription.subscribed(self._take):
            self.position = self.floor = self._subscription.position
            has_begun.set()
            await asyncio.Event().wait()

    async def _take(self, events: Sequence[Recorded]) -> None:
        new = [recorded for recorded in events if recorded.position > self.position]
        if any(isinstance(recorded.event, GRANTING) for recorded in new):
            await self._services.waiter.wait_reached(new[-1].position)
            await refresh_callers(list(self._clients))
        if any(recorded.event.erases is not None for recorded in new):
            # The remembered messages may contain erased texts. Clients that are behind read them from the log again.
            self._messages, self._positions, self._size = [], [], 0
            self.floor = self.position
            new = await self._services.log.read_at([recorded.position for recorded in new])
        for start in range(0, len(new), EVENT_BATCH):
            messages = await self._encode(new[start : start + EVENT_BATCH])
            self._messages += messages
            self._positions += [message.position for message in messages]
            self._size += sum(len(message.body) for message in messages)
            self.position = self._positions[-1]
        self._drop_oldest()
        for client in self._clients:
            client.changed.set()

    def _drop_oldest(self) -> None:
        dropped = 0
        while self._size > MAX_REMEMBERED_BYTES and dropped < len(self._messages):
            self._size -= len(self._messages[dropped].body)
            self.floor = self._messages[dropped].position
            dropped += 1
        del self._messages[:dropped], self._positions[:dropped]

    async def _encode(self, events: Sequence[Recorded]) -> list[FeedMessage]:
        pool, log = self._services.pool, self._services.log
        return [
            _message(entry) for entry in await add_changes(pool, log, await describe_all(pool, events), FEED_LIMITS)
        ]


def _message(entry: AuditEntry) -> FeedMessage:
    fields = msgspec.structs.asdict(entry)
    outer = {name: fields.pop(name) for name in ("position", "type", "at", "project_id", "stream")}
    body = b"id: %d\n" % entry.position + encode_message(outer | {"data": fields})
    return FeedMessage(entry.position, entry.type, entry.area, entry.project_id, body)


class EventStream:
    """Source of the messages about events for one client (see `api.live.stream_clients`)."""

    def __init__(self, feed: EventFeed, project_id: int | None, types: Sequence[str] | None, last: int | None) -> None:
        self._feed = feed
        self._project_id = project_id
        self._types = types
        self._last = last
        self._position = 0
        self._page_size = PAGE_SIZE

    async def __call__(self, client: StreamClient) -> None:
        with self._feed.registered(client):
            self._position = await self._feed.begin(self._last)
            await client.send(b"id: %d\n\n" % self._position)
            while True:
                if self._position < self._feed.floor:
                    await self._catch_up(client)
                    continue
                reached = self._feed.position
                # Only a piece, so that a client which reads slowly does not keep messages that the feed has dropped.
                piece, sent = self._next_piece(client.user, self._feed.after(self._position))
                if piece:
                    await client.send(piece)
                self._position = max(self._position, reached if sent is None else sent)
                if sent is None:
                    await client.wait()

    def may_read(self, user: User) -> bool:
        return self._project_id is None or user.may("read", self._project_id)

    def keep_alive(self) -> bytes:
        """Returns a comment whose id is the present position. A client that reconnects sends this id, even if its user
        may see none of the events up to it. So the server need not read these events again.
        """
        return b": still here\nid: %d\n\n" % self._position

    async def _catch_up(self, client: StreamClient) -> None:
        """Sends the client one page of messages that the feed no longer remembers."""
        floor = self._feed.floor
        wanted = TrailFilter(
            self._projects(client.user), types=self._visible_types(client.user), after=self._position, before=floor + 1
        )
        older = await retry_until_connected(partial(self._feed.load_older, wanted, self._page_size, client.user.actor))
        if older is None:
            await asyncio.sleep(INDEX_RETRY_S)
            return
        piece, _ = self._next_piece(client.user, older.messages)
        if piece:
            await client.send(piece)
        self._position = floor if older.position is None else older.position
        # After a page with few messages, since they are large, the next page reads no more than it can send.
        self._page_size = min(PAGE_SIZE, 2 * len(older.messages) or PAGE_SIZE)

    def _next_piece(self, user: User, messages: Sequence[FeedMessage]) -> tuple[bytes, int | None]:
        """Returns the joined bodies of those `messages` that the client wants and its user may see. Stops as soon as
        they have PIECE_BYTES, and then also returns the position of the last message in the result. Otherwise returns
        None as the position.
        """
        bodies: list[bytes] = []
        size = 0
        for message in messages:
            if self._is_wanted(message) and may_see(user, message):
                bodies.append(message.body)
                size += len(message.body)
                if size >= PIECE_BYTES:
                    return b"".join(bodies), message.position
        return b"".join(bodies), None

    def _is_wanted(self, message: FeedMessage) -> bool:
        return (self._project_id is None or message.project_id == self._project_id) and (
            self._types is None or message.type in self._types
        )

    def _projects(self, user: User) -> list[int] | None:
        if self._project_id is not None:
            return [self._project_id]
        return None if user.projects is None else [*user.projects, NO_PROJECT]

    def _visible_types(self, user: User) -> Sequence[str] | None:
        if user.is_admin or self._project_id is not None:
            return self._types
        return [name for name in NOT_ONLY_FOR_ADMINS if self._types is None or name in self._types]


def may_see(user: User, message: FeedMessage) -> bool:
    if user.is_admin:
        return True
    if message.project_id is None:
        return message.area in FOR_EVERYBODY
    return user.may("admin" if message.area in FOR_PROJECT_ADMINS else "read", message.project_id)
