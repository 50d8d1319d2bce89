"""Runs queries, and returns their rows as structs or values.

Queries are plain SQL in the files of the projections. The columns of a row fill the fields of a struct in order.
"""

from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

import msgspec

from projections.engine.model import Row
from store.postgres.queries import Source, fetch_row, fetch_rows

R = TypeVar("R", bound=Row)
T = TypeVar("T", bound=msgspec.Struct)


class Window(TypedDict):
    """A page of a list that is ordered by id: skips `offset` of the items with ids above `after`, and returns the next
    `limit`.
    """

    after: int
    offset: int
    limit: int


async def fetch_all(source: Source, into: type[T], query: str, parameters: Mapping[str, Any]) -> list[T]:
    return [into(*row) for row in await fetch_rows(source, query, parameters)]


async def fetch_one(source: Source, into: type[T], query: str, parameters: Mapping[str, Any]) -> T | None:
    row = await fetch_row(source, query, parameters)
    return None if row is None else into(*row)


async def find_row(source: Source, row: type[R], key: int) -> R | None:
    """Returns the row with this key; None if there is none. The table's key must be a single column."""
    query = f"SELECT * FROM {row.table} WHERE {row.table.key[0]} = %(key)s"
    return await fetch_one(source, row, query, {"key": key})


async def fetch_column(source: Source, query: str, parameters: Mapping[str, Any]) -> list[Any]:
    """Returns the first column of every row."""
    return [row[0] for row in await fetch_rows(source, query, parameters)]


async def fetch_value(source: Source, query: str, parameters: Mapping[str, Any]) -> Any:
    """Returns the first column of the first row; None if there is no row."""
    row = await fetch_row(source, query, parameters)
    return None if row is None else row[0]
