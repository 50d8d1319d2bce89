"""Writes many rows to a table at once, for bulk loads and for large batches of the engine."""

from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import psycopg
from psycopg import AsyncConnection

from projections.engine import binary_copy, csv_copy, statements
from projections.engine.model import Row, columns_of


class LoadRefused(Exception):
    """Raised when a row of a bulk load cannot be stored. Roll the transaction back, and let the engine apply the
    transaction's events: the engine can park the event with the bad row.
    """


def flat_key_of(row: type[Row]) -> Callable[[Row], Any]:
    """Returns a function that returns the flat key of a row: the value of the key column, or a tuple if the key has
    several columns.
    """
    return attrgetter(*row.table.key)


def pack_numbers(rows: Sequence[Row]) -> bytes | bytearray:
    """Packs rows of numbers for COPY. Raises LoadRefused for a value that does not fit its column."""
    try:
        return binary_copy.pack_rows(rows)
    except binary_copy.ERRORS as error:
        raise LoadRefused(f"{rows[0].table}: {error}") from error


def has_numeric_key(row: type[Row]) -> bool:
    """Returns whether the table's primary key has no column with text. Only then does the index of the key have the
    order in which Python compares keys, so that PostgreSQL finds the highest key at the end of the index.
    """
    return not any(column.name in row.table.key and column.sql_type == "text" for column in columns_of(row))


async def write_rows(connection: AsyncConnection, row: type[Row], rows: Sequence[Row]) -> None:
    """Writes rows, which must have different keys: rows that are certainly new (`RowWriter`) by COPY, and all others by
    an upsert. The table must be append-only, or `has_numeric_key` must be true of it. Raises psycopg.DataError for a
    value that does not fit its column.
    """
    try:
        if row.table.append_only:
            await binary_copy.copy_rows(connection, row, [pack_numbers(rows)])
        elif rows:
            writer = RowWriter(connection, row)
            await writer.load_highest()
            await writer.write(rows)
    except LoadRefused as error:
        raise psycopg.errors.NumericValueOutOfRange(str(error)) from error


class RowWriter:
    """Writes rows to a table: rows that are certainly new by COPY, and all others by an upsert, which takes PostgreSQL
    several times as long.

    A row is certainly new if its key is higher than all keys that the table has had. Nearly all new rows are found so,
    since ids are assigned in ascending order.
    """

    def __init__(self, connection: AsyncConnection, row: type[Row]) -> None:
        self._connection = connection
        self._row = row
        self._key_of = flat_key_of(row)
        columns = columns_of(row)
        self.is_numeric = all(item.sql_type in binary_copy.CODES and not item.nullable for item in columns)
        """Whether all columns are numbers that are never null."""
        self._texts = {item.name for item in columns if item.sql_type == "text"}
        self._highest: Any = None
        """Highest key that the table has had, as `flat_key_of` returns it; None if the table has had no rows."""

    async def load_highest(self) -> None:
        """Reads the highest key from the table, which earlier loads may have filled."""
        key = self._row.table.key
        # By the collation C, PostgreSQL compares texts as Python does.
        order = ", ".join(f'{name} COLLATE "C" DESC' if name in self._texts else f"{name} DESC" for name in key)
        query = f"SELECT {', '.join(key)} FROM {self._row.table} ORDER BY {order} LIMIT 1"
        found = await (await self._connection.execute(query.encode())).fetchone()
        self._highest = found[0] if found is not None and len(key) == 1 else found

    async def truncate(self) -> None:
        """Deletes all rows of the table."""
        if self._highest is not None:
            await self._connection.execute(f"TRUNCATE {self._row.table}".encode())
            self._highest = None

    def is_new(self, key: Any) -> bool:
        """Returns whether rows with this flat key, or with a higher one, are certainly new."""
        return self._highest is None or key > self._highest

    async def copy_columns(self, columns: "Sequence[array[int]]") -> None:
        """Writes new rows of numbers. `columns` are all columns of the table; the first one has the keys, in ascending
        order.
        """
        await binary_copy.copy_rows(self._connection, self._row, [binary_copy.pack_columns(columns)])
        self._highest = columns[0][-1]

    async def write(self, rows: Sequence[Row]) -> None:
        """Writes these rows, which must have different keys. Raises LoadRefused for a value that does not fit its
        column.
        """
        key_of, highest = self._key_of, self._highest
        new = rows if highest is None else [item for item in rows if key_of(item) > highest]
        if len(new) < len(rows):
            others = statements.rows_json(item for item in rows if key_of(item) <= highest)
            await self._connection.execute(statements.upsert(self._row).encode(), (others,), prepare=True)
        if new:
            if self.is_numeric:
                await binary_copy.copy_rows(self._connection, self._row, [pack_numbers(new)])
            else:
                await csv_copy.copy_rows(self._connection, self._row, new)
            self._highest = max(map(key_of, new))
