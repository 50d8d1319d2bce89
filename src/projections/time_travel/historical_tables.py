"""Historical tables: the tables that one historical read needs, as they were at a position of the log.

The `apply` functions of the projections fold the events in memory. Then the rows are written to temporary tables that
have the names of the live tables. So the query functions of live reads work unchanged. The connection sees no other
tables: a query that needs a missing table fails, instead of reading the present.
"""

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
    ColumnsByKey,
    Delete,
    DeleteRange,
    Key,
    Projection,
    R,
    Row,
    RowsByKey,
    columns_of,
)
from projections.registry import PROJECTIONS
from store.postgres.caller_turns import CallerTurns

log = structlog.get_logger()

MAX_CONCURRENT = 2
"""Number of historical reads that a process runs at once, each for a different caller."""
MAX_OF_CALLER = 10
"""Largest number of historical reads, running or waiting, that one caller may have in a process."""
MAX_WAITING = 50
"""Largest number of historical reads, running or waiting, that all callers together may have in a process."""
STATEMENT_TIMEOUT_S = 30
"""Seconds that one query of a historical read may take."""
INDEX_FROM_ROWS = 1_000
"""Number of rows above which a table gets indexes and statistics. Smaller tables are faster without them."""
STORE_TABLES = ("agent_gauges", "queue_reasons")
"""Tables that live reads join, but that are not made from events. They are empty in a historical read."""

WantedKeys = Mapping[type[Row], Collection[Key]]
"""Table -> keys of the rows to keep. Tables that are not in the mapping keep all rows."""


class HistoricalTables:
    """Rows of some tables, in memory, after the events applied so far. Implements `Rows`."""

    def __init__(self, rows: Iterable[type[Row]], projections: Sequence[Projection] = PROJECTIONS) -> None:
        self._rows: dict[type[Row], dict[Key, Row]] = {row: {} for row in rows}
        self._projections = [item for item in projections if not self._rows.keys().isdisjoint(item.rows)]
        self._blocked: set[tuple[str, str]] = set()
        self._erased_keys: set[tuple[type[Row], Key]] = set()
        """Keys of rows that were made or changed by events that have been erased since."""

    @property
    def has_erased_rows(self) -> bool:
        """True if some rows cannot be shown as they were, because events that made them were erased later."""
        return bool(self._erased_keys)

    def is_erased(self, row: Row) -> bool:
        """Returns True if this row cannot be shown as it was, because an event that made it was erased later."""
        return (type(row), row.row_key) in self._erased_keys

    def get(self, row: type[R], *key: Any) -> R | None:
        """Returns the row with this key. Returns None if there is no such row, or if this object lacks the table."""
        found = self._rows.get(row, {}).get(key)
        assert found is None or isinstance(found, row)
        return found

    def get_many(self, row: type[R], keys: Sequence[Any]) -> list[R | None]:
        return [self.get(row, key) for key in keys]

    def get_columns(self, row: type[Row], first: int, count: int) -> None:
        return None

    def all(self, row: type[R]) -> list[R]:
        return [found for found in self._rows[row].values() if isinstance(found, row)]

    def apply(self, recorded: Recorded, only: WantedKeys = MappingProxyType({}), *, is_erased: bool = False) -> None:
        """Applies one event to the tables. `is_erased` says that the event was erased later."""
        for projection in self._projections:
            blocked_key = (projection.name, recorded.stream)
            handles = projection.handles is None or isinstance(recorded.event, (Damaged, *projection.handles))
            if not handles or blocked_key in self._blocked:
                continue
            try:
                changes = projection.changes(recorded, self)
            except Exception as error:
                # The event is parked in the live tables, and so are later events of its stream. So they are left out
                # here too.
                log.error(
                    "event left out of a historical read",
                    projection=projection.name,
                    position=recorded.position,
                    error=repr(error),
                )
                self._blocked.add(blocked_key)
                continue
            for change in changes:
                self._change(change, only, is_erased)

    def _change(self, change: Change, only: WantedKeys, is_erased: bool) -> None:
        row = type(change) if isinstance(change, Row) else change.row
        if row not in self._rows:
            return
        rows = self._rows[row]
        match change:
            case Row():
                if row not in only or change.row_key in only[row]:
                    rows[change.row_key] = change
                    self._erased_keys.update([(row, change.row_key)] if is_erased else ())
            case RowsByKey():
                for one in change.rows.values():
                    self._change(one, only, is_erased)
            case Delete():
                self._remove(row, [change.key])
            case DeleteRange():
                self._remove(row, [key for key, item in rows.items() if change.matches(item)])
            case ColumnsByKey():
                raise AssertionError(f"columns of {row.table} were changed, and `get_columns` returned none")
            case _:
                assert_never(change)

    def _remove(self, row: type[Row], keys: Iterable[Key]) -> None:
        for key in keys:
            self._rows[row].pop(key, None)
            self._erased_keys.discard((row, key))

    async def write(self, connection: AsyncConnection) -> None:
        """Creates and fills the temporary tables, in the caller's transaction."""
        # `pg_temp` is the only schema in the search path: new tables are temporary, and live tables are not found.
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
    """Opens database connections whose queries read historical tables in place of the live tables."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self.turns = CallerTurns(MAX_CONCURRENT, MAX_OF_CALLER, MAX_WAITING, "reads of the past")

    @asynccontextmanager
    async def open(self, tables: HistoricalTables) -> AsyncIterator[AsyncConnection]:
        """Yields a new connection that sees only these tables, and rolls its transaction back at the end.

        Connections of the pool do not work for this, since their prepared statements are bound to the live tables.
        """
        async with (
            await AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=5) as connection,
            connection.transaction(force_rollback=True),
        ):
            await connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{STATEMENT_TIMEOUT_S}s",))
            await tables.write(connection)
            yield connection
