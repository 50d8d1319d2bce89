"""The engine: events in, rows and position out, in one statement.

It prefetches the rows that a batch needs, applies the pure functions, and writes the difference, the position and the
NOTIFY in one prepared statement. An event that a projection cannot take is parked for it with its error; the rest
goes on. A rebuild is the same code from position 0.
"""

from collections.abc import Iterator, Sequence

import psycopg
import structlog
from psycopg import AsyncConnection

from domain.base import Recorded
from projections import statements
from projections.batch import Batch, Cache
from projections.model import Change, GoneBetween, GoneWhere, Key, Projection, Row
from store.listen import PROJECTED

log = structlog.get_logger()


ROWS_AT_ONCE = 10_000
"""Rows that one write may need: bounds the memory of the projector, not its speed."""


class LostLeadership(Exception):
    """Someone else moved these projections on."""


async def ensure_tables(connection: AsyncConnection, projections: Sequence[Projection]) -> None:
    """Makes the tables of projections that have none and starts them at the beginning of the log."""
    for projection in projections:
        async with connection.transaction():
            for row in projection.rows:
                for statement in statements.create(row):
                    await connection.execute(statement.encode())
            await connection.execute(
                "INSERT INTO projection_positions (name, version, position) VALUES (%s, %s, 0) ON CONFLICT DO NOTHING",
                (projection.name, projection.version),
            )


async def drop_tables(connection: AsyncConnection, projections: Sequence[Projection]) -> None:
    for projection in projections:
        async with connection.transaction():
            for row in projection.rows:
                await connection.execute(statements.drop(row).encode())
            for table in ("projection_positions WHERE name = %s", "parked_events WHERE projection = %s"):
                await connection.execute(
                    f"DELETE FROM {table} AND version = %s".encode(), (projection.name, projection.version)
                )


async def positions(connection: AsyncConnection, projections: Sequence[Projection]) -> dict[str, int]:
    """By projection name, for the versions that this code knows."""
    cursor = await connection.execute("SELECT name, version, position FROM projection_positions")
    versions = {projection.name: projection.version for projection in projections}
    return {name: position for name, version, position in await cursor.fetchall() if versions.get(name) == version}


