"""The bulk loader: applies a long stretch of the log to read models, much faster than the engine.

- One transaction spans many batches of events, and writes the rows at its end.
- New rows are written by COPY (`projections.engine.row_writer`). Of a row that changed often in the transaction, only
  the last state is written.
- A load from position 0 starts with empty tables. As long as all rows of a table are in memory, it does not read the
  table.
- An index is created when a bulk delete first needs it, or else at the end.

The loader calls the same `apply` functions as the engine. So both write the same rows, and park events for the same
reasons. The rows of a batch are checked together. If one of them cannot be stored, the loader rolls its transaction
back and raises `UncheckedRows`. A careful loader, which checks the rows of each event before the next event, then finds
the event to park. If PostgreSQL rejects a row that has passed the check, the loader rolls back and raises
`LoadRefused`. Then the engine applies the events of the transaction.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from domain.core.events import Damaged, Event, Recorded
from domain.registry import EVENTS
from projections.engine import statements
from projections.engine.buffers import AppendOnlyTable, BufferedTable, LoadConnection, NotInMemory
from projections.engine.column_table import ColumnTable
from projections.engine.engine import REFUSALS, LostLeadership, error_message, find_keys
from projections.engine.model import (
    Change,
    Columns,
    ColumnsByKey,
    Delete,
    DeleteRange,
    DeleteWhere,
    Key,
    Projection,
    R,
    Row,
    RowsByKey,
)
from projections.engine.parking import WAITS, Parked, blocked_streams, park
from projections.engine.row_validation import InvalidValue, check
from projections.engine.row_writer import LoadRefused

log = structlog.get_logger()

MAX_CHANGED_ROWS = 300_000
"""Number of changed rows at which a transaction is committed. It limits the memory that a load needs."""
MAX_UNREAD_ROWS = 50_000
"""Number of changed rows of a table at which a transaction is committed, if no projection reads the table. It is lower
than MAX_CHANGED_ROWS, since rows of such tables may have long texts.
"""
MAX_PACKED_BYTES = 128 << 20
"""Number of bytes of packed rows of append-only tables at which a transaction is committed. Each commit also writes the
changed rows of all other tables, so fewer commits are faster: with 32 MB, results took PostgreSQL a quarter more time.
"""
MAX_EVENTS = 500_000
"""Number of events at which a transaction is committed."""
MAX_TRANSACTION_S = 10.0
"""Seconds after which a transaction is committed. So a crash loses at most this much work, and others see progress. A
transaction writes only at its end: from the first write to the commit the projector is slower, since PostgreSQL keeps
all versions of the rows that the projector changes.
"""
INDEX_MEMORY = "4MB"
"""`maintenance_work_mem` while B-trees are created. Small sorts fit into the cache of the processor: five B-trees of a
million rows take 1.7 s of CPU with 4 MB, and 2.1 s with 32 MB.
"""
GIN_MEMORY = "32MB"
"""`maintenance_work_mem` while a GIN index is created. The GIN index of 20 million results takes 6.3 s with 8 MB, 4.2 s
with 32 MB, and 4.1 s with 64 MB.
"""


def _with_memory(statement: str) -> str:
    """Returns `statement`, which creates an index. For a GIN index, a statement that sets GIN_MEMORY precedes it."""
    return f"SET LOCAL maintenance_work_mem = '{GIN_MEMORY}'; {statement}" if "USING gin" in statement else statement


class UncheckedRows(Exception):
    """Raised by a loader that is not careful when a row cannot be stored. Such a loader checks rows only after each
    batch, so it does not know the event of the row. The transaction was rolled back. Let a careful loader, which checks
    the rows of each event, apply the transaction's events again.
    """


class _Queue:
    """The events of a batch that a projection handles."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.events: list[Recorded] = []

    def handles(self, event: type[Event]) -> bool:
        # A damaged event may be of any type.
        return self.projection.handles is None or event is Damaged or issubclass(event, self.projection.handles)


