"""Rows of numbers and arrays arrive in the database as they were packed for binary COPY."""

from array import array
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from projections.engine.binary_copy import ERRORS, copy_rows, pack_rows, unpack_array
from projections.engine.engine import drop_tables, ensure_tables
from projections.engine.model import Row
from projections.engine.schemas import connect
from store.postgres.queries import fetch_rows
from testhide.processes import Core
from tests.projections.toys import TOYS, DeliveryRow, PieceRow, table


@pytest.fixture
async def staging(parts: Core) -> AsyncIterator[AsyncConnection]:
    async with await connect(parts.conninfo, "beside") as connection:
        yield connection


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)), min_size=1, max_size=24))
def test_packed_rows_are_the_same_however_many_there_are(values: list[tuple[int, int]]) -> None:
    rows = [PieceRow(*numbers) for numbers in values]
    assert pack_rows(rows) == b"".join(pack_rows([row]) for row in rows)


deliveries = st.builds(
    DeliveryRow,
    id=st.integers(-(2**63), 2**63 - 1),
    sizes=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    small_sizes=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=20),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(deliveries, min_size=1, max_size=4, unique_by=lambda row: row.id))
async def test_packed_arrays_are_what_they_were(staging: AsyncConnection, made: list[DeliveryRow]) -> None:
    await drop_tables(staging, [TOYS])
    await ensure_tables(staging, [TOYS])
    await copy_rows(staging, DeliveryRow, [pack_rows(made[:1]), pack_rows(made[1:])] if made[1:] else [pack_rows(made)])
    expected = [(row.id, row.sizes, row.small_sizes) for row in made]
    assert await table(staging, DeliveryRow) == sorted(expected)
    query = f"SELECT id, array_send(sizes), array_send(small_sizes) FROM {DeliveryRow.table} ORDER BY id"
    sent = await fetch_rows(staging, query)
    assert [(id, unpack_array(sizes, "i"), unpack_array(small, "h")) for id, sizes, small in sent] == [
        (id, array("i", sizes), array("h", small)) for id, sizes, small in sorted(expected)
    ]


@pytest.mark.parametrize(
    "row", [PieceRow(1, 2**31), DeliveryRow(1, [1, 2**31], []), DeliveryRow(1, [], [-(2**15) - 1]), PieceRow(2**63, 1)]
)
@pytest.mark.parametrize("count", [1, 9])
def test_what_a_column_does_not_hold_is_not_packed(row: Row, count: int) -> None:
    with pytest.raises(ERRORS):
        pack_rows([row] * count)
