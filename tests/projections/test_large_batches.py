"""Batches in which many rows of a table change: the engine copies new rows, in one transaction with the others."""

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from domain.core.events import Event
from projections.engine import batch
from projections.engine.engine import Engine, LostLeadership, ensure_tables
from tests.projections.toys import (
    SEEN,
    TOYS,
    BoxGone,
    Delivered,
    DeliveryRow,
    PieceRow,
    Put,
    ToyRow,
    parked,
    recorded,
    table,
)


class CopyingEngine:
    """An engine, and the position up to which it has applied events."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.engine, self.position = Engine(connection, (TOYS, SEEN), announce=True), 0

    async def apply(self, *events: Event) -> None:
        self.position = await self.engine.apply(recorded(*events, after=self.position), self.position)


@pytest.fixture
async def connection(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncConnection]:
    monkeypatch.setattr(batch, "COPY_ROWS", 2)
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        await ensure_tables(connection, (TOYS, SEEN))
        yield connection


async def test_new_rows_are_copied_and_others_replaced(connection: AsyncConnection) -> None:
    engine = CopyingEngine(connection)
    await engine.apply(Put(id=2, box=7), Delivered(ids=[5, 6]), Put(id=3, box=7), Put(id=4, box=8))
    await engine.apply(Put(id=3, box=9, text="again"), Put(id=1, box=7), Put(id=5, box=9))
    await engine.apply(Put(id=4, box=9), BoxGone(box=9), Put(id=4, box=7), Put(id=6, box=9))
    expected = [(1, 7, 1, ""), (2, 7, 1, ""), (4, 7, 1, ""), (6, 9, 1, "")]
    assert await table(connection, ToyRow) == expected
    assert await table(connection, PieceRow) == [(5, 0), (6, 1)]
    assert await table(connection, DeliveryRow) == [(2, [0, 1], [0, 1])]


async def test_only_the_event_of_a_refused_row_is_parked(connection: AsyncConnection) -> None:
    await connection.execute("ALTER TABLE toys_v1 ADD CHECK (box <> 13)")
    engine = CopyingEngine(connection)
    await engine.apply(Put(id=1, box=7), Put(id=2, box=13), Put(id=3, box=7))
    assert [position for _, position, _ in await parked(connection)] == [2]
    assert [key for key, *_ in await table(connection, ToyRow)] == [1, 3]


async def test_a_leader_that_was_overtaken_copies_nothing(connection: AsyncConnection) -> None:
    await connection.execute("UPDATE projection_positions SET position = 5 WHERE name = 'seen'")
    with pytest.raises(LostLeadership):
        await CopyingEngine(connection).apply(Put(id=1, box=7), Put(id=2, box=7))
    assert await table(connection, ToyRow) == []
