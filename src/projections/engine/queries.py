"""Queries are plain SQL in the projection's file; these turn their rows into structs, by column order."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from psycopg import AsyncConnection

T = TypeVar("T", bound=msgspec.Struct)


async def all_rows(connection: AsyncConnection, into: type[T], query: str, parameters: Mapping[str, Any]) -> list[T]:
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    return [into(*row) for row in await cursor.fetchall()]


async def one_row(connection: AsyncConnection, into: type[T], query: str, parameters: Mapping[str, Any]) -> T | None:
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    row = await cursor.fetchone()
    return None if row is None else into(*row)


async def scalar(connection: AsyncConnection, query: str, parameters: Mapping[str, Any]) -> Any:
    cursor = await connection.execute(query.encode(), parameters, prepare=True, binary=True)
    row = await cursor.fetchone()
    return None if row is None else row[0]
