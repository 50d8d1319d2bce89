"""Runs one statement, on the caller's connection or on a connection from a pool. Prepares statements, and transfers
rows in PostgreSQL's binary format.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

Source = AsyncConnection | AsyncConnectionPool
Parameters = Sequence[Any] | Mapping[str, Any] | None


MAX_KEPT_CURSORS = 100
"""Largest number of queries for which a connection keeps a cursor. psycopg keeps equally many statements prepared for a
connection.
"""


class QueryConnection(AsyncConnection[tuple[Any, ...]]):
    """A connection that keeps a cursor for each query. Choosing the converters of parameters and columns for a new
    cursor takes a third of the time that psycopg needs for a small query.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept: dict[str, tuple[bytes, AsyncCursor]] = {}
        """Query -> (the query in bytes, its cursor). psycopg must get the same bytes object each time."""

    async def fetch(self, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        # Taken out meanwhile, so that nobody else uses the cursor, and nobody after an error.
        kept = self._kept.pop(query) if query in self._kept else None
        encoded, cursor = kept or (query.encode(), self.cursor(binary=True))
        await cursor.execute(encoded, parameters, prepare=True)
        rows = await cursor.fetchall()
        if cursor.pgresult is not None:
            cursor.pgresult.clear()  # a cursor keeps no rows
        if len(self._kept) < MAX_KEPT_CURSORS:
            self._kept[query] = encoded, cursor
        return rows


def int_array(values: Iterable[int]) -> str:
    """Returns an array as text, for a parameter like `%s::bigint[]` of a statement that runs often.

    psycopg would choose int2[], int4[] or int8[] for a list by its values, prepare a statement for every combination,
    and take ten times as long.
    """
    return "{" + ",".join(map(str, values)) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """Returns an array as text, for a parameter like `%s::text[]` of a statement that runs often."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@asynccontextmanager
async def connected(source: Source) -> AsyncIterator[AsyncConnection]:
    """Yields one connection for several statements: `source` itself if it is a connection, else one from the pool."""
    if isinstance(source, AsyncConnection):
        yield source
    else:
        async with source.connection() as connection:
            yield connection


async def fetch_rows(source: Source, query: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
    if not isinstance(source, AsyncConnection):
        # Without `source.connection()`, which takes as long as half of a small query and adds nothing to autocommit.
        connection = await source.getconn()
        try:
            return await fetch_rows(connection, query, parameters)
        finally:
            await source.putconn(connection)
    if isinstance(source, QueryConnection):
        return await source.fetch(query, parameters)
    cursor = await execute(source, query, parameters)
    return await cursor.fetchall()


async def fetch_row(source: Source, query: str, parameters: Parameters = None) -> tuple[Any, ...] | None:
    """Returns the first row; None when there is no row."""
    return next(iter(await fetch_rows(source, query, parameters)), None)


async def fetch_rows_planned(source: AsyncConnection, query: str, parameters: Parameters) -> list[tuple[Any, ...]]:
    """Returns the rows of a query that PostgreSQL plans anew for these parameters. Use it if the best plan depends on
    the parameters, for example on how frequent a word is.
    """
    cursor = await source.execute(query.encode(), parameters, prepare=False, binary=True)
    return await cursor.fetchall()


async def execute(source: Source, query: str, parameters: Parameters = None) -> AsyncCursor:
    if not isinstance(source, AsyncConnection):
        async with source.connection() as connection:
            return await execute(connection, query, parameters)
    return await source.execute(query.encode(), parameters, prepare=True, binary=True)
