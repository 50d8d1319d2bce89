"""The loader: takes read models far along the log, where the engine would write batch by batch.

One transaction spans many batches. Rows of tables that only grow are written by COPY as they come; rows that
projections ask for stay in memory and are written once, at the end of the transaction, however often they changed;
other rows are written some hundreds at a time. Tables that begin empty are known without looking: only what has left
the memory is fetched. Indexes are made when a deletion first needs them, the rest at the end.

The pure functions are called as ever, so the rows are the same, and events are parked for the same reasons. What only
the database refuses is the engine's to judge: `Refused` undoes the transaction, and its events go through the engine.
"""

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from domain.core.events import Damaged, Event, Recorded
from domain.registry import EVENTS
from projections.engine import binary_copy, statements
from projections.engine.buffers import AppendOnlyTable, BufferedTable, Span
from projections.engine.engine import REFUSALS, LostLeadership, error_message
from projections.engine.model import (
    Change,
    Delete,
    DeleteRange,
    DeleteWhere,
    Key,
    Many,
    Projection,
    R,
    Row,
    must_be_readable,
)
from projections.engine.parking import WAITS, Parked, blocked_streams, park
from projections.engine.row_validation import check

log = structlog.get_logger()

ROWS_AT_ONCE = 500
"""Rows of a table that no projection asks for, and that are written together."""
BYTES_AT_ONCE = 1 << 18
"""The same of tables that only grow."""
ROWS_CHANGED = 300_000
"""Rows in memory that end a transaction."""
EVENTS_AT_MOST = 500_000
SECONDS_AT_MOST = 20.0
"""Of one transaction: what a crash costs, and how old the progress is that others see."""
MEMORY = "16MB"
"""For making an index: what is sorted at once shall stay in the processor's cache. 20 million rows take 8 s of CPU, and
12 with 256 MB.
"""
_UNKNOWN: Any = object()


class Refused(Exception):
    """The transaction is undone; its events have to go through the engine."""


class _Unknown(Exception):
    """A projection asks for a row that is not in memory."""


