"""A projection of claims in two releases of the server, what moves it, and something to project."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from psycopg import AsyncConnection

from domain.claims import ClaimTaken
from domain.core.events import EventMetadata, Recorded
from projections.engine.engine import ensure_tables
from projections.engine.model import Change, Key, Projection, Row, Rows, Table
from projections.engine.projector import Projector
from projections.engine.read_your_writes import ProjectionWaiter
from projections.engine.schemas import connect
from store.log.event_log import Write
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, PROJECTED, Listener
from testhide.processes import Core
from tests.projections.toys import SEEN

ENDS_S = 10.0
STAMP = EventMetadata(datetime(2026, 5, 20, tzinfo=UTC), "tests")


class OwnerRow(Row, frozen=True):
    table = Table("owners", 1, key=("claim",))
    claim: str
    owner: str
    times: int


class NewOwnerRow(Row, frozen=True):
    table = Table("owners", 2, key=("claim",))
    claim: str
    owner: str
    times: int
    last: int


def _keys(row: type[Row]) -> Callable[[Recorded], Iterable[tuple[type[Row], Key]]]:
    def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
        if isinstance(recorded.event, ClaimTaken):
            yield row, (recorded.event.claim,)

    return keys


def _apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    if isinstance(recorded.event, ClaimTaken):
        claim, owner = recorded.event.claim, recorded.event.owner
        before = rows.get(OwnerRow, claim)
        yield OwnerRow(claim, owner, (before.times if before else 0) + 1)


def _apply_or_fail(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    if isinstance(recorded.event, ClaimTaken) and recorded.event.owner == "nobody":
        raise ValueError("who is nobody?")
    yield from _apply(recorded, rows)


def _apply_new(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    if isinstance(recorded.event, ClaimTaken):
        claim, owner = recorded.event.claim, recorded.event.owner
        before = rows.get(NewOwnerRow, claim)
        times = (before.times if before else 0) + 1
        yield NewOwnerRow(claim, owner.upper() if claim == "loud" else owner, times, recorded.position)


OWNERS = Projection("owners", 1, (OwnerRow,), _keys(OwnerRow), _apply_or_fail)
MENDED = replace(OWNERS, apply=_apply)
"""Takes what OWNERS cannot; its code was mended, its rows are the same."""
NEW_OWNERS = Projection("owners", 2, (NewOwnerRow,), _keys(NewOwnerRow), _apply_new)
RELEASE = (SEEN, OWNERS)
NEXT_RELEASE = (SEEN, NEW_OWNERS)


async def take(parts: Core, claim: str, owner: str = "ann", times: int = 1) -> int:
    """Appends that a claim was taken; the position of the last time."""
    stream = f"claim-{claim}"
    version = len((await parts.log.load([stream]))[stream])
    events = [ClaimTaken(claim=claim, owner=owner)] * times
    writes = [Write(number, event) for number, event in enumerate(events, version + 1)]
    return (await parts.log.append(writes, STAMP))[-1].position


async def serve(parts: Core, projections: Sequence[Projection]) -> None:
    """As on a new database: empty tables that serve."""
    async with await connect(parts.conninfo) as connection:
        await ensure_tables(connection, projections)


@contextlib.asynccontextmanager
async def projecting(
    parts: Core, projections: Sequence[Projection] = RELEASE, count: int = 1
) -> AsyncIterator[ProjectionWaiter]:
    """Projectors of a release, and someone who waits for its read models."""
    listener = Listener(parts.conninfo, EVENTS, PROJECTED)
    await listener.start()
    waiter = ProjectionWaiter(parts.pool, listener, projections)
    made = [Projector(parts.conninfo, parts.log, listener, projections) for _ in range(count)]
    tasks = [asyncio.create_task(work) for work in (waiter.run(), *(projector.run() for projector in made))]
    try:
        yield waiter
    finally:
        _, running = await asyncio.wait({asyncio.create_task(cancel_and_wait(*tasks))}, timeout=ENDS_S)
        assert not running, "cancelled, and still they run"
        await listener.close()


async def rows(connection: AsyncConnection, table: str) -> list[tuple[object, ...]]:
    return await (await connection.execute(f"SELECT * FROM {table} ORDER BY 1".encode())).fetchall()
