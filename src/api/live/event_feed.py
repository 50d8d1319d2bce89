"""Everything that happens, as server-sent events, as far as the caller may see it.

The id of a message is its position in the log, so a reader that comes back with `Last-Event-ID` goes on after it,
nothing lost or doubled, at any process. All readers of a process share one feed that reads and tells each event once;
who is further behind than the feed remembers is told from the audit trail's index, in pages.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, get
from litestar.params import Parameter

from api.audit import types_of
from api.http.permissions import User
from api.http.request_context import RequestContext
from api.http.services import Services
from api.http.types import MAX_ID
from api.live.build_feed import data, patiently
from api.live.readers import MEDIA_TYPE, LiveStream, Reader, ask
from domain.core.errors import Invalid, NotFound
from domain.core.events import Recorded
from domain.projects import MemberAdmitted, ProjectCreated
from domain.registry import EVENTS
from projections import audit_trail
from projections.audit_trail import NO_PROJECT, TrailFilter
from projections.audit_view.entries import AREA_OF, AT_ONCE, SHORT_STREAM, Change, told, with_changes
from store.log.subscription import LogSubscription

KEPT = 8 * 1024 * 1024
"""Bytes of messages that a process keeps for readers that are a little behind."""
PAGE = 100
TRY_AGAIN_S = 1.0

FOR_EVERYBODY = {"nodes", "pools", "templates"}
"""Areas whose events concern all who are signed in, where they belong to no project."""
FOR_ADMINS = {"audit"}
"""Areas that a project's admins see of it."""
NOT_FOR_ADMINS_ALONE = [
    name for name, event in EVENTS.items() if "project_id" in event.__struct_fields__ or AREA_OF[name] in FOR_EVERYBODY
]
GRANTING = (ProjectCreated, MemberAdmitted)
"""After these, readers may see more than before."""


class Facts(msgspec.Struct, frozen=True):
    version: int
    area: str
    actor: str
    actor_name: str | None
    correlation_id: str
    causation: int | None
    erased: bool
    summary: str
    changes: list[Change] | None
    """Null for an event in a long stream."""


class Message(msgspec.Struct, frozen=True):
    position: int
    type: str
    at: datetime
    project_id: int | None
    stream: str
    data: Facts


class Item(msgspec.Struct, frozen=True):
    """An event as it is sent, and what decides who may have it."""

    position: int
    type: str
    area: str
    project_id: int | None
    body: bytes