class _Takers(dict[type[Event], list[Projection]]):
    """The projections that take a type of event."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        super().__init__()
        self._projections = projections

    def __missing__(self, event: type[Event]) -> list[Projection]:
        # What is damaged may be of any type.
        self[event] = [
            item
            for item in self._projections
            if item.takes is None or event is Damaged or issubclass(event, item.takes)
        ]
        return self[event]


async def is_unfinished(connection: AsyncConnection, projections: Sequence[Projection]) -> bool:
    """Whether a load of these was ended before `finish` was through: their deletions may still wait."""
    growing = [str(row.table) for projection in projections for row in projection.rows if row.table.append_only]
    cursor = await connection.execute(
        "SELECT FROM pg_class WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)"
        " AND 'autovacuum_enabled=off' = ANY (reloptions)",
        (growing,),
    )
    return await cursor.fetchone() is not None


class Loader:
    """Implements `Rows`. `connection` is autocommit and stands where the tables are; both are the loader's alone.

    Moves `projections` from `position`, where all of them stand. At 0 their tables are empty.
    """

    def __init__(self, connection: AsyncConnection, projections: Sequence[Projection], position: int) -> None:
        self.position = self.committed = position
        self._connection = connection
        self._projections = projections
        rows = [row for projection in projections for row in projection.rows]
        self._held = {row: BufferedTable(row, is_whole=position == 0) for row in rows if not row.table.append_only}
        self._grown = {row: AppendOnlyTable(row) for row in rows if row.table.append_only}
        self._takers = _Takers(projections)
        self._blocked: set[tuple[str, str]] = set()
        self._parked: list[Parked] = []
        self._indexed: set[tuple[type[Row], str]] = set()
        self._is_open, self._opened = False, 0.0

    @property
    def names(self) -> list[str] | None:
        """The events to read; None for all."""
        takes = [item.takes for item in self._projections if item.takes is not None]
        if len(takes) < len(self._projections):
            return None
        return [name for name, event in EVENTS.items() if any(issubclass(event, taken) for taken in takes)]

    def get(self, row: type[R], *key: Any) -> R | None:
        held = self._held[row]
        held.is_asked = True
        found: Any = held.rows.get(held.place(key), None if held.is_whole else _UNKNOWN)
        if found is _UNKNOWN:
            raise _Unknown
        return found  # type: ignore[no-any-return]

    def get_many(self, row: type[R], keys: Sequence[Any]) -> Sequence[R | None]:
        held = self._held[row]
        held.is_asked = True
        if not held.is_whole and not all(map(held.rows.__contains__, keys)):
            raise _Unknown
        return list(map(held.rows.get, keys))  # type: ignore[arg-type]

    async def begin(self) -> None:
        """Drops the indexes of empty tables, and finds what an earlier load left waiting."""
        # Compressing the pages of new indexes in the log of the database takes longer than making them.
        await self._connection.execute(
            "SELECT set_config('wal_compression', 'off', false) FROM pg_roles WHERE rolname = current_user AND rolsuper"
        )
        if self.position == 0:
            for row in (*self._held, *self._grown):
                for name in statements.index_names(row):
                    await self._connection.execute(f"DROP INDEX IF EXISTS {name}".encode())
                await self._execute("DELETE FROM waiting_deletions WHERE table_name = %s", str(row.table))
        self._blocked = await blocked_streams(self._connection, self._projections)
        for row, grown in self._grown.items():
            # Next to nothing is deleted until `finish`, which undoes this: nothing to clear away meanwhile.
            await self._connection.execute(f"ALTER TABLE {row.table} SET (autovacuum_enabled = off)".encode())
            cursor = await self._connection.execute(
                "SELECT column_name, first, last FROM waiting_deletions WHERE table_name = %s", (str(row.table),)
            )
            for values in await cursor.fetchall():
                grown.wait(Span(*values))

    async def take(self, events: Sequence[Recorded]) -> None:
        """Applies events that follow `position`. Raises Refused, LostLeadership and psycopg.OperationalError."""
        async with self._undone():
            await self._open()
            for number, event in enumerate(events):
                for projection in self._takers[type(event.event)]:
                    try:
                        changes = self._changes(projection, event)
                    except _Unknown:
                        await self._fetch(events[number:])
                        changes = self._changes(projection, event)
                    for change in changes:
                        if isinstance(change, Row) and (grown := self._grown.get(type(change))) is not None:
                            if grown.would_lose(change):
                                await self._settle(grown)
                            grown.rows.append(change)
                        else:
                            self._put(change)
                self.position = event.position
            for held in self._held.values():
                if not held.is_asked and len(held.changed) >= ROWS_AT_ONCE:
                    await self._write(held)
                    held.forget()
            for grown in self._grown.values():
                self._pack(grown)
                if grown.size >= BYTES_AT_ONCE:
                    await self._copy(grown)
            changed = sum(len(held.changed) for held in self._held.values())
            if (
                changed >= ROWS_CHANGED
                or self.position - self.committed >= EVENTS_AT_MOST
                or time.monotonic() - self._opened >= SECONDS_AT_MOST
            ):
                await self._commit()

    async def finish(self, position: int) -> None:
        """Writes what is left, and makes indexes and statistics. These projections take no event more up to `position`.

        Raises as `take`.
        """
        async with self._undone():
            await self._open()
            self.position = position
            await self._commit()
            await self._connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", (MEMORY,))
            for grown in self._grown.values():
                await self._open()
                await self._settle(grown)
                await self._close()
            for row in (*self._grown, *self._held):
                for statement in (*statements.create(row), f"ANALYZE {row.table}"):
                    await self._connection.execute(statement.encode())
            for row in self._grown:
                await self._connection.execute(f"ALTER TABLE {row.table} RESET (autovacuum_enabled)".encode())
            await self._connection.execute("RESET maintenance_work_mem")

    def _changes(self, projection: Projection, event: Recorded) -> list[Change]:
        """What follows from an event; nothing where it is parked. Raises _Unknown."""
        if self._blocked and (projection.name, event.stream) in self._blocked:
            self._parked.append((projection, event, WAITS))
            return []
        try:
            return self._applied(projection, event)
        except _Unknown:
            raise
        except Exception as error:
            log.error("event parked", projection=projection.name, position=event.position, error=error_message(error))
            self._parked.append((projection, event, error_message(error)))
            self._blocked.add((projection.name, event.stream))
            return []

    def _applied(self, projection: Projection, event: Recorded) -> list[Change]:
        """Raises Unreadable, whatever the projection raises, and Unfit."""
        if type(event.event) is Damaged:
            must_be_readable(projection, event)
        changes = list(projection.apply(event, self))
        for change in changes:
            if type(change) not in self._grown:  # whether those fit is seen when they are packed
                check(change)
        return changes

    def _put(self, change: Change) -> None:
        match change:
            case Row():
                held = self._held[type(change)]
                held.put(held.place_of(change), change)
            case Many():
                self._held[change.row].put_all(change.rows)
            case Delete():
                held = self._held[change.row]
                held.put(held.place(change.key), None)
            case DeleteWhere() | DeleteRange():
                (self._held.get(change.row) or self._grown[change.row]).sweep(change)

    async def _fetch(self, events: Sequence[Recorded]) -> None:
        """The rows that these events name and that are not in memory."""
        missing: dict[type[Row], set[Key]] = defaultdict(set)
        for event in events:
            for projection in self._takers[type(event.event)]:
                for row, key in projection.keys(event):
                    held = self._held[row]
                    if not held.is_whole and held.place(key) not in held.rows:
                        missing[row].add(key)
        for row, keys in missing.items():
            held = self._held[row]
            held.is_asked = True
            await self._write_sweeps(held)
            cursor = await self._connection.execute(
                statements.fetch(row).encode(), (statements.keys_json(row, keys),), prepare=True, binary=True
            )
            held.rows.update(dict.fromkeys(map(held.place, keys)))
            held.rows.update(
                (held.place_of(item), item) for item in (row(*values) for values in await cursor.fetchall())
            )

    async def _write(self, held: BufferedTable) -> None:
        await self._write_sweeps(held)
        for kept, gone in held.written():
            if gone:
                await self._execute(statements.delete(held.row), statements.keys_json(held.row, gone))
            if kept:
                await self._execute(statements.upsert(held.row), statements.rows_json(kept))

    async def _write_sweeps(self, held: BufferedTable) -> None:
        for column in {sweep.column for sweep in held.swept}:
            await self._index(held.row, column)
        for query, parameters in statements.sweeps(held.swept):
            await self._execute(query, *parameters)
        held.swept = []

    def _pack(self, grown: AppendOnlyTable) -> None:
        """Raises Refused: which of the rows does not fit the engine finds."""
        try:
            grown.pack()
        except binary_copy.ERRORS as error:
            raise Refused(error_message(error)) from error

    async def _copy(self, grown: AppendOnlyTable) -> None:
        self._pack(grown)
        if grown.packed:
            await binary_copy.copy(self._connection, grown.row, grown.packed)
            grown.written()

    async def _settle(self, grown: AppendOnlyTable) -> None:
        """Carries out what waits."""
        table = str(grown.row.table)
        await self._copy(grown)
        await self._save(grown)
        # Also for what a load before this one has left.
        waiting = "SELECT DISTINCT column_name FROM waiting_deletions WHERE table_name = %s"
        cursor = await self._connection.execute(waiting.encode(), (table,), prepare=True)
        for (column,) in await cursor.fetchall():
            await self._index(grown.row, column)
            await self._execute(
                f"DELETE FROM {table} USING waiting_deletions"
                f" WHERE table_name = %s AND column_name = %s AND {column} BETWEEN first AND last",
                table,
                column,
            )
        await self._execute("DELETE FROM waiting_deletions WHERE table_name = %s", table)
        grown.settled()

    async def _save(self, grown: AppendOnlyTable) -> None:
        if grown.unsaved:
            columns = [list(values) for values in zip(*grown.unsaved, strict=True)]
            await self._execute(
                "INSERT INTO waiting_deletions (table_name, column_name, first, last)"
                " SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])",
                str(grown.row.table),
                *columns,
            )
            grown.unsaved = []

    async def _index(self, row: type[Row], column: str) -> None:
        """Makes the index by which rows are found by this column, if it has one."""
        if (row, column) not in self._indexed:
            self._indexed.add((row, column))
            for body, statement in zip(row.table.indexes, statements.create(row)[1:], strict=True):
                if re.match(rf"[^(]*\({column}\b", body):
                    await self._connection.execute(statement.encode())
                    return

    async def _commit(self) -> None:
        for held in self._held.values():
            await self._write(held)
            held.forget()
        for grown in self._grown.values():
            await self._copy(grown)
            await self._save(grown)
        if self._parked:
            query, parameters = park(self._parked)
            await self._execute(query, *parameters)
            self._parked = []
        names = [f"{projection.name} {projection.version}" for projection in self._projections]
        cursor = await self._connection.execute(
            "UPDATE projection_positions SET position = %s, updated_at = now()"
            " WHERE name || ' ' || version = ANY (%s) AND position = %s",
            (self.position, names, self.committed),
        )
        if cursor.rowcount != len(names):
            raise LostLeadership("someone else moved these projections")
        await self._close()
        self.committed = self.position

    async def _open(self) -> None:
        if not self._is_open:
            await self._connection.execute("BEGIN")
            # Deletions look rows up one by one; without statistics the planner may read the table instead.
            await self._connection.execute("SET LOCAL enable_seqscan = off")
            # Should a crash take the last transactions, the position goes back with the rows.
            await self._connection.execute("SET LOCAL synchronous_commit = off")
            self._is_open, self._opened = True, time.monotonic()

    async def _close(self) -> None:
        await self._connection.execute("COMMIT")
        self._is_open = False

    @contextlib.asynccontextmanager
    async def _undone(self) -> AsyncIterator[None]:
        """Whatever goes wrong, nothing of the transaction stays."""
        try:
            yield
        except BaseException as error:
            self._is_open = False
            with contextlib.suppress(psycopg.Error):
                await self._connection.execute("ROLLBACK")
            if isinstance(error, REFUSALS):
                raise Refused(error_message(error)) from error
            raise

    async def _execute(self, query: str, *parameters: object) -> None:
        await self._connection.execute(query.encode(), parameters, prepare=True)
