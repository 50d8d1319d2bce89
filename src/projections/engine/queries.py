"""Run a query and turn its rows into structs or values.

A query is plain SQL in the file of its projection. Structs are filled by the order of the columns.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from psycopg import AsyncConnection, AsyncCursor

from projections.engine.model import Row

R = TypeVar("R", bound=Row)
T = TypeVar("T", bound=msgspec.Struct)


async def fetch_all(connection: AsyncConnection, into: type[T], query: str, parameters: Mapping[str, Any]) -> list[T]:
    cursor = await _execute(connection, query, parameters)
    return [into(*row) for row in await cursor.fetchall()]


async def fetch_one(connection: AsyncConnection, into: type[T], query: str, parameters: Mapping[str, Any]) -> T | None:
    row = await (await _execute(connection, query, parameters)).fetchone()
    return None if row is None else into(*row)


async def find_row(connection: AsyncConnection, row: type[R], key: int) -> R | None:
    """Returns the row with this key, which is a single column."""
    query = f"SELECT * FROM {row.table} WHERE {row.table.key[0]} = %(key)s"
    return await fetch_one(connection, row, query, {"key": key})


async def fetch_column(connection: AsyncConnection, query: str, parameters: Mapping[str, Any]) -> list[Any]:
    """The first column of every row."""
    cursor = await _execute(connection, query, parameters)
    return [row[0] for row in await cursor.fetchall()]


async def fetch_value(connection: AsyncConnection, query: str, parameters: Mapping[str, Any]) -> Any:
    """The first column of the first row; None when there is no row."""
    row = await (await _execute(connection, query, parameters)).fetchone()
    return None if row is None else row[0]


async def _execute(
    connection: AsyncConnection, query: str, parameters: Mapping[str, Any]
) -> AsyncCursor[tuple[Any, ...]]:
    return await connection.execute(query.encode(), parameters, prepare=True, binary=True)
