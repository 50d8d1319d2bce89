"""Builds read models beside the serving ones, while the live system writes on.

A build moves the tables in `beside` along the whole log. It goes on from where an earlier one stopped, however that
ended, and ends near the head of the log. Nothing of what serves is touched: `projections.rebuild.switch` does that.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from projections.engine.bulk_load import load
from projections.engine.engine import Engine, drop_tables, ensure_tables
from projections.engine.model import Projection
from projections.engine.projector import BATCH_SIZE, catch_up
from projections.engine.schemas import alone_beside
from store.log.event_log import EventLog


@dataclass(frozen=True)
class Progress:
    position: int
    head: int


Told = Callable[[Progress], None]


def tell_nobody(progress: Progress) -> None:
    pass


async def build(
    conninfo: str,
    event_log: EventLog,
    projections: Sequence[Projection],
    *,
    from_scratch: bool = False,
    told: Told = tell_nobody,
) -> int:
    """Builds the tables of all these beside; the position that they reached. Raises places.Unready,
    LostLeadership and psycopg.OperationalError; after each of them the same call goes on where this one ended.
    """
    async with alone_beside(conninfo, projections) as connection:
        if from_scratch:
            await drop_tables(connection, projections)
        await ensure_tables(connection, projections)
        names = [projection.name for projection in projections]
        await connection.execute(
            "UPDATE projection_positions SET started_at = now(), started_from = position, built_at = NULL"
            " WHERE name = ANY (%s)",
            (names,),
        )
        with _seldom_collecting():
            await load(connection, event_log, projections, lambda position, goal: told(Progress(position, goal)))
        position = await follow(connection, event_log, projections, told)
        await connection.execute("UPDATE projection_positions SET built_at = now() WHERE name = ANY (%s)", (names,))
        return position


@contextlib.contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Rows come and go by the hundred thousand and are in no cycles: looking for some takes a tenth of a load."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def follow(
    connection: AsyncConnection, event_log: EventLog, projections: Sequence[Projection], told: Told = tell_nobody
) -> int:
    """Moves what stands beside to the head of the log, or as near as it gets while others write."""
    position = await catch_up(connection, event_log, projections)
    engine = Engine(connection, projections, announce=False)
    while events := await event_log.read(position, BATCH_SIZE):
        position = await engine.apply(events, position)
        if len(events) < BATCH_SIZE:
            break
        told(Progress(position, await event_log.read_head()))
    told(Progress(position, position))
    return position
