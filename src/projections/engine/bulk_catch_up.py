"""Applies events to read models with the bulk loader, up to near the end of the log.

If the loader refuses events, the engine applies them instead, and parks events whose rows cannot be stored.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from psycopg import AsyncConnection

from projections.engine.bulk_loader import BulkLoader, UncheckedRows, is_load_unfinished
from projections.engine.engine import Engine, fetch_positions
from projections.engine.model import Projection
from projections.engine.row_writer import LoadRefused
from store.log.event_log import EventLog

log = structlog.get_logger()

BATCH_SIZE = 1_000
"""Number of events that are read at once. Each event may hold a thousand results."""
NEAR_HEAD = 1_000
"""Number of events at the end of the log that are left to the engine."""

OnProgress = Callable[[int, int], None]
"""Callback that gets (position reached, goal) after each batch."""


async def bulk_catch_up(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    on_progress: OnProgress = lambda position, goal: None,
) -> None:
    """Applies events to these projections until each is at most NEAR_HEAD events behind the end of the log.

    Projections at equal positions move together; groups of such projections move one after the other. Raises
    LostLeadership if another process has moved one of the projections, and psycopg.OperationalError if the database
    fails. Committed transactions stay, and the next call continues after them.
    """
    with_statistics = True
    while True:
        goal = await event_log.read_head()
        positions = await fetch_positions(connection, projections)
        far = {position for position in positions.values() if goal - position > NEAR_HEAD}
        for position in sorted(far):
            group = [projection for projection in projections if positions[projection.name] == position]
            await _load_group(connection, event_log, group, position, goal, on_progress, with_statistics)
        if not far:
            break
        with_statistics = False  # only few events were appended meanwhile
    # An earlier load may have been killed between its last commit and the end of `finish`.
    for position in sorted(set(positions.values())):
        group = [projection for projection in projections if positions[projection.name] == position]
        if await is_load_unfinished(connection, group):
            await BulkLoader(connection, group, position).finish(position)


async def _load_group(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    position: int,
    goal: int,
    on_progress: OnProgress,
    with_statistics: bool,
) -> None:
    is_careful = False
    while position < goal:
        loader = BulkLoader(connection, projections, position, is_careful=is_careful)
        await loader.begin()
        try:
            await _run(loader, event_log, goal, on_progress, with_statistics)
            position = goal
        except UncheckedRows as error:
            log.warning("bulk load goes on carefully, to park an event", error=str(error))
            is_careful, position = True, loader.committed
        except LoadRefused as error:
            log.warning("bulk load refused, applying these events with the engine", error=str(error))
            position = await _apply_with_engine(connection, event_log, projections, loader)


async def _run(
    loader: BulkLoader, event_log: EventLog, goal: int, on_progress: OnProgress, with_statistics: bool
) -> None:
    """Applies the events up to position `goal`. Reads the next batch while it writes the current one."""
    names = loader.event_names
    next_batch = asyncio.ensure_future(event_log.read(loader.position, BATCH_SIZE, names, goal))
    try:
        while events := await next_batch:
            next_batch = asyncio.ensure_future(event_log.read(events[-1].position, BATCH_SIZE, names, goal))
            await loader.apply(events)
            on_progress(loader.position, goal)
    finally:
        next_batch.cancel()
    await loader.finish(goal, with_statistics=with_statistics)


async def _apply_with_engine(
    connection: AsyncConnection, event_log: EventLog, projections: Sequence[Projection], loader: BulkLoader
) -> int:
    """Lets the engine apply the events that the loader has rolled back. Returns the new position."""
    # Create the indexes and execute the deferred deletes first: the engine needs both.
    await BulkLoader(connection, projections, loader.committed).finish(loader.committed)
    engine, position = Engine(connection, projections, announce=False), loader.committed
    while position <= loader.position and (events := await event_log.read(position, BATCH_SIZE, loader.event_names)):
        position = await engine.apply(events, position)
    return position