class Engine:
    """Moves projections that stand at one position. `connection` is autocommit and holds the leader's lock: losing it
    ends both.
    """

    def __init__(self, connection: AsyncConnection, projections: Sequence[Projection], *, announce: bool) -> None:
        self._connection = connection
        self._projections = projections
        self._announce = announce
        self._cache = Cache()
        self._written = 0

    async def apply(self, events: Sequence[Recorded], position: int) -> int:
        """Applies events that follow `position`; returns the new position. Raises LostLeadership and
        psycopg.OperationalError.
        """
        for part in self._parts(events):
            position = await self._apply_part(part, position)
        return position

    def _parts(self, events: Sequence[Recorded]) -> Iterator[list[Recorded]]:
        """Cuts a batch where it would need too many rows at once: a block of results alone needs a thousand."""
        part: list[Recorded] = []
        weight = 0
        for event in events:
            part.append(event)
            weight += 1 + sum(len(_keys(projection, event)) for projection in self._projections)
            if weight >= ROWS_AT_ONCE:
                yield part
                part, weight = [], 0
        if part:
            yield part

    async def _apply_part(self, events: Sequence[Recorded], position: int) -> int:
        self._written = position
        try:
            try:
                return await self._apply(events, position, self._projections)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                self._cache.clear()
                log.warning("a batch could not be written, going on one by one", error=str(error).strip())
            # A part of the batch may be written already.
            for event in [event for event in events if event.position > self._written]:
                await self._apply_alone(event, self._written)
            return self._written
        except BaseException:
            self._cache.clear()
            raise

    async def _apply_alone(self, event: Recorded, position: int) -> None:
        try:
            await self._apply([event], position, self._projections)
            return
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            self._cache.clear()
        for projection in self._projections:
            try:
                await self._apply([event], position, [projection])
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                self._cache.clear()
                await self._write(
                    Batch(self._cache),
                    position,
                    event.position,
                    [projection],
                    [(projection, event, str(error))],
                )

    async def _apply(self, events: Sequence[Recorded], position: int, projections: Sequence[Projection]) -> int:
        if not events:
            return position
        parked: list[tuple[Projection, Recorded, str]] = []
        batch = Batch(self._cache)
        await self._prefetch(batch, events, projections)
        for event in events:
            changes: list[Change] = []
            for projection in projections:
                try:
                    changes.extend(list(projection.apply(event, batch)))
                except Exception as error:
                    parked.append((projection, event, f"{type(error).__name__}: {error}"))
            alone = any(isinstance(change, GoneWhere | GoneBetween) for change in changes)
            if alone and not batch.is_empty:
                position = await self._write(batch, position, event.position - 1, projections, parked)
                parked = []
                batch = Batch(self._cache)
                await self._prefetch(
                    batch, [later for later in events if later.position >= event.position], projections
                )
            batch.change(changes)
            if alone:
                position = await self._write(batch, position, event.position, projections, parked)
                parked = []
                batch = Batch(self._cache)
                await self._prefetch(batch, [later for later in events if later.position > event.position], projections)
        return await self._write(batch, position, events[-1].position, projections, parked)

    async def _prefetch(self, batch: Batch, events: Sequence[Recorded], projections: Sequence[Projection]) -> None:
        needed = {key for event in events for projection in projections for key in _keys(projection, event)}
        for row, keys in batch.missing(needed).items():
            cursor = await self._connection.execute(
                statements.fetch(row).encode(), (statements.keys_json(row, keys),), prepare=True, binary=True
            )
            batch.fetched(row, keys, [row(*values) for values in await cursor.fetchall()])

    async def _write(
        self,
        batch: Batch,
        old: int,
        new: int,
        projections: Sequence[Projection],
        parked: Sequence[tuple[Projection, Recorded, str]],
    ) -> int:
        if new == old:
            return old
        parts = batch.statements()
        for projection, event, error in parked:
            log.error("event parked", projection=projection.name, position=event.position, error=error)
            parts.append(
                (
                    "INSERT INTO parked_events (projection, version, position, error) VALUES (%s, %s, %s, %s)"
                    " ON CONFLICT (projection, version, position) DO UPDATE SET error = EXCLUDED.error",
                    [projection.name, projection.version, event.position, error],
                )
            )
        names = [f"{projection.name} {projection.version}" for projection in projections]
        moved = (
            "UPDATE projection_positions SET position = %s, updated_at = now()"
            " WHERE name || ' ' || version = ANY (%s) AND position = %s RETURNING 1"
        )
        query = "WITH " + ", ".join(
            [*(f"part{number} AS ({text})" for number, (text, _) in enumerate(parts)), f"moved AS ({moved})"]
        )
        # A projection that someone else has moved makes this a division by zero, which rolls everything back.
        query += f" SELECT 1 / (SELECT (count(*) = {len(names)})::int FROM moved), pg_notify('{PROJECTED}', %s)"
        parameters = [value for _, values in parts for value in values]
        announced = str(new) if self._announce and len(projections) == len(self._projections) else ""
        try:
            await self._connection.execute(
                query.encode(), [*parameters, str(new), names, str(old), announced], prepare=True
            )
        except psycopg.errors.DivisionByZero:
            raise LostLeadership from None
        batch.written()
        self._written = new
        return new


def _keys(projection: Projection, event: Recorded) -> list[tuple[type[Row], Key]]:
    try:
        return list(projection.keys(event))
    except Exception as error:
        # `apply` will miss its rows, and the event is parked for that.
        log.error("keys failed", projection=projection.name, position=event.position, error=repr(error))
        return []


def row_types(projections: Sequence[Projection]) -> list[type[Row]]:
    return [row for projection in projections for row in projection.rows]
