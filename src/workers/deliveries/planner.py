"""Plans deliveries: follows the log. For each notification that an event causes, enqueues one delivery to each endpoint
that asks for notifications of this type.

Deliveries are enqueued in the transaction that moves the planner's position, so none is lost or planned twice. The
planner reads the events about endpoints from the same log in the same order (`workers.deliveries.endpoints`). So an
endpoint is notified of exactly the events between its registration and its deletion, even if the read models are
behind.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.errors import StreamDamaged
from domain.core.events import Event, Recorded, readable
from domain.endpoints import EndpointEvent
from domain.nodes import NODE, NodeWentOffline
from domain.notifications import SOURCES, select_notifications
from domain.pools import POOL
from domain.projects import ProjectDeleted
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.notifications import Listener
from store.tables import deliveries, delivery_endpoints, delivery_planning, log_positions, reactions
from store.tables.deliveries import NO_PROJECT, PlannedDelivery, new_delivery_id
from store.tables.delivery_endpoints import DeliveryTarget
from store.tables.delivery_planning import PendingWork
from workers.deliveries import endpoints
from workers.deliveries.endpoints import FOLDED_EVENTS, Targets, is_folded, types_of
from workers.deliveries.messages import MessageBuilder
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

NAME = delivery_planning.PLANNER
BATCH_SIZE = 200
"""Number of events for which one transaction plans deliveries."""
MAX_PLANNED = 2_000
"""Number of deliveries after which a transaction ends, so that many endpoints of one project do not hold up the
deliveries of others. A transaction plans all deliveries of its last event, so it may plan more.
"""
RETRY_BATCH_SIZE = 10
"""Number of parked events that one transaction tries again."""
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
    max_planned: int = MAX_PLANNED
    max_open_replayed: int = MAX_OPEN_REPLAYED

    def __post_init__(self) -> None:
        # Types of notifications that some endpoint was registered for since this planner began. None is removed, so
        # that an endpoint whose types change again and again ends no batch early.
        self._types: set[str] = set()
        self._last_replayed = NO_PROJECT
        """Id of the project whose replay had the last turn."""
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
            self._cursor.names = names = await self._fetch_names(connection)
            return await delivery_planning.fetch_pending(connection, NAME, names, log_positions.MIN_SKIP)

    async def _fetch_names(self, connection: AsyncConnection) -> list[str]:
        """Returns the names of the events that the planner reads: events that change endpoints, and events of which an
        endpoint is notified or would be if it were active.
        """
        self._types |= await delivery_endpoints.fetch_types(connection)
        return sorted({event.name for event in FOLDED_EVENTS}.union(_find_sources(self._types)))

    async def _follow(self) -> None:
        async with self.pool.connection() as connection, connection.transaction():
            # Begins with the first event: there are no deliveries before the first endpoint is registered.
            await log_positions.ensure_positions(connection, [NAME], at_head=False)
            position = await log_positions.lock_position(connection, NAME)
            assert position is not None, "ensured before"
            names = await self._fetch_names(connection)
            events, position, _ = await self.event_log.read_batch(position, self.batch_size, names)
            # After an event that adds types, the batch may lack events of these types, so later events are read again.
            widening = (at for at, item in enumerate(events, 1) if not self._types.issuperset(types_of(item.event)))
            if (cut := next(widening, None)) is not None:
                events, position = events[:cut], events[cut - 1].position
            planned = await self._plan(connection, events, self.max_planned)
            if planned < len(events):
                position = events[planned - 1].position
            await log_positions.move_position(connection, NAME, position)
            if events:
                await deliveries.notify_due(connection)

    async def _plan(self, connection: AsyncConnection, events: Sequence[Recorded], max_planned: float) -> int:
        """Plans the deliveries of events, one event after the other. An event that changes an endpoint takes effect for
        the events after it. Stops after the event that brings the number of deliveries to `max_planned`. Returns the
        number of events that were handled.
        """
        projects = {item.position: await self._find_project(item) for item in events if not is_folded(item.event)}
        targets = Targets()
        if projects:
            ids = {project for project in projects.values() if isinstance(project, int)}
            targets.add(*await delivery_endpoints.fetch_targets(connection, ids))
        steps: list[list[PlannedDelivery] | Event] = []
        total = count = 0
        for recorded in events:
            if total >= max_planned:
                break
            count += 1
            if is_folded(recorded.event):
                targets.apply(recorded.event)
                steps.append(recorded.event)
                continue
            project = projects[recorded.position]
            if isinstance(project, StreamDamaged):
                log.error("event parked", planner=NAME, position=recorded.position, error=project.detail)
                await reactions.park(connection, NAME, recorded.position, project.detail)
                continue
            self.messages.cache_event(recorded)
            planned = list(plan_event(recorded, targets.in_scope(project), replay=False))
            total += len(planned)
            # Deliveries of earlier events are enqueued before their endpoint changes.
            if steps and isinstance(steps[-1], list):
                steps[-1] += planned
            else:
                steps.append(planned)
        await self._store(connection, steps)
        return count

    async def _store(self, connection: AsyncConnection, steps: Sequence[list[PlannedDelivery] | Event]) -> None:
        """Enqueues deliveries and applies events about endpoints, in the given order."""
        affected: set[int] = set()
        for step in steps:
            if isinstance(step, list):
                affected.update(one.endpoint_id for one in step)
            elif isinstance(step, EndpointEvent):
                affected.add(step.endpoint_id)
            elif isinstance(step, ProjectDeleted):
                affected.update(await delivery_endpoints.fetch_ids_of_project(connection, step.project_id))
        # All at once, since senders lock endpoints too. Locks in another order could wait for each other.
        await delivery_endpoints.lock_endpoints(connection, affected)
        for step in steps:
            if isinstance(step, list):
                await self._enqueue(connection, step)
            else:
                await endpoints.apply(connection, step, self.clock())

    async def _retry(self) -> bool:
        """Plans the deliveries of parked events that are due again, to the endpoints that exist now. Returns False if
        no parked event was due.
        """
        async with self.pool.connection() as connection, connection.transaction():
            due = await reactions.lease_due(connection, [NAME], RETRY_BATCH_SIZE)
            events = await self.event_log.read_at(sorted(one.position for one in due))
            for one in due:
                await reactions.mark_done(connection, one)
            await self._plan(connection, events, inf)
        return bool(due)

    async def _replay(self) -> bool:
        """Plans the deliveries of the next batch of events of one replay. Returns False if no replay can go on now."""
        async with self.pool.connection() as connection, connection.transaction():
            replay = await delivery_planning.lock_replay(connection, self.max_open_replayed, self._last_replayed)
            if replay is None:
                return False
            self._last_replayed = replay.target.project_id or NO_PROJECT
            events = await self.event_log.read(replay.position, self.batch_size, _find_sources(replay.target.events))
            targets = Targets()
            targets.add(replay.target)
            planned: list[PlannedDelivery] = []
            position = events[-1].position if len(events) == self.batch_size else replay.up_to
            for recorded in events:
                if recorded.position > replay.up_to:
                    break
                if len(planned) >= self.max_planned:
                    position = recorded.position - 1
                    break
                project = await self._find_project(recorded)
                if isinstance(project, StreamDamaged):
                    log.error("event left out of a replay", position=recorded.position, error=project.detail)
                    continue
                planned += plan_event(recorded, targets.in_scope(project), replay=True)
            await self._enqueue(connection, planned)
            await delivery_planning.advance_replay(connection, replay, position)
        return True

    async def _enqueue(self, connection: AsyncConnection, planned: Sequence[PlannedDelivery]) -> None:
        if planned:
            await deliveries.enqueue(connection, planned, self.clock())

    async def _find_project(self, recorded: Recorded) -> int | StreamDamaged | None:
        """Returns the id of the project that an event belongs to; None if it belongs to no project. A node belongs to
        the project of its pool. Returns the error if the event, or the stream of the node or pool, cannot be read.
        """
        try:
            readable([recorded])
            event = recorded.event
            if not isinstance(event, NodeWentOffline):
                return getattr(event, "project_id", None)
            node = await self.event_log.load_state(NODE.at(event.node_id))
            if node is None or node.pool_id is None:
                return None
            pool = await self.event_log.load_state(POOL.at(node.pool_id))
        except StreamDamaged as error:
            return error
        return None if pool is None else pool.project_id


def plan_event(recorded: Recorded, targets: Iterable[DeliveryTarget], *, replay: bool) -> Iterable[PlannedDelivery]:
    """Yields the deliveries of one event to those of the endpoints that are active and registered for it.

    With `replay`, the deliveries get other ordering keys than deliveries of new events, so that new deliveries do not
    wait for replayed ones.
    """
    for target in targets:
        if target.active:
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


def _find_sources(types: Collection[str]) -> list[str]:
    """Returns the names of the events that cause notifications of these types."""
    return sorted({source.name for type_ in types for source in SOURCES[type_]})
