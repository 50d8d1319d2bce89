"""The engine: applies a batch of events to the tables of some projections.

It asks `keys` which rows the batch needs, fetches these rows, and calls `apply`. Then one prepared statement writes the
changed rows and the position, and sends the NOTIFY. If many rows of a table change, these are written after the
statement, in the same transaction, and new ones by COPY. If a projection cannot apply an event, the engine parks the
event for this projection, with the error, and later events of its stream, too. Everything else goes on.

The projector runs the engine on the live tables. A rebuild uses the bulk loader (`projections.engine.bulk_loader`) for
most of the log. It uses the engine for the last events, and for events that the loader refuses. Loader and engine call
the same `apply` functions.

The SQL names no schema: the search path of the connection decides which tables are written
(`projections.engine.schemas`).
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import psycopg
import structlog
from psycopg import AsyncConnection

from domain.core.events import Damaged, Event, Recorded
from projections.engine import row_validation, statements
from projections.engine.batch import RowBatch, RowCache
from projections.engine.model import (
    Change,
    DeleteRange,
    DeleteWhere,
    Key,
    Projection,
    Row,
    versions_digest,
)
from projections.engine.parking import WAITS, Parked, blocked_streams, park
from projections.engine.row_writer import write_rows
from store.postgres.notifications import PROJECTED
from store.postgres.queries import text_array

log = structlog.get_logger()


MAX_BATCH_ROWS = 10_000
"""Approximate number of rows that one part of a batch reads and changes. The limit keeps the projector's memory small.
"""
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
"""Errors that PostgreSQL raises when it rejects a row."""


class LostLeadership(Exception):
    """Raised when another process has moved these projections or changed their rows, so that cached rows may be
    outdated.
    """


async def ensure_tables(connection: AsyncConnection, projections: Sequence[Projection]) -> None:
    """Creates the missing tables of these projections. A new projection starts at position 0 of the log."""
    for projection in projections:
        async with connection.transaction():
            # All statements in one text, for a single round trip.
            wanted = (statement for row in projection.rows for statement in statements.create(row))
            await connection.execute("; ".join(wanted).encode())
            await connection.execute(
                "INSERT INTO projection_positions (name, version, position, tables) VALUES (%s, %s, 0, %s)"
                " ON CONFLICT DO NOTHING",
                (projection.name, projection.version, [str(row.table) for row in projection.rows]),
            )


async def drop_tables(connection: AsyncConnection, projections: Sequence[Projection]) -> None:
    for projection in projections:
        async with connection.transaction():
            await connection.execute("; ".join(map(statements.drop, projection.rows)).encode())
            for table in ("projection_positions WHERE name = %s", "parked_events WHERE projection = %s"):
                await connection.execute(
                    f"DELETE FROM {table} AND version = %s".encode(), (projection.name, projection.version)
                )


async def fetch_positions(connection: AsyncConnection, projections: Sequence[Projection]) -> dict[str, int]:
    """Returns projection name -> position. Leaves out projections without tables of their current version."""
    cursor = await connection.execute("SELECT name, version, position FROM projection_positions")
    versions = {projection.name: projection.version for projection in projections}
    return {name: position for name, version, position in await cursor.fetchall() if versions.get(name) == version}


class Engine:
    """Applies events to projections that are all at one position.

    `connection` must be in autocommit mode and hold the leader lock: then a process that loses the lock cannot write
    any more. With `announce`, each write sends a NOTIFY with the new position.
    """

    def __init__(self, connection: AsyncConnection, projections: Sequence[Projection], *, announce: bool) -> None:
        self._connection = connection
        self._projections = projections
        self._announced = versions_digest(projections) if announce else None
        self._cache = RowCache()
        self._written = 0
        self._row_ids: str | None = None
        """The `ctid` values of the rows of `projection_positions` that this engine moves, as its last write has left
        them; None if they are not known. By `ctid`, a write finds the newest version of each row at once. A search by
        key would read all versions, which PostgreSQL keeps while another transaction is open for long.
        """
        self._generations: dict[str, int] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._handling: dict[type[Event], Sequence[Projection]] = {}
        """Class of an event -> the projections that handle it."""
        self._keys: dict[int, Sequence[tuple[type[Row], Key]]] = {}
        """Position of an event that is being applied -> keys of the rows that the projections need for it."""

    async def apply(self, events: Sequence[Recorded], position: int) -> int:
        """Applies the next events after `position`. Returns the new position.

        Raises LostLeadership if another process has moved the projections or changed their rows, and
        psycopg.OperationalError if the database fails.
        """
        if events and not self._generations:
            await self._begin()
        for part in self._parts(events):
            position = await self._apply_part(part, position)
        return position

    async def _begin(self) -> None:
        """Reads the generations of the projections, and then which streams are blocked.

        The order matters. If parked events are retried between the two reads, the generation increases, and the first
        write raises LostLeadership.
        """
        cursor = await self._connection.execute("SELECT name, version, generation FROM projection_positions")
        found = {(name, version): generation for name, version, generation in await cursor.fetchall()}
        for projection in self._projections:
            generation = found.get((projection.name, projection.version))
            if generation is None:
                raise LostLeadership(f"{projection.name} version {projection.version} has no tables here")
            self._generations[projection.name] = generation
        self._blocked = await blocked_streams(self._connection, self._projections)

    def _parts(self, events: Sequence[Recorded]) -> Iterator[list[Recorded]]:
        """Divides a batch into parts that need about MAX_BATCH_ROWS rows each. A single block of results needs a
        thousand rows.
        """
        part: list[Recorded] = []
        weight, self._keys = 0, {}
        for event in events:
            part.append(event)
            self._keys[event.position] = keys = find_keys(self._find_handling(event.event), event)
            weight += 1 + len(keys)
            if weight >= MAX_BATCH_ROWS:
                yield part
                part, weight, self._keys = [], 0, {}
        if part:
            yield part

    def _find_handling(self, event: Event) -> Sequence[Projection]:
        """Returns the projections that handle an event; all of them for a damaged event, which may be of any type."""
        kind = type(event)
        if kind is Damaged:
            return self._projections
        if (handling := self._handling.get(kind)) is None:
            handling = [item for item in self._projections if item.handles is None or issubclass(kind, item.handles)]
            self._handling[kind] = handling
        return handling

    async def _apply_part(self, events: Sequence[Recorded], position: int) -> int:
        self._written = position
        try:
            try:
                return await self._apply(events, position, self._projections)
            except REFUSALS as error:
                self._cache.clear()
                log.warning("batch could not be written, applying its events one by one", error=error_message(error))
            # An earlier statement may have written some of the events already.
            for event in [event for event in events if event.position > self._written]:
                await self._apply_alone(event, self._written)
            return self._written
        except BaseException:
            self._cache.clear()
            self._row_ids = None
            raise

    async def _apply_alone(self, event: Recorded, position: int) -> None:
        try:
            await self._apply([event], position, self._projections)
            return
        except REFUSALS:
            self._cache.clear()
        for projection in self._projections:
            try:
                await self._apply([event], position, [projection])
            except REFUSALS as error:
                self._cache.clear()
                parked = [(projection, event, error_message(error))]
                await self._write(RowBatch(self._cache), position, event.position, [projection], parked)

    async def _apply(self, events: Sequence[Recorded], position: int, projections: Sequence[Projection]) -> int:
        if not events:
            return position
        parked: list[Parked] = []
        blocked: set[tuple[str, str]] = set()
        batch = RowBatch(self._cache)
        await self._prefetch(batch, events, projections)
        for event in events:
            changes: list[Change] = []
            asked = projections
            # A projection also parks those events of a blocked stream that it does not handle.
            if projections is self._projections and not self._blocked and not blocked:
                asked = self._find_handling(event.event)
            for projection in asked:
                blocked_key = (projection.name, event.stream)
                if blocked_key in self._blocked or blocked_key in blocked:
                    parked.append((projection, event, WAITS))
                    continue
                try:
                    changes.extend(compute_changes(projection, event, batch))
                except Exception as error:
                    parked.append((projection, event, error_message(error)))
                    blocked.add(blocked_key)
            # The parts of one statement do not see each other's rows, so a bulk delete gets a statement of its own.
            has_bulk_delete = not {DeleteRange, DeleteWhere}.isdisjoint(map(type, changes))
            if has_bulk_delete and not batch.is_empty:
                before = [item for item in parked if item[1].position < event.position]
                position = await self._write(batch, position, event.position - 1, projections, before)
                parked = parked[len(before) :]
                batch = RowBatch(self._cache)
                remaining = [later for later in events if later.position >= event.position]
                await self._prefetch(batch, remaining, projections)
            batch.change(changes)
            if has_bulk_delete:
                position = await self._write(batch, position, event.position, projections, parked)
                parked = []
                batch = RowBatch(self._cache)
                remaining = [later for later in events if later.position > event.position]
                await self._prefetch(batch, remaining, projections)
        return await self._write(batch, position, events[-1].position, projections, parked)

    async def _prefetch(self, batch: RowBatch, events: Sequence[Recorded], projections: Sequence[Projection]) -> None:
        if projections is self._projections:
            keys = [self._keys[event.position] for event in events]
        else:
            keys = [find_keys(projections, event) for event in events]
        await prefetch(self._connection, batch, chain.from_iterable(keys))

    async def _write(
        self, batch: RowBatch, old: int, new: int, projections: Sequence[Projection], parked: Sequence[Parked]
    ) -> int:
        if new == old:
            return old
        for projection, event, error in parked:
            if error != WAITS:
                log.error("event parked", projection=projection.name, position=event.position, error=error)
        is_all = len(projections) == len(self._projections)
        by_id = [self._row_ids] if is_all and self._row_ids is not None else []
        # This part comes first: while a switch has locked the positions, the statement waits here and holds no other
        # lock.
        move_position: statements.Statement = (
            "UPDATE projection_positions SET position = %s, updated_at = now()"
            f" WHERE {'ctid = ANY (%s::tid[]) AND ' if by_id else ''}"
            "name || ' ' || version || ' ' || generation = ANY (%s::text[]) AND position = %s RETURNING ctid",
            [
                str(new),
                *by_id,
                text_array(f"{item.name} {item.version} {self._generations[item.name]}" for item in projections),
                str(old),
            ],
        )
        large = batch.large()
        parts = [move_position, *batch.statements(without=large), *([park(parked)] if parked else [])]
        query, parameters = join_parts(parts)
        # Divides by zero if another process has moved one of the projections. PostgreSQL then rolls everything back.
        query += (
            f" SELECT 1 / (SELECT (count(*) = {len(projections)})::int FROM part0),"
            " (SELECT array_agg(ctid)::text FROM part0)"
        )
        if self._announced is not None:
            is_complete = is_all and not parked
            query += f", pg_notify('{PROJECTED}', %s)"
            parameters.append(f"{new} {self._announced}" if is_complete else "")
        try:
            async with self._connection.transaction() if large else contextlib.nullcontext():
                cursor = await self._connection.execute(query.encode(), parameters, prepare=True)
                written = await cursor.fetchone()
                for row, rows in large.items():
                    await write_rows(self._connection, row, rows)
        except psycopg.errors.DivisionByZero:
            raise LostLeadership from None
        assert written is not None
        self._row_ids = written[1] if is_all else None
        batch.update_cache()
        self._blocked.update((projection.name, event.stream) for projection, event, _ in parked)
        self._written = new
        return new


def join_parts(parts: Sequence[statements.Statement]) -> tuple[str, list[object]]:
    """Joins statements to one WITH clause, named part0, part1 and so on. Returns the clause and the parameters of all
    statements.
    """
    query = "WITH " + ", ".join(f"part{number} AS ({text})" for number, (text, _) in enumerate(parts))
    return query, [value for _, values in parts for value in values]


async def prefetch(connection: AsyncConnection, batch: RowBatch, needed: Iterable[tuple[type[Row], Key]]) -> None:
    """Reads the rows with the keys `needed` into the batch, from the cache or the tables."""
    for row, keys in batch.missing(needed).items():
        cursor = await connection.execute(
            statements.fetch(row).encode(), (statements.keys_json(row, keys),), prepare=True, binary=True
        )
        batch.add_fetched(row, keys, [row(*values) for values in await cursor.fetchall()])


def compute_changes(projection: Projection, event: Recorded, batch: RowBatch) -> Sequence[Change]:
    """Returns the changes that a projection makes for an event, after a check that PostgreSQL can store them.

    Raises InvalidValue for a row that PostgreSQL cannot store, Unreadable for a damaged event of a type that the
    projection handles, and whatever the projection's `apply` raises.
    """
    changes = projection.changes(event, batch)
    row_validation.check_all(changes)
    return changes


def error_message(error: Exception) -> str:
    """Returns the text of an error for operators. For a PostgreSQL error this is only its first line, since the other
    lines may quote rows.
    """
    if isinstance(error, psycopg.Error):
        return error.diag.message_primary or type(error).__name__
    return f"{type(error).__name__}: {error}"


def find_keys(projections: Sequence[Projection], event: Recorded) -> list[tuple[type[Row], Key]]:
    """Returns the keys of the rows that these projections need for an event."""
    found: list[tuple[type[Row], Key]] = []
    for projection in projections:
        if projection.handles is None or isinstance(event.event, projection.handles):
            try:
                found += projection.keys(event)
            except Exception as error:
                # `apply` then fails because its rows are missing, so the event is parked.
                log.error("keys() failed", projection=projection.name, position=event.position, error=repr(error))
    return found
