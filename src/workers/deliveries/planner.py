"""Plans deliveries: follows the log, and enqueues a delivery for each notification of an event to each endpoint that
asks for it.

Deliveries are enqueued in the transaction that moves the planner's position, so none is lost or planned twice. The
planner reads the events about endpoints from the same log in the same order (`workers.deliveries.endpoints`). So an
endpoint is notified of exactly the events between its registration and its deletion, even if the read models are
behind.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.errors import StreamDamaged
from domain.core.events import Recorded, readable
from domain.endpoints import EndpointDeleted, EndpointRegistered, EndpointUpdated
from domain.nodes import NODE, NodeWentOffline
from domain.notifications import SOURCES, is_in_scope, select_notifications
from domain.pools import POOL
from domain.projects import ProjectDeleted
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.notifications import Listener
from store.tables import deliveries, delivery_endpoints, delivery_planning, log_positions, reactions
from store.tables.deliveries import PlannedDelivery, new_delivery_id
from store.tables.delivery_endpoints import DeliveryTarget
from store.tables.delivery_planning import PendingWork
from workers.deliveries import endpoints
from workers.deliveries.endpoints import FOLDED, FOLDED_EVENTS
from workers.deliveries.messages import MessageBuilder
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

NAME = "webhooks"
"""Name of the planner's stored position, and of its parked events."""
BATCH_SIZE = 200
"""Number of events for which one transaction plans deliveries."""
POLL_INTERVAL_S = 5.0
"""Longest time in seconds between two searches for work, since no notification announces that a replay may go on."""
DEBOUNCE_S = 0.01
"""Shortest time in seconds between two searches for work, so that a burst of events causes few searches."""
MAX_OPEN_REPLAYED = 1_000
"""Number of unfinished replayed deliveries of an endpoint at which its replays pause, so that they do not fill the
queue.
"""


