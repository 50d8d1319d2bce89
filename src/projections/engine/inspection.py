"""Inspects the tables of read models: what position each has, and which are broken.

A read model is broken if a table, column or primary key of it is lost, or if its position is beyond the end of the log.
No projector moves a broken read model, since it would lack events. It stays broken until it is rebuilt, even after the
log has grown past its position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from psycopg import AsyncConnection

from projections.engine.engine import ensure_tables
from projections.engine.model import Projection, columns_of
from projections.engine.schemas import LIVE, Schema
from store.log.ids import LAST_POSITION
from store.postgres.queries import text_array

_POSITIONS = """
    SELECT head, last, name, version, position, broken
    FROM (SELECT
        (SELECT coalesce(max(notification_id), 0) FROM public.stored_events WHERE notification_id <= {drawn}) AS head,
        (SELECT coalesce(max(notification_id), 0) FROM public.stored_events) AS last
    ) AS log
    LEFT JOIN {schema}.projection_positions ON true
"""
"""SQL query for the positions of all projections, the end of the log as readers see it (`head`), and the last row of
the log (`last`). One statement reads all of them. So no position is newer than the end of the log.
"""
_DEFECTS = """
    SELECT w.name, w.table_name, c.oid IS NOT NULL, w.column_name
    FROM unnest(%(names)s::text[], %(tables)s::text[], %(columns)s::text[], %(types)s::text[])
        WITH ORDINALITY AS w (name, table_name, column_name, sql_type, number)
    LEFT JOIN pg_class c ON c.relname = w.table_name AND c.relnamespace = %(schema)s::regnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.column_name AND a.atttypid = w.sql_type::regtype
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND w.column_name IS NULL
    WHERE a.attname IS NULL AND i.indrelid IS NULL
    ORDER BY w.number
"""
"""SQL query for lost tables, columns and primary keys. A result without the name of a column stands for a lost primary
key if the table exists, and for a lost table if not.
"""


@dataclass(frozen=True)
class Inspection:
    head: int
    """The newest position of the log. A row of the log at a position that the server's sequence has not allocated does
    not count.
    """
    positions: dict[str, int]
    """Name -> position, for the projections that have tables of their current version."""
    broken: dict[str, str]
    """Name -> reason, for the broken projections: `the table users_v2 is lost`."""

    @property
    def sound(self) -> set[str]:
        """Names of the projections that have tables and are not broken."""
        return self.positions.keys() - self.broken.keys()

    def sound_behind(self, goal: int) -> dict[str, int]:
        """Returns name -> position, for the projections that have tables, are not broken and are behind position
        `goal`.
        """
        return {name: position for name in self.sound if (position := self.positions[name]) < goal}


async def inspect(connection: AsyncConnection, projections: Sequence[Projection], schema: Schema = LIVE) -> Inspection:
    """Returns the position of each projection in a schema, and which projections are broken there."""
    wanted = {(projection.name, projection.version) for projection in projections}
    cursor = await connection.execute(_POSITIONS.format(schema=schema, drawn=LAST_POSITION).encode(), prepare=True)
    head, positions, broken = 0, dict[str, int](), dict[str, str]()
    for head_now, last, name, version, position, reason in await cursor.fetchall():
        head = head_now
        if (name, version) not in wanted:
            continue
        positions[name] = position
        if reason is not None:
            broken[name] = reason
        elif position > last:
            broken[name] = f"its position, {position}, is beyond the end of the log, {last}"
    for name, defect in await _find_defects(connection, projections, schema):
        if name in positions:
            broken.setdefault(name, defect)
    return Inspection(head, positions, broken)


async def create_on_empty_log(connection: AsyncConnection, projections: Sequence[Projection]) -> list[Projection]:
    """Creates missing live tables if the log is empty, and returns no projections. Otherwise creates nothing, and
    returns the projections that must be rebuilt, because their tables are missing or broken.
    """
    live = await inspect(connection, projections)
    unsound = [projection for projection in projections if projection.name not in live.sound]
    if live.head == 0:
        await ensure_tables(connection, unsound)
        return []
    return unsound


async def mark_broken(connection: AsyncConnection, projections: Sequence[Projection]) -> dict[str, str]:
    """Finds the broken live read models and marks them as broken in the database. Returns the reason for each, by name.

    If a switch has replaced the inspected tables meanwhile, the new tables are not marked: a switch increases the
    generation.
    """
    cursor = await connection.execute("SELECT name, version, generation FROM projection_positions")
    generations = {(name, version): generation for name, version, generation in await cursor.fetchall()}
    broken = (await inspect(connection, projections)).broken
    marked: dict[str, str] = {}
    for projection in projections:
        if projection.name in broken:
            key = (projection.name, projection.version)
            cursor = await connection.execute(
                "UPDATE projection_positions SET broken = %s WHERE name = %s AND version = %s AND generation = %s",
                (broken[projection.name], *key, generations.get(key)),
            )
            if cursor.rowcount:
                marked[projection.name] = broken[projection.name]
    return marked


async def _find_defects(
    connection: AsyncConnection, projections: Sequence[Projection], schema: Schema
) -> list[tuple[str, str]]:
    parameters = {"schema": schema, **_expected(tuple(projections))}
    cursor = await connection.execute(_DEFECTS.encode(), parameters, prepare=True)
    return [(name, _describe(table, exists, column)) for name, table, exists, column in await cursor.fetchall()]


@cache
def _expected(projections: tuple[Projection, ...]) -> dict[str, str]:
    """Returns the parameters for _DEFECTS: the tables and columns that should exist, as arrays of PostgreSQL. They are
    cached, since writing the arrays takes most of an inspection's time in Python.
    """
    columns = zip(*_list_columns(projections), strict=True)
    return dict(zip(("names", "tables", "columns", "types"), map(text_array, columns), strict=True))


def _list_columns(projections: Sequence[Projection]) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Yields (projection, table, column, SQL type) for each column, and (projection, table, None, None) for each
    primary key.
    """
    for projection in projections:
        for row in projection.rows:
            for column in columns_of(row):
                yield projection.name, str(row.table), column.name, column.sql_type
            if not row.table.append_only:
                yield projection.name, str(row.table), None, None


def _describe(table: str, exists: bool, column: str | None) -> str:
    if not exists:
        return f"the table {table} is lost"
    if column is None:
        return f"the table {table} has lost its primary key"
    return f"the table {table} has no column {column} of its type"
