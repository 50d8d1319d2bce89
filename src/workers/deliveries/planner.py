"""From the log to deliveries: follows what happens and notes who has to be told.

New deliveries are written in the transaction that moves the follower's own position, so none is lost and none is noted
twice. Whoever is subscribed is read out of the same log, in the same order: an endpoint is told what happened after it
was registered, whatever the read models show by then. Redis has no part in it.
"""

import secrets as random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.errors import StreamDamaged
from domain.core.events import Event, Recorded, readable
from domain.deliveries import SOURCES, chosen, wants
from domain.nodes import NODE, NodeWentOffline
from domain.pools import POOL
from domain.projects import ProjectDeleted
from domain.teams import ChannelDeleted, ChannelRegistered, ChannelUpdated
from domain.webhooks import RedeliveryRequested, ReplayRequested, WebhookDeleted, WebhookRegistered, WebhookUpdated
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.notifications import Listener
from store.tables import deliveries, delivery_targets, log_positions, reactions
from store.tables.deliveries import Endpoint, New
from workers.deliveries.messages import Messages
from workers.loops.outages import patient

log = structlog.get_logger()

NAME = "webhooks"
BATCH_SIZE = 200
"""Events."""
POLL_INTERVAL_S = 5.0
DEBOUNCE_S = 0.01
"""Between two reads of the log, so that a burst of events costs few."""
REPLAYS_AHEAD = 1_000
"""A replay goes on while fewer of its deliveries than this are open."""

CHANGING = (WebhookRegistered, WebhookUpdated, ChannelRegistered, ChannelUpdated)
"""After these other events may be wanted."""
OWN = (*CHANGING, WebhookDeleted, ChannelDeleted, ProjectDeleted, ReplayRequested, RedeliveryRequested)