@dataclass
class DeliveryPlanner:
    pool: AsyncConnectionPool
    event_log: EventLog
    messages: MessageBuilder
    listener: Listener
    clock: Callable[[], datetime]
    batch_size: int = BATCH_SIZE
    max_open_replayed: int = MAX_OPEN_REPLAYED

    def __post_init__(self) -> None:
        self._cursor = LogCursor(
            self.event_log, self.listener, (), poll_interval_s=POLL_INTERVAL_S, debounce_s=DEBOUNCE_S
        )

    async def run(self) -> None:
        """Plans deliveries until cancelled. Any number of planners may run: they take turns."""
        await self._cursor.follow(self._catch_up_if_possible)

    async def _catch_up_if_possible(self) -> None:
        async with tolerate_outages("planning deliveries"):
            await self.catch_up()

    async def catch_up(self) -> None:
        """Plans all deliveries that can be planned now: of new events, of parked events that are due again, and of
        replays.
        """
        is_more = True
        while is_more:
            pending = await self._look()
            if pending.is_beyond:
                await log_positions.hold_beyond(self.pool, [NAME])
            if pending.events:
                await self._follow()
            has_retried = pending.parked and await self._retry()
            has_replayed = pending.replays and await self._replay()
            # Repeats, since a new event may request a replay, and more events may follow the batch that was read.
            is_more = pending.events or has_retried or has_replayed

    async def _look(self) -> PendingWork:
        async with self.pool.connection() as connection:
            # Set before the query, so that an event of a newly wanted type notifies the planner if the query misses it.
            self._cursor.names = names = _event_names(await delivery_endpoints.fetch_targets(connection))
            return await delivery_planning.fetch_pending(connection, NAME, names, log_positions.MIN_SKIP)

    async def _follow(self) -> None:
        async with self.pool.connection() as connection, connection.transaction():
            # Begins with the first event: there are no deliveries before the first endpoint is registered.
            await log_positions.ensure_positions(connection, [NAME], at_head=False)
            position = await log_positions.lock_position(connection, NAME)
            assert position is not None, "ensured before"
            targets = await delivery_endpoints.fetch_targets(connection)
            events, position, _ = await self.event_log.read_batch(position, self.batch_size, _event_names(targets))
            # After such an event an endpoint may want other types of events, so later events are read again.
            widening = EndpointRegistered | EndpointUpdated
            cut = next((count for count, item in enumerate(events, 1) if isinstance(item.event, widening)), None)
            if cut is not None:
                events, position = events[:cut], events[cut - 1].position
            await self._plan(connection, events, targets)
            await log_positions.move_position(connection, NAME, position)
            if events:
                await deliveries.notify_due(connection)

    async def _plan(
        self, connection: AsyncConnection, events: Sequence[Recorded], targets: Sequence[DeliveryTarget]
    ) -> None:
        planned: list[PlannedDelivery] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, FOLDED):
                # Deliveries of earlier events are enqueued before their endpoint changes.
                await self._enqueue(connection, planned)
                planned = []
                await endpoints.apply(connection, event, self.clock())
                if isinstance(event, EndpointDeleted | ProjectDeleted):
                    targets = await delivery_endpoints.fetch_targets(connection)
                continue
            try:
                project_id = await self._project_of(recorded)
            except StreamDamaged as error:
                log.error("event parked", planner=NAME, position=recorded.position, error=error.detail)
                await reactions.park(connection, NAME, recorded.position, error.detail)
                continue
            self.messages.cache_event(recorded)
            planned += plan_event(recorded, targets, project_id, replay=False)
        await self._enqueue(connection, planned)

    async def _retry(self) -> bool:
        """Plans the deliveries of parked events that are due again, to the endpoints that exist now. Returns False if
        no parked event was due.
        """
        async with self.pool.connection() as connection, connection.transaction():
            due = await reactions.lease_due(connection, [NAME], self.batch_size)
            events = await self.event_log.read_at(sorted(one.position for one in due))
            for one in due:
                await reactions.mark_done(connection, one)
            await self._plan(connection, events, await delivery_endpoints.fetch_targets(connection))
        return bool(due)

    async def _replay(self) -> bool:
        """Plans the deliveries of the next batch of events of one replay. Returns False if no replay can go on now."""
        async with self.pool.connection() as connection, connection.transaction():
            replay = await delivery_planning.lock_replay(connection, self.max_open_replayed)
            if replay is None:
                return False
            events = await self.event_log.read(replay.position, self.batch_size, _sources(replay.target.events))
            planned: list[PlannedDelivery] = []
            for recorded in events:
                if recorded.position <= replay.up_to:
                    try:
                        project_id = await self._project_of(recorded)
                    except StreamDamaged as error:
                        log.error("event left out of a replay", position=recorded.position, error=error.detail)
                        continue
                    planned += plan_event(recorded, (replay.target,), project_id, replay=True)
            await self._enqueue(connection, planned)
            position = events[-1].position if len(events) == self.batch_size else replay.up_to
            await delivery_planning.advance_replay(connection, replay, position)
        return True

    async def _enqueue(self, connection: AsyncConnection, planned: Sequence[PlannedDelivery]) -> None:
        if planned:
            await deliveries.enqueue(connection, planned, self.clock())

    async def _project_of(self, recorded: Recorded) -> int | None:
        """Returns the id of the project that an event belongs to; None if it belongs to no project. A node belongs to
        the project of its pool. Raises StreamDamaged if the event, or the stream of the node or pool, cannot be read.
        """
        readable([recorded])
        event = recorded.event
        if not isinstance(event, NodeWentOffline):
            return getattr(event, "project_id", None)
        node = await self.event_log.load_state(NODE.at(event.node_id))
        if node is None or node.pool_id is None:
            return None
        pool = await self.event_log.load_state(POOL.at(node.pool_id))
        return None if pool is None else pool.project_id


def plan_event(
    recorded: Recorded, targets: Iterable[DeliveryTarget], project_id: int | None, *, replay: bool
) -> Iterable[PlannedDelivery]:
    """Yields the deliveries of one event to these endpoints.

    With `replay`, the deliveries get other ordering keys than deliveries of new events, so that new deliveries do not
    wait for replayed ones.
    """
    for target in targets:
        if target.active and is_in_scope(target.project_id, project_id):
            for notification in select_notifications(target.kind, target.events, recorded.event):
                ordering_key = notification.ordering_key
                yield PlannedDelivery(
                    new_delivery_id(),
                    target.id,
                    recorded.position,
                    notification.type,
                    notification.item,
                    f"replay:{ordering_key}" if replay and ordering_key is not None else ordering_key,
                    replay,
                )


def _event_names(targets: Iterable[DeliveryTarget]) -> list[str]:
    """Returns the names of the events that the planner reads: events that change endpoints, and events of which an
    active endpoint is notified.
    """
    wanted = {type_ for target in targets if target.active for type_ in target.events}
    return sorted({event.name for event in FOLDED_EVENTS}.union(_sources(wanted)))


def _sources(types: Collection[str]) -> list[str]:
    """Returns the names of the events that cause notifications of these types."""
    return sorted({source.name for type_ in types for source in SOURCES[type_]})
