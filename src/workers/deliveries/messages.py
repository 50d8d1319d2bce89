"""What is told of an event: the representation that a GET had at that moment, made again from the log.

So a message is not stored, is the same whenever it is sent, and what was erased in between is erased in it.
"""

import asyncio
from collections.abc import MutableMapping
from time import monotonic

import msgspec
from cachetools import TTLCache

from domain.builds import BUILD, BuildFinished, BuildStarted
from domain.core.events import Event, Recorded, readable
from domain.deliveries import Message, message_id
from domain.flakiness import TestTurnedFlaky
from domain.nodes import NODE, NodeWentOffline
from domain.quarantine import TestsQuarantined
from domain.users import USER
from projections.builds import BuildRow, CommentRow
from projections.builds_views import BuildDetail, CommentView, detail
from projections.nodes import NodeRow, NodeView
from projections.time_travel.historical_tables import PastTables
from projections.webhook_views import flaky_test, offline_node, quarantined_test
from store.log.event_log import EventLog

CACHED = 2_000
CACHED_S = 3.0
"""Made once for all who are told at once. A later attempt sees what was erased since."""


Made = tuple[Event, msgspec.Raw]
"""What happened, and the `data` of what is told of it."""


class Messages:
    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._events: MutableMapping[int, Recorded] = TTLCache(CACHED, CACHED_S, monotonic)
        self._made: MutableMapping[tuple[int, int], asyncio.Task[Made]] = TTLCache(CACHED, CACHED_S, monotonic)

    def expect(self, recorded: Recorded) -> None:
        """It will be told of soon, probably by this process."""
        self._events[recorded.position] = recorded

    async def of(self, position: int, event_type: str, item: int, *, replay: bool) -> Message:
        """Raises LookupError when there is nothing at the position, StreamDamaged when what it needs cannot be read."""
        making = self._made.get((position, item))
        if making is None:
            making = self._made[position, item] = asyncio.create_task(self._make(position, item))
            making.add_done_callback(lambda task: self._is_made((position, item), task))
        event, data = await asyncio.shield(making)
        return Message(
            id=message_id(position, event_type, item),
            type=event_type,
            created_at=event.at,
            project_id=getattr(event, "project_id", None),
            data=data,
            replay=True if replay else msgspec.UNSET,
        )

    def _is_made(self, place: tuple[int, int], making: asyncio.Task[Made]) -> None:
        if making.cancelled() or making.exception() is not None:
            self._made.pop(place, None)  # the next one tries anew

    async def event(self, position: int) -> Event:
        """Raises LookupError when there is nothing at the position."""
        return (await self._recorded(position)).event

    async def _recorded(self, position: int) -> Recorded:
        recorded = self._events.get(position)
        if recorded is None:
            found = await self._log.read(position - 1, 1)
            if not found or found[0].position != position:
                raise LookupError(f"there is no event at position {position}")
            (recorded,) = readable(found)
        return recorded

    async def _make(self, position: int, item: int) -> Made:
        recorded = await self._recorded(position)
        return recorded.event, msgspec.Raw(msgspec.json.encode(await self._shown(recorded, item)))

    async def _shown(self, recorded: Recorded, item: int) -> msgspec.Struct:
        event: Event = recorded.event
        match event:
            case BuildStarted() | BuildFinished():
                return await self._build(event.build_id, recorded.version)
            case NodeWentOffline():
                return await self._node(event.node_id, recorded.version)
            case TestsQuarantined():
                return quarantined_test(event, item)
            case TestTurnedFlaky():
                return flaky_test(event)
            case _:
                raise LookupError(f"nothing is told of {event.name}")

    async def _build(self, build_id: int, version: int) -> BuildDetail:
        tables = PastTables((BuildRow, CommentRow))
        await self._fold(tables, BUILD.at(build_id).name, version)
        row = tables.get(BuildRow, build_id)
        assert row is not None, "it is told of what happened to it"
        comments = [
            CommentView(comment.id, build_id, comment.text, await self._email(comment.author), comment.created_at)
            for comment in tables.all(CommentRow)
        ]
        return detail(row, None, comments)

    async def _node(self, node_id: int, version: int) -> NodeView:
        tables = PastTables((NodeRow,))
        await self._fold(tables, NODE.at(node_id).name, version)
        row = tables.get(NodeRow, node_id)
        assert row is not None, "it is told of what happened to it"
        return offline_node(row)

    async def _fold(self, tables: PastTables, stream: str, version: int) -> None:
        for recorded in (await self._log.load([stream]))[stream]:
            if recorded.version <= version:
                tables.apply(recorded)

    async def _email(self, user_id: int) -> str:
        user = await self._log.load_state(USER.at(user_id))
        return "" if user is None or user.deleted else user.email
