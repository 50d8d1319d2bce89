"""Builds the messages of notifications from the log. A message shows the data that a GET returned when the event
happened, but leaves out what people may change at any later time. There is one exception: a message about the end of a
failed build shows the excerpts of its log that explain the failure, if they have been found by the time of the attempt.
No message waits for them.

Messages are not stored: each attempt builds the message again. So data that was erased meanwhile is missing in the
message.
"""

import asyncio
from collections.abc import MutableMapping, Sequence
from time import monotonic

import msgspec
from cachetools import TTLCache

from domain.builds import BUILD, BuildExplained, BuildFinished, BuildStarted
from domain.core.events import Event, Recorded, readable
from domain.flakiness import TestTurnedFlaky
from domain.nodes import NODE, NodeWentOffline
from domain.notifications import NotificationMessage, message_id
from domain.quarantine import TestsQuarantined
from domain.users import USER
from projections.build_views import BuildMessage, message
from projections.builds import BuildRow, CommentRow, CommentView, ExplanationRow
from projections.engine.model import Row
from projections.nodes import NodeRow, NodeView
from projections.time_travel.historical_tables import HistoricalTables
from projections.webhook_views import flaky_test, offline_node, quarantined_test
from store.log.event_log import EventLog

CACHE_SIZE = 2_000
"""Largest number of events that a process caches, and largest number of messages: enough for all deliveries within
CACHE_TTL_S.
"""
CACHE_TTL_S = 3.0
"""Seconds for which an event or message is cached: long enough to build a message once for all endpoints. A retry comes
at least 5 s later, so it builds the message again, without data that was erased meanwhile.
"""

EventAndData = tuple[Event, msgspec.Raw]
"""An event, and the `data` of the messages about it as JSON."""


class MessageBuilder:
    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._events: MutableMapping[int, Recorded] = TTLCache(CACHE_SIZE, CACHE_TTL_S, monotonic)
        self._builds: MutableMapping[tuple[int, int], asyncio.Task[EventAndData]] = TTLCache(
            CACHE_SIZE, CACHE_TTL_S, monotonic
        )

    def cache_event(self, recorded: Recorded) -> None:
        """Caches an event for CACHE_TTL_S, because this process will probably build the event's messages soon."""
        self._events[recorded.position] = recorded

    async def build(self, position: int, event_type: str, item: int, *, replay: bool) -> NotificationMessage:
        """Builds the message of type `event_type` about the event at a position. For an event about several tests,
        `item` is the index of the test. `replay` marks a message that a user asked to be sent again.

        Raises LookupError when there is no event at the position, and StreamDamaged when a stream that the message
        needs cannot be read.
        """
        key = (position, item)
        task = self._builds.get(key)
        if task is None:
            task = self._builds[key] = asyncio.create_task(self._build(position, item))
            task.add_done_callback(lambda done: self._drop_failed(key, done))
        event, data = await asyncio.shield(task)
        return NotificationMessage(
            id=message_id(position, event_type, item),
            type=event_type,
            created_at=event.at,
            project_id=getattr(event, "project_id", None),
            data=data,
            replay=True if replay else msgspec.UNSET,
        )

    def _drop_failed(self, key: tuple[int, int], task: asyncio.Task[EventAndData]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._builds.pop(key, None)  # the next attempt builds it again

    async def fetch_event(self, position: int) -> Event:
        """Returns the event at a position. Raises LookupError if there is none, StreamDamaged if it cannot be read."""
        return (await self._fetch(position)).event

    async def _fetch(self, position: int) -> Recorded:
        recorded = self._events.get(position)
        if recorded is None:
            found = await self._log.read(position - 1, 1)
            if not found or found[0].position != position:
                raise LookupError(f"there is no event at position {position}")
            (recorded,) = readable(found)
        return recorded

    async def _build(self, position: int, item: int) -> EventAndData:
        recorded = await self._fetch(position)
        return recorded.event, msgspec.Raw(msgspec.json.encode(await self._data(recorded, item)))

    async def _data(self, recorded: Recorded, item: int) -> msgspec.Struct:
        event: Event = recorded.event
        match event:
            case BuildStarted() | BuildFinished():
                return await self._build_message(event.build_id, recorded.version)
            case NodeWentOffline():
                return await self._node(event.node_id, recorded.version)
            case TestsQuarantined():
                return quarantined_test(event, item)
            case TestTurnedFlaky():
                return flaky_test(event)
            case _:
                raise LookupError(f"there are no notifications of {event.name}")

    async def _build_message(self, build_id: int, version: int) -> BuildMessage:
        tables = await self._fold((BuildRow, CommentRow, ExplanationRow), BUILD.at(build_id).name, version)
        row = tables.get(BuildRow, build_id)
        assert row is not None, "its stream holds the event"
        comments = [
            CommentView(comment.id, build_id, comment.text, await self._email(comment.author), comment.created_at)
            for comment in tables.all(CommentRow)
        ]
        return message(row, comments, tables.get(ExplanationRow, build_id))

    async def _node(self, node_id: int, version: int) -> NodeView:
        tables = await self._fold((NodeRow,), NODE.at(node_id).name, version)
        row = tables.get(NodeRow, node_id)
        assert row is not None, "its stream holds the event"
        return offline_node(row)

    async def _fold(self, rows: Sequence[type[Row]], stream: str, version: int) -> HistoricalTables:
        def add(tables: HistoricalTables, events: Sequence[Recorded]) -> HistoricalTables:
            for recorded in events:
                if recorded.version <= version or isinstance(recorded.event, BuildExplained):
                    tables.apply(recorded)
            return tables

        return (await self._log.fold([stream], lambda name: HistoricalTables(rows), add))[stream]

    async def _email(self, user_id: int) -> str:
        user = await self._log.load_state(USER.at(user_id))
        return "" if user is None or user.deleted else user.email
