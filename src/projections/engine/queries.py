"""Run a query and turn its rows into structs or values.

A query is plain SQL in the file of its projection. Structs are filled by the order of the columns.
"""

from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

import msgspec

from projections.engine.model import Row
from store.postgres.queries import Source, fetch_row, fetch_rows

R = TypeVar("R", bound=Row)
T = TypeVar("T", bound=msgspec.Struct)


class Window(TypedDict):
    """The part of a list that a query returns: `limit` items after this id and the first `offset` that follow it."""

    after: int
    offset: int
    limit: int


async def fetch_all(source: Source, into: type[T], query: str, parameters: Mapping[str, Any]) -> list[T]:
    return [into(*row) for row in await fetch_rows(source, query, parameters)]


async def fetch_one(source: Source, into: type[T], query: str, parameters: Mapping[str, Any]) -> T | None:
    row = await fetch_row(source, query, parameters)
    return None if row is None else into(*row)


async def find_row(source: Source, row: type[R], key: int) -> R | None:
    """Returns the row with this key, which is a single column."""
    query = f"SELECT * FROM {row.table} WHERE {row.table.key[0]} = %(key)s"
    return await fetch_one(source, row, query, {"key": key})


async def fetch_column(source: Source, query: str, parameters: Mapping[str, Any]) -> list[Any]:
    """The first column of every row."""
    return [row[0] for row in await fetch_rows(source, query, parameters)]


async def fetch_value(source: Source, query: str, parameters: Mapping[str, Any]) -> Any:
    """The first column of the first row; None when there is no row."""
    row = await fetch_row(source, query, parameters)
    return None if row is None else row[0]