class EventsFeed:
    """Of one process. Runs while it has readers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log_subscription = LogSubscription(services.log, services.listener, list(EVENTS))
        self._readers: set[Reader] = set()
        self._running: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._items: list[Item] = []
        self._positions: list[int] = []
        self._size = 0
        self.floor = 0
        """What came after it is remembered."""
        self.position = 0
        """Up to here everything has been told."""

    def __len__(self) -> int:
        return len(self._readers)

    @contextlib.contextmanager
    def reading(self, reader: Reader) -> Iterator[None]:
        """Its first reader starts it, its last one ends it."""
        if self._running is None:
            self._begun = asyncio.Event()
            self._running = asyncio.create_task(self._run(self._begun), name="events")
        self._readers.add(reader)
        try:
            yield
        finally:
            self._readers.discard(reader)
            if not self._readers:
                self._running.cancel()
                self._running = None
                self._items, self._positions, self._size = [], [], 0

    async def begin(self, last: int | None) -> int:
        """The position after which a reader begins; what is not in the log yet is not waited for."""
        await self._begun.wait()
        if last is None:
            return self.position
        return min(last, await patiently(self._services.log.read_head))

    def after(self, position: int) -> list[Item]:
        """What is remembered; complete from `floor` on."""
        return self._items[bisect_right(self._positions, position) :]

    async def older(self, wanted: TrailFilter) -> list[Item] | None:
        """A page of what happened before `wanted.before`, from the log; None while its index is not there yet."""
        services = self._services
        if not await services.waiter.reached((wanted.before or 1) - 1):
            return None
        async with services.pool.connection() as connection:
            positions = await audit_trail.find_positions(connection, wanted, newest=False, limit=PAGE)
        items: list[Item] = []
        for start in range(0, len(positions), AT_ONCE):
            items += await self._told(await services.log.read_at(positions[start : start + AT_ONCE]))
        return items

    async def _run(self, begun: asyncio.Event) -> None:
        async with self._log_subscription.subscribed(self._take):
            self.position = self.floor = self._log_subscription.position
            begun.set()
            await asyncio.Event().wait()

    async def _take(self, events: Sequence[Recorded]) -> None:
        fresh = [recorded for recorded in events if recorded.position > self.position]
        if any(isinstance(recorded.event, GRANTING) for recorded in fresh):
            await self._services.waiter.reached(fresh[-1].position)
            await ask(list(self._readers))
        if any(recorded.event.erases is not None for recorded in fresh):
            # What was told of it before is not told again: who asks for it is told from the log.
            self._forget()
            fresh = await self._services.log.read_at([recorded.position for recorded in fresh])
        for start in range(0, len(fresh), AT_ONCE):
            items = await self._told(fresh[start : start + AT_ONCE])
            self._items += items
            self._positions += [item.position for item in items]
            self._size += sum(len(item.body) for item in items)
            self.position = self._positions[-1]
        self._trim()
        for reader in self._readers:
            reader.news.set()

    def _forget(self) -> None:
        self._items, self._positions, self._size = [], [], 0
        self.floor = self.position

    def _trim(self) -> None:
        gone = 0
        while self._size > KEPT and gone < len(self._items):
            self._size -= len(self._items[gone].body)
            self.floor = self._items[gone].position
            gone += 1
        del self._items[:gone], self._positions[:gone]

    async def _told(self, events: Sequence[Recorded]) -> list[Item]:
        services = self._services
        async with services.pool.connection() as connection:
            names = await audit_trail.fetch_actor_names(connection, {recorded.event.actor for recorded in events})
        said = [told(recorded, names.get(recorded.event.actor)) for recorded in events]
        short = [one for one in said if one.version <= SHORT_STREAM]
        changes = {one.position: one.changes for one in await with_changes(services.log, short)}
        return [
            Item(
                one.position,
                one.type,
                one.area,
                one.project_id,
                b"id: %d\n" % one.position
                + data(
                    Message(
                        one.position,
                        one.type,
                        one.at,
                        one.project_id,
                        one.stream,
                        Facts(
                            one.version,
                            one.area,
                            one.actor,
                            one.actor_name,
                            one.correlation_id,
                            one.causation,
                            one.erased,
                            one.summary,
                            changes.get(one.position),
                        ),
                    )
                ),
            )
            for one in said
        ]


class EventsStream:
    """What one reader is sent."""

    def __init__(self, feed: EventsFeed, project_id: int | None, types: Sequence[str] | None, last: int | None) -> None:
        self._feed = feed
        self._project_id = project_id
        self._types = types
        self._last = last
        self._place = 0

    async def __call__(self, reader: Reader) -> None:
        with self._feed.reading(reader):
            self._place = await self._feed.begin(self._last)
            await reader.send(b"id: %d\n\n" % self._place)
            while True:
                if self._place < self._feed.floor:
                    await self._catch_up(reader)
                    continue
                upto = self._feed.position
                await self._send(reader, self._feed.after(self._place))
                self._place = max(self._place, upto)
                await reader.wait()

    def may_read(self, user: User) -> bool:
        return self._project_id is None or user.may("read", self._project_id)

    def keep_alive(self) -> bytes:
        """With an id: who asks for little does not go through all the rest again when it comes back."""
        return b": still here\nid: %d\n\n" % self._place

    async def _catch_up(self, reader: Reader) -> None:
        """One page of what the feed does not remember."""
        floor = self._feed.floor
        wanted = TrailFilter(
            self._projects(reader.user), types=self._of_interest(reader.user), after=self._place, before=floor + 1
        )
        items = await patiently(partial(self._feed.older, wanted))
        if items is None:
            await asyncio.sleep(TRY_AGAIN_S)
            return
        await self._send(reader, items)
        self._place = items[-1].position if len(items) == PAGE else floor

    async def _send(self, reader: Reader, items: Sequence[Item]) -> None:
        if visible := b"".join(item.body for item in items if self._is_wanted(item) and sees(reader.user, item)):
            await reader.send(visible)

    def _is_wanted(self, item: Item) -> bool:
        return (self._project_id is None or item.project_id == self._project_id) and (
            self._types is None or item.type in self._types
        )

    def _projects(self, user: User) -> list[int] | None:
        if self._project_id is not None:
            return [self._project_id]
        return None if user.projects is None else [*user.projects, NO_PROJECT]

    def _of_interest(self, user: User) -> Sequence[str] | None:
        if user.is_admin or self._project_id is not None:
            return self._types
        return [name for name in NOT_FOR_ADMINS_ALONE if self._types is None or name in self._types]


def sees(user: User, item: Item) -> bool:
    if user.is_admin:
        return True
    if item.project_id is None:
        return item.area in FOR_EVERYBODY
    return user.may("admin" if item.area in FOR_ADMINS else "read", item.project_id)


class EventController(Controller):
    path = "/events"
    tags = ["Events"]

    @get("/stream", media_type=MEDIA_TYPE)
    async def stream(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        project_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only what belongs to this project")
        ] = None,
        type: Annotated[
            list[str] | None,
            Parameter(max_items=100, description="Only these types of events, repeated or with commas between them"),
        ] = None,
    ) -> LiveStream:
        """Server-sent events: what happens from now on, or after `Last-Event-ID`, a position in the log. Each message
        is `{position, type, at, project_id, stream, data}`; `data` says it in words and fields, as the audit trail
        does.
        """
        names = [name for part in type or () for name in part.split(",")]
        types = None if type is None else [known for name in names for known in types_of(None, name) or ()]
        if project_id is not None:
            request.user.must("read", project_id, f"project {project_id}")
            async with ctx.reading() as connection:
                if not await audit_trail.has_project(connection, project_id):
                    raise NotFound(f"There is no project {project_id}.")
        streams = request.app.state.streams
        source = EventsStream(streams.events, project_id, types, position_of(request.headers.get("last-event-id")))
        return LiveStream(streams.readers, Reader(request, source.may_read, source.keep_alive), source)


def position_of(last_event_id: str | None) -> int | None:
    if last_event_id is None or last_event_id == "":
        return None
    is_number = last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 17
    if not (is_number and int(last_event_id) <= MAX_ID):
        raise Invalid.field("Last-Event-ID", "must be the id of a message, which is a position in the log")
    return int(last_event_id)