class DeliveryPlanner:
    def __init__(
        self,
        pool: AsyncConnectionPool,
        event_log: EventLog,
        messages: Messages,
        listener: Listener,
        clock: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._log = event_log
        self._messages = messages
        self._clock = clock
        self._cursor = LogCursor(event_log, listener, (), poll_interval_s=POLL_INTERVAL_S, debounce_s=DEBOUNCE_S)

    async def run(self) -> None:
        """Runs until it is cancelled. Any number of these may run at once."""
        await self._cursor.follow(self._catch_up_if_possible)

    async def _catch_up_if_possible(self) -> None:
        async with patient("deliveries"):
            await self.catch_up()

    async def catch_up(self) -> None:
        """Until there is nothing new; what was parked and is asked for again; replays as far as they may go now."""
        is_more = True
        while is_more:
            waiting = await self._look()
            if waiting.news:
                await self._follow()
            has_retried = waiting.parked and await self._retry()
            has_replayed = waiting.replays and await self._replay()
            # What is new may ask for a replay, or follow what was read.
            is_more = waiting.news or has_retried or has_replayed

    async def _look(self) -> delivery_targets.Waiting:
        async with self._pool.connection() as connection:
            # Set before the log is looked at: an append after the look notifies.
            self._cursor.names = names = _names(OWN, _wanted(await deliveries.endpoints(connection)))
            return await delivery_targets.waiting(connection, NAME, names, log_positions.MIN_SKIP)

    async def _follow(self) -> None:
        """One batch."""
        async with self._pool.connection() as connection, connection.transaction():
            # From the first event on: nobody is told anything before the first webhook is registered.
            await log_positions.ensure_positions(connection, [NAME], at_head=False)
            position = await log_positions.lock_position(connection, NAME)
            assert position is not None, "ensured before"
            endpoints = await deliveries.endpoints(connection)
            events, position, _ = await self._log.read_batch(position, BATCH_SIZE, _names(OWN, _wanted(endpoints)))
            # Other events may be wanted after these: those that follow are read again.
            cut = next((number for number, item in enumerate(events, 1) if isinstance(item.event, CHANGING)), None)
            if cut is not None:
                events, position = events[:cut], events[cut - 1].position
            await self._take(connection, events, endpoints)
            await log_positions.move_position(connection, NAME, position)
            if events:
                await delivery_targets.notify_due(connection)

    async def _take(
        self, connection: AsyncConnection, events: Sequence[Recorded], endpoints: Sequence[Endpoint]
    ) -> None:
        alive = {endpoint.id: endpoint for endpoint in endpoints}
        new: list[New] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, OWN):
                # What was noted before it must be there before it is changed.
                await self._add(connection, new)
                await delivery_targets.apply(connection, recorded, self._clock())
                new = []
                if isinstance(event, WebhookDeleted):
                    alive.pop(event.webhook_id, None)
                elif isinstance(event, ChannelDeleted):
                    alive.pop(event.channel_id, None)
                elif isinstance(event, ProjectDeleted):
                    alive = {key: one for key, one in alive.items() if one.project_id != event.project_id}
                continue
            try:
                project_id = await self._project_of(recorded)
            except StreamDamaged as error:
                log.error("event parked", follower=NAME, position=recorded.position, error=error.detail)
                await reactions.park(connection, NAME, recorded.position, error.detail)
                continue
            self._messages.expect(recorded)
            new += fan_out(recorded, alive.values(), project_id, replay=False)
        await self._add(connection, new)

    async def _retry(self) -> bool:
        """What was parked and is asked for again, as of now; whether there may be more."""
        async with self._pool.connection() as connection, connection.transaction():
            due = await reactions.lease_due(connection, [NAME], BATCH_SIZE)
            events = await self._log.read_at(sorted(one.position for one in due))
            for one in due:
                await reactions.mark_done(connection, one)
            await self._take(connection, events, await deliveries.endpoints(connection))
        return bool(due)

    async def _replay(self) -> bool:
        """One batch of one replay; whether there may be more."""
        async with self._pool.connection() as connection, connection.transaction():
            found = await delivery_targets.replay(connection, REPLAYS_AHEAD)
            if found is None:
                return False
            replay, endpoint, position, up_to = found
            batch = await self._log.read_batch(position, BATCH_SIZE, _names((), endpoint.events), up_to)
            new: list[New] = []
            for recorded in batch.events:
                try:
                    project_id = await self._project_of(recorded)
                except StreamDamaged as error:
                    log.error("event left out of a replay", position=recorded.position, error=error.detail)
                    continue
                new += fan_out(recorded, (endpoint,), project_id, replay=True)
            await self._add(connection, new)
            await delivery_targets.move_replay(connection, replay, batch.position, up_to)
        return True

    async def _add(self, connection: AsyncConnection, new: Sequence[New]) -> None:
        if new:
            await deliveries.add(connection, new, self._clock())

    async def _project_of(self, recorded: Recorded) -> int | None:
        """The project that an event belongs to; of a node that of its pool. Raises StreamDamaged."""
        readable([recorded])
        event = recorded.event
        if not isinstance(event, NodeWentOffline):
            return getattr(event, "project_id", None)
        node = await self._log.load_state(NODE.at(event.node_id))
        if node is None or node.pool_id is None:
            return None
        pool = await self._log.load_state(POOL.at(node.pool_id))
        return None if pool is None else pool.project_id


def fan_out(
    recorded: Recorded, endpoints: Iterable[Endpoint], project_id: int | None, *, replay: bool
) -> Iterable[New]:
    """Who has to be told what of an event. A replay has lanes of its own: what happens now does not wait for it."""
    for endpoint in endpoints:
        if endpoint.active and wants(endpoint.project_id, project_id):
            for occasion in chosen(endpoint.kind, endpoint.events, recorded.event):
                lane = f"replay:{occasion.lane}" if replay and occasion.lane is not None else occasion.lane
                yield New(new_delivery_id(), endpoint.id, recorded.position, occasion.type, occasion.item, lane, replay)


def new_delivery_id() -> str:
    return "d-" + random.token_hex(12)


def _wanted(endpoints: Iterable[Endpoint]) -> set[str]:
    return {event for endpoint in endpoints if endpoint.active for event in endpoint.events}


def _names(always: Iterable[type[Event]], wanted: Iterable[str]) -> list[str]:
    sources = {source.name for event in wanted for source in SOURCES[event]}
    return sorted({event.name for event in always} | sources)
