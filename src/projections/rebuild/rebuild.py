"""Builds read models in staging tables while the server is in use.

A rebuild applies the whole log to the staging tables: most of it with the bulk loader, the rest with the engine. After
an interruption, the next rebuild continues from the position reached. Live tables stay as they are;
`projections.rebuild.switch` replaces them.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection

from projections.engine.bulk_catch_up import bulk_catch_up
from projections.engine.dismissals import with_dismissals
from projections.engine.engine import Engine, drop_tables, ensure_tables
from projections.engine.inspection import inspect
from projections.engine.model import Projection
from projections.engine.projector import BATCH_SIZE, catch_up
from projections.engine.schemas import STAGING, NotReady, lock_staging
from store.log.event_log import EventLog


@dataclass(frozen=True)
class Progress:
    position: int
    head: int


ProgressCallback = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    pass


async def build_staging(
    conninfo: str,
    event_log: EventLog,
    projections: Sequence[Projection],
    *,
    from_scratch: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> int:
    """Builds the staging tables of these projections. Returns the position that they have reached.

    Raises NotReady, LostLeadership or psycopg.OperationalError. The next call continues from the position reached; with
    `from_scratch`, it begins again. If the disk of the database is full, drops the staging tables, and raises NotReady.
    """
    async with lock_staging(conninfo, projections) as connection:
        projections = await with_dismissals(event_log, projections)
        sound = (await inspect(connection, projections, STAGING)).sound
        # Tables whose row of `projection_positions` is lost would count as empty, so they are dropped first.
        await drop_tables(connection, [item for item in projections if from_scratch or item.name not in sound])
        await ensure_tables(connection, projections)
        names = [projection.name for projection in projections]
        await connection.execute(
            "UPDATE projection_positions SET started_at = now(), started_from = position, built_at = NULL"
            " WHERE name = ANY (%s)",
            (names,),
        )
        try:
            with _rare_garbage_collection():
                await bulk_catch_up(
                    connection, event_log, projections, lambda *progress: on_progress(Progress(*progress))
                )
            position = await follow_to_head(connection, event_log, projections, on_progress)
        except psycopg.errors.DiskFull as error:
            # What the server writes needs the room more: with a full disk, it can record no build.
            await drop_tables(connection, projections)
            raise NotReady(
                f"The disk of the database is full ({str(error).splitlines()[0]}). The new tables of"
                f" {', '.join(names)} were dropped again, so that the server has room. Make as much room as the live"
                " tables need, and start anew."
            ) from error
        await connection.execute("UPDATE projection_positions SET built_at = now() WHERE name = ANY (%s)", (names,))
        return position


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Makes Python's garbage collector run rarely while the context is open, and ignore all objects that existed
    before.

    Rows form no reference cycles. Searching for cycles would take a tenth of the time of a load.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def follow_to_head(
    connection: AsyncConnection,
    event_log: EventLog,
    projections: Sequence[Projection],
    on_progress: ProgressCallback = no_progress,
) -> int:
    """Moves staging tables to the end of the log, and returns the position reached. While others append, up to
    BATCH_SIZE events may be left.
    """
    position = await catch_up(connection, event_log, projections)
    engine = Engine(connection, projections, announce=False)
    while events := await event_log.read(position, BATCH_SIZE):
        position = await engine.apply(events, position)
        if len(events) < BATCH_SIZE:
            break
        on_progress(Progress(position, await event_log.read_head()))
    on_progress(Progress(position, position))
    return position
