"""Loads read models along the whole log: what a build does until it is near the head."""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from psycopg import AsyncConnection

from domain.core.events import Recorded
from projections.engine.bulk_loader import Loader, Refused, is_unfinished
from projections.engine.engine import Engine, fetch_positions
from projections.engine.model import Projection
from store.log.event_log import EventLog

log = structlog.get_logger()

BATCH = 500
"""Events read at once; each may hold a thousand results."""
NEAR = 1_000
"""Events behind the end of the log that are the engine's."""


async def load(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    told: Callable[[int, int], None] = lambda position, goal: None,
) -> None:
    """Moves these tables near the end of the log; those that stand at different positions one after the other.

    `told` hears the position and the goal with every batch. Raises LostLeadership and psycopg.OperationalError;
    what was committed until then stays, and the next call goes on there.
    """
    while True:
        goal = await event_log.read_head()
        found = await fetch_positions(connection, projections)
        far = {position for position in found.values() if goal - position > NEAR}
        for position in sorted(far):
            group = [projection for projection in projections if found[projection.name] == position]
            await _load(connection, event_log, group, position, goal, told)
        if not far:
            break
    # What was killed in its last seconds stands where it should, and has deletions and indexes still to make.
    for position in sorted(set(found.values())):
        group = [projection for projection in projections if found[projection.name] == position]
        if await is_unfinished(connection, group):
            await Loader(connection, group, position).finish(position)


async def _load(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    position: int,
    goal: int,
    told: Callable[[int, int], None],
) -> None:
    while position < goal:
        loader = Loader(connection, projections, position)
        await loader.begin()
        try:
            await _run(loader, event_log, goal, told)
            position = goal
        except Refused as error:
            log.warning("a part of the log could not be loaded, going through it slowly", error=str(error))
            position = await _slowly(
                connection, event_log, projections, loader.committed, loader.position, loader.names
            )


async def _run(loader: Loader, event_log: EventLog, goal: int, told: Callable[[int, int], None]) -> None:
    """While a batch is written, the next is read."""
    names = loader.names
    reading = asyncio.ensure_future(event_log.read(loader.position, BATCH, names))
    try:
        while events := _up_to(goal, await reading):
            reading = asyncio.ensure_future(event_log.read(events[-1].position, BATCH, names))
            await loader.take(events)
            told(loader.position, goal)
    finally:
        reading.cancel()
    await loader.finish(goal)


def _up_to(goal: int, events: list[Recorded]) -> list[Recorded]:
    if events and events[-1].position > goal:
        return [event for event in events if event.position <= goal]
    return events


async def _slowly(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    committed: int,
    reached: int,
    names: Sequence[str] | None,
) -> int:
    """Takes what the loader could not through the engine, which finds and parks what the database refuses."""
    # The engine needs the indexes, and deletes at once.
    await Loader(connection, projections, committed).finish(committed)
    engine, position = Engine(connection, projections, announce=False), committed
    while position <= reached and (events := await event_log.read(position, BATCH, names)):
        position = await engine.apply(events, position)
    return position
