"""Rows that a bulk load copies are those that an upsert would have written."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from projections.engine import csv_copy, statements
from projections.engine.model import Row, Table
from projections.engine.row_writer import LoadRefused, RowWriter
from projections.engine.schemas import connect
from store.postgres.queries import fetch_rows
from tests.projections.toys import KindRow

EVERYTHING = KindRow(
    1,
    '\\.\n.\\n"a",\t\r\b\f\x1b\\u001b\\\\\nnull\x7fé\u2028]\n["',
    b"\0\\\xff",
    None,
    True,
    -1.5e300,
    datetime(2026, 5, 20, 1, 2, 3, 4, UTC),
    ["]\n[", '\\"', "\\u0000", "\x01"],
    [-(2**31), 7],
    {'\n"': ["\\", None, 1.5, True]},
    "low",
    3,
)

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6) | st.text(
    '\\"u01nrt,.\n\r\t\x1f[]{}', max_size=8
)
kinds = st.builds(
    KindRow,
    id=st.integers(-(2**63), 2**63 - 1),
    word=words,
    data=st.binary(max_size=3),
    maybe=st.none() | st.integers(-(2**63), 2**63 - 1),
    flag=st.booleans(),
    share=st.floats(allow_nan=False, allow_infinity=False),
    at=st.none() | st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC)),
    names=st.lists(words, max_size=2),
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    more=st.dictionaries(words, words | st.none() | st.integers(-5, 5), max_size=2),
    level=st.sampled_from([None, "low", "high"]),
    small=st.none() | st.integers(-(2**15), 2**15 - 1),
)


class NamedRow(Row, frozen=True):
    table = Table("named", 1, key=("name", "number"))
    name: str
    number: int
    text: str


class NumberRow(Row, frozen=True):
    table = Table("numbers", 1)
    id: int
    number: int


@pytest.fixture
async def connection(database: str) -> AsyncIterator[AsyncConnection]:
    async with await connect(database) as connection:
        for row in (KindRow, NamedRow, NumberRow):
            await connection.execute("; ".join(statements.create(row)).encode())
        yield connection


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(kinds, min_size=1, max_size=4, unique_by=lambda row: row.id))
@example(rows=[EVERYTHING])
async def test_a_copied_row_is_as_it_was(connection: AsyncConnection, rows: list[KindRow]) -> None:
    await connection.execute("TRUNCATE kinds_v1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(csv_copy, "CHUNK_ROWS", 3)
        await csv_copy.copy_rows(connection, KindRow, rows)
    cursor = await connection.execute("SELECT * FROM kinds_v1 ORDER BY id", binary=True)
    assert [KindRow(*values) for values in await cursor.fetchall()] == sorted(rows, key=lambda row: row.id)


keys = st.tuples(st.sampled_from(["a", "B", "é", "z", "Z", "a-b", "ab", "\U0001f600", "\ufffd"]), st.integers(1, 3))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(st.lists(keys, unique=True, max_size=4), max_size=4), restart=st.integers(0, 3))
async def test_rows_are_replaced_whatever_the_order_of_their_keys(
    connection: AsyncConnection, writes: list[list[tuple[str, int]]], restart: int
) -> None:
    await connection.execute("TRUNCATE named_v1")
    writer = RowWriter(connection, NamedRow)
    expected: dict[tuple[str, int], str] = {}
    for number, chosen in enumerate(writes):
        if number == restart:
            writer = RowWriter(connection, NamedRow)
            await writer.load_highest()
        await writer.write([NamedRow(*key, str(number)) for key in chosen])
        expected.update((key, str(number)) for key in chosen)
    found = await fetch_rows(connection, "SELECT name, number, text FROM named_v1")
    assert {(name, number): text for name, number, text in found} == expected


async def test_rows_of_numbers_are_replaced_or_refused(connection: AsyncConnection) -> None:
    writer = RowWriter(connection, NumberRow)
    await writer.write([NumberRow(2, 1), NumberRow(1, 1)])
    await writer.write([NumberRow(3, 2), NumberRow(1, 2)])
    assert await fetch_rows(connection, "SELECT * FROM numbers_v1 ORDER BY id") == [(1, 2), (2, 1), (3, 2)]
    with pytest.raises(LoadRefused, match="numbers_v1"):
        await writer.write([NumberRow(4, 2**63)])