async def is_load_unfinished(connection: AsyncConnection, projections: Sequence[Projection]) -> bool:
    """Returns True if a load of these projections was interrupted before `finish` had ended. Then some deletes may
    still be deferred.
    """
    tables = [str(row.table) for projection in projections for row in projection.rows]
    cursor = await connection.execute(
        "SELECT FROM pg_class WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)"
        " AND 'autovacuum_enabled=off' = ANY (reloptions)",
        (tables,),
    )
    return await cursor.fetchone() is not None


class BulkLoader:
    """Applies events to `projections`, which must all be at `position`. At position 0 their tables must be empty.
    Implements `Rows`.

    `connection` must be in autocommit mode, and its search path must lead to the tables. While the loader works,
    nothing else may use the connection or write to the tables.
    """

    def __init__(
        self, connection: AsyncConnection, projections: Sequence[Projection], position: int, *, is_careful: bool = True
    ) -> None:
        self.position = self.committed = position
        self._is_careful = is_careful
        """Whether the rows of each event are checked before the next event is applied."""
        self._connection = connection
        self._db = LoadConnection(connection)
        self._projections = projections
        rows = [row for projection in projections for row in projection.rows]
        self._buffered = {
            row: (ColumnTable if row.table.in_columns else BufferedTable)(self._db, row, is_complete=position == 0)
            for row in rows
            if not row.table.append_only
        }
        self._append_only = {row: AppendOnlyTable(self._db, row) for row in rows if row.table.append_only}
        self._store: dict[type[Change], Callable[[Any], None]] = {
            **{row: table.store for row, table in self._buffered.items()},
            **{row: table.rows.append for row, table in self._append_only.items()},
            RowsByKey: self._store_many,
            ColumnsByKey: self._store_columns,
            Delete: self._delete,
            DeleteRange: self._bulk_delete,
            DeleteWhere: self._bulk_delete,
        }
        """Class of a change -> function that stores a change of this class in the buffer of its table."""
        self._queues = [_Queue(projection) for projection in projections]
        self._queues_of: dict[type[Event], list[_Queue]] = {}
        """Event class -> queues of the projections that handle events of this class."""
        self._blocked: set[tuple[str, str]] = set()
        self._parked: list[Parked] = []
        self._is_open, self._opened = False, 0.0

    @property
    def event_names(self) -> list[str] | None:
        """Names of the events that have to be read; None if all events have to be read."""
        handled = [item.handles for item in self._projections if item.handles is not None]
        if len(handled) < len(self._projections):
            return None
        return [name for name, event in EVENTS.items() if any(issubclass(event, classes) for classes in handled)]

    def get(self, row: type[R], *key: Any) -> R | None:
        flat_key: Any = key[0] if len(key) == 1 else key
        return self._buffered[row].get(flat_key)  # type: ignore[return-value]

    def get_many(self, row: type[R], keys: Sequence[Any]) -> Sequence[R | None]:
        return self._buffered[row].get_many(keys)  # type: ignore[return-value]

    def get_columns(self, row: type[Row], first: int, count: int) -> Columns:
        return self._in_columns(row).get_columns(first, count)

    def _in_columns(self, row: type[Row]) -> ColumnTable:
        table = self._buffered[row]
        assert isinstance(table, ColumnTable), f"{row.table} is not kept in columns"
        return table

    async def begin(self) -> None:
        """Prepares the load. At position 0 drops the indexes of all tables; otherwise reads the highest keys, and
        the deletes that an interrupted load has deferred.
        """
        # Compressing full pages of new indexes in the WAL takes longer than creating them.
        await self._connection.execute(
            "SELECT set_config('wal_compression', 'off', false) FROM pg_roles WHERE rolname = current_user AND rolsuper"
        )
        if self.position == 0:
            for row in (*self._buffered, *self._append_only):
                for name in statements.index_names(row):
                    await self._connection.execute(f"DROP INDEX IF EXISTS {name}".encode())
                await self._db.execute("DELETE FROM waiting_deletions WHERE table_name = %s", str(row.table))
        else:
            for buffered in self._buffered.values():
                await buffered.writer.load_highest()
        self._blocked = await blocked_streams(self._connection, self._projections)
        # Autovacuum would go through the tables while they grow, although `finish` collects their statistics.
        await self._alter_tables("SET (autovacuum_enabled = off)")
        for table in self._append_only.values():
            await table.load_deferred()

    async def apply(self, events: Sequence[Recorded]) -> None:
        """Applies the next events after `position`. Raises UncheckedRows or LoadRefused if a row cannot be stored,
        LostLeadership if another process has moved the projections, or psycopg.OperationalError.
        """
        async with self._rollback_on_error():
            await self._open()
            self.position = events[-1].position
            self._enqueue(events)
            for queue in self._queues:
                await self._apply_to(queue.projection, queue.events)
                queue.events.clear()
            for table in self._buffered.values():
                table.check()
            for append_only in self._append_only.values():
                append_only.pack()
            if self._is_full() or time.monotonic() - self._opened >= MAX_TRANSACTION_S:
                await self._commit()

    async def finish(self, position: int, *, with_statistics: bool = True) -> None:
        """Writes the remaining rows, creates indexes, collects statistics if `with_statistics`, and moves the
        projections to `position`. Collecting takes a second, so leave it out if hardly any rows are new since the last
        time.

        All events up to `position` that the projections handle must have been applied. Raises LoadRefused,
        LostLeadership or psycopg.OperationalError.
        """
        async with self._rollback_on_error():
            await self._open()
            self.position = position
            await self._commit()
            await self._connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", (INDEX_MEMORY,))
            for table in self._append_only.values():
                await self._open()
                await table.delete_deferred()
                await self._close()
            for row in (*self._append_only, *self._buffered):
                analyze = [f"ANALYZE {row.table}"] if with_statistics else []
                for statement in (*statements.create(row)[1:], *analyze):
                    await self._connection.execute(_with_memory(statement).encode())
            await self._alter_tables("RESET (autovacuum_enabled)")
            await self._connection.execute("RESET maintenance_work_mem")

    async def _alter_tables(self, change: str) -> None:
        tables = (row.table for row in (*self._append_only, *self._buffered))
        await self._connection.execute("; ".join(f"ALTER TABLE {table} {change}" for table in tables).encode())

    def _is_full(self) -> bool:
        """Returns whether the transaction has so many changes that it should be committed."""
        return (
            self.position - self.committed >= MAX_EVENTS
            or sum(table.changes for table in self._buffered.values()) >= MAX_CHANGED_ROWS
            or any(table.changes >= MAX_UNREAD_ROWS for table in self._buffered.values() if not table.is_read)
            or sum(table.packed_bytes for table in self._append_only.values()) >= MAX_PACKED_BYTES
        )

    def _enqueue(self, events: Sequence[Recorded]) -> None:
        """Appends each event to the queues of the projections that handle it."""
        for event in events:
            kind = type(event.event)
            queues = self._queues_of.get(kind)
            if queues is None:
                queues = self._queues_of[kind] = [queue for queue in self._queues if queue.handles(kind)]
            for queue in queues:
                queue.events.append(event)

    async def _apply_to(self, projection: Projection, events: Sequence[Recorded]) -> None:
        """Applies events of a batch to one projection, or parks them."""
        # `changes` also looks for dismissed and damaged events, of which most logs have none.
        is_plain = not projection.dismissed and Damaged not in self._queues_of
        find_changes = projection.apply if is_plain else projection.changes
        blocked, store = self._blocked, self._store
        for number, event in enumerate(events):
            if blocked and (projection.name, event.stream) in blocked:
                self._parked.append((projection, event, WAITS))
                continue
            try:
                changes = list(find_changes(event, self))
                if self._is_careful:
                    self._check(changes)
            except NotInMemory as error:
                if await self._fetch(projection, events[number:]):
                    await self._apply_to(projection, events[number:])
                    break
                self._park(projection, event, error)  # `keys` did not name the row, or failed
                continue
            except Exception as error:
                self._park(projection, event, error)
                continue
            for change in changes:
                store[type(change)](change)

    def _check(self, changes: Iterable[Change]) -> None:
        """Raises InvalidValue for a row that cannot be stored. Append-only rows are validated when they are packed."""
        for change in changes:
            if type(change) not in self._append_only:
                check(change)

    def _park(self, projection: Projection, event: Recorded, error: Exception) -> None:
        message = error_message(error)
        log.error("event parked", projection=projection.name, position=event.position, error=message)
        self._parked.append((projection, event, message))
        self._blocked.add((projection.name, event.stream))

    def _store_many(self, change: RowsByKey) -> None:
        self._buffered[change.row].store_many(change.rows)

    def _store_columns(self, change: ColumnsByKey) -> None:
        self._in_columns(change.row).put_columns(change)

    def _delete(self, change: Delete) -> None:
        table = self._buffered[change.row]
        table.delete(table.flatten(change.key))

    def _bulk_delete(self, change: DeleteRange) -> None:
        (self._buffered.get(change.row) or self._append_only[change.row]).bulk_delete(change)

    async def _fetch(self, projection: Projection, events: Sequence[Recorded]) -> bool:
        """Reads the rows that the projection needs for these events into memory, except rows that are in memory
        already. Returns whether any row had to be read.
        """
        missing: dict[type[Row], set[Key]] = defaultdict(set)
        for event in events:
            for row, key in find_keys([projection], event):
                table = self._buffered[row]
                if not table.has(table.flatten(key)):
                    missing[row].add(key)
        for row, keys in missing.items():
            await self._buffered[row].fetch(keys)
        return bool(missing)

    async def _commit(self) -> None:
        for buffered in self._buffered.values():
            await buffered.write()
        for table in self._append_only.values():
            await table.write()
        if self._parked:
            query, parameters = park(self._parked)
            await self._db.execute(query, *parameters)
            self._parked = []
        names = [f"{projection.name} {projection.version}" for projection in self._projections]
        cursor = await self._connection.execute(
            "UPDATE projection_positions SET position = %s, updated_at = now()"
            " WHERE name || ' ' || version = ANY (%s) AND position = %s",
            (self.position, names, self.committed),
        )
        if cursor.rowcount != len(names):
            raise LostLeadership("another process moved these projections")
        await self._close()
        self.committed = self.position

    async def _open(self) -> None:
        if not self._is_open:
            await self._connection.execute("BEGIN")
            # Deletes look rows up one by one; without statistics the planner may scan the table instead.
            await self._connection.execute("SET LOCAL enable_seqscan = off")
            # A crash of PostgreSQL may lose the last transactions: rows and position together, so nothing is missing.
            await self._connection.execute("SET LOCAL synchronous_commit = off")
            self._is_open, self._opened = True, time.monotonic()

    async def _close(self) -> None:
        await self._connection.execute("COMMIT")
        self._is_open = False

    @contextlib.asynccontextmanager
    async def _rollback_on_error(self) -> AsyncIterator[None]:
        """Rolls the transaction back if the body of the context raises. Raises UncheckedRows if a row was found that
        cannot be stored, LoadRefused if PostgreSQL rejected a row, otherwise the error.
        """
        try:
            yield
        except BaseException as error:
            self._is_open = False
            with contextlib.suppress(psycopg.Error):
                await self._connection.execute("ROLLBACK")
            if isinstance(error, InvalidValue):
                raise UncheckedRows(str(error)) from error
            if isinstance(error, REFUSALS):
                raise LoadRefused(error_message(error)) from error
            raise
