"""Time travel: the read tables of one answer as they were at a position.

The projections' own functions fold exactly the events that the answer is made of, in memory. What they leave goes to
temporary tables with the names of the serving ones, and the queries of the live read run over these. Their connection
sees no other table, so whatever a query touches is in the past too, or the query fails.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, assert_never

import msgspec
import structlog
from psycopg import AsyncConnection

from domain.core.events import Damaged, Recorded
from projections.engine import binary_copy, statements
from projections.engine.model import (
    Change,
    Delete,
    DeleteRange,
    DeleteWhere,
    Key,
    R,
    Row,
    RowsByKey,
    check_readable,
    columns_of,
)
from projections.registry import PROJECTIONS

log = structlog.get_logger()

MAX_CONCURRENT = 2
"""Looks into the past that one process has under way together."""
STATEMENT_TIMEOUT = "30s"
"""Of each of its queries."""
INDEX_FROM_ROWS = 1_000
"""Rows that are read as fast without indexes and statistics as these are made."""
STORE_TABLES = ("agent_gauges", "queue_reasons")
"""What live reads also show and no event tells: there, and empty."""

WantedKeys = Mapping[type[Row], Collection[Key]]
"""Of these tables only rows with these keys are wanted."""


class HistoricalTables:
    """Implements `Rows`: the tables of these rows as far as events were applied, in memory."""

    def __init__(self, rows: Iterable[type[Row]]) -> None:
        self._rows: dict[type[Row], dict[Key, Row]] = {row: {} for row in rows}
        self._projections = [item for item in PROJECTIONS if not self._rows.keys().isdisjoint(item.rows)]
        self._stuck: set[tuple[str, str]] = set()
        self._erased: set[tuple[type[Row], Key]] = set()
        """Rows that erased events have made or changed."""

    @property
    def is_erased(self) -> bool:
        """Whether rows are here that are not what they were."""
        return bool(self._erased)

    def get(self, row: type[R], *key: Any) -> R | None:
        """None too for rows of tables that are not among these."""
        found = self._rows.get(row, {}).get(key)
        assert found is None or isinstance(found, row)
        return found

    def get_many(self, row: type[R], keys: Sequence[Any]) -> list[R | None]:
        return [self.get(row, key) for key in keys]

    def all(self, row: type[R]) -> list[R]:
        return [found for found in self._rows[row].values() if isinstance(found, row)]

    def apply(self, recorded: Recorded, only: WantedKeys = MappingProxyType({}), *, is_blank: bool = False) -> None:
        """`is_blank` when its contents were erased."""
        for projection in self._projections:
            place = (projection.name, recorded.stream)
            takes = projection.handles is None or isinstance(recorded.event, (Damaged, *projection.handles))
            if not takes or place in self._stuck:
                continue
            try:
                check_readable(projection, recorded)
                changes = list(projection.apply(recorded, self))
            except Exception as error:
                # Parked, live: so it is not shown here either, nor what follows it.
                log.error("event not shown", projection=projection.name, position=recorded.position, error=repr(error))
                self._stuck.add(place)
                continue
            for change in changes:
                self._change(change, only, is_blank)

    def _change(self, change: Change, only: WantedKeys, is_blank: bool) -> None:
        row = type(change) if isinstance(change, Row) else change.row
        if row not in self._rows:
            return
        rows = self._rows[row]
        match change:
            case Row():
                if row not in only or change.row_key in only[row]:
                    rows[change.row_key] = change
                    self._erased.update([(row, change.row_key)] if is_blank else ())
            case RowsByKey():
                for one in change.rows.values():
                    self._change(one, only, is_blank)
            case Delete():
                self._remove(row, [change.key])
            case DeleteWhere() | DeleteRange():
                self._remove(row, [key for key, item in rows.items() if change.matches(item)])
            case _:
                assert_never(change)

    def _remove(self, row: type[Row], keys: Iterable[Key]) -> None:
        for key in keys:
            self._rows[row].pop(key, None)
            self._erased.discard((row, key))

    async def write(self, connection: AsyncConnection) -> None:
        """Makes the temporary tables; in a transaction."""
        # Alone, so that new tables are temporary and others are not found.
        await connection.execute("SET LOCAL search_path = pg_temp")
        for table in STORE_TABLES:
            await connection.execute(f"CREATE TABLE {table} (LIKE public.{table})".encode())
        for row, found in self._rows.items():
            table, *indexes = statements.create(row)
            await connection.execute(table.encode())
            if found and row.table.append_only:
                await binary_copy.copy_rows(connection, row, [binary_copy.pack_rows(list(found.values()))])
            elif found:
                await _copy(connection, row, found.values())
            if len(found) > INDEX_FROM_ROWS:
                for statement in (*indexes, f"ANALYZE {row.table}"):
                    await connection.execute(statement.encode())


async def _copy(connection: AsyncConnection, row: type[Row], rows: Iterable[Row]) -> None:
    cols = columns_of(row)
    query = f"COPY {row.table} ({', '.join(column.name for column in cols)}) FROM STDIN"
    async with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for item in rows:
            await copy.write_row(
                [
                    msgspec.json.encode(value).decode() if column.sql_type == "jsonb" and value is not None else value
                    for column in cols
                    for value in (getattr(item, column.name),)
                ]
            )


class HistoricalConnections:
    """Where past tables are put up."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._places = asyncio.Semaphore(MAX_CONCURRENT)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for its turn."""
        async with self._places:
            yield

    @asynccontextmanager
    async def showing(self, tables: HistoricalTables) -> AsyncIterator[AsyncConnection]:
        """A connection of its own, since prepared plans hold on to the tables that they were made for. Nothing of it
        stays.
        """
        async with (
            await AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=5) as connection,
            connection.transaction(force_rollback=True),
        ):
            await connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
            await tables.write(connection)
            yield connection
