"""Compares staging tables with the live tables, row by row, at one position of the log.

Projectors wait only while the staging tables are moved to the position of the live tables and a snapshot is taken. The
comparison reads the snapshot, so nothing waits for it.
"""

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

import msgspec
from psycopg import AsyncConnection
from psycopg.sql import SQL, Composable, Composed, Identifier

from projections.engine.dismissals import with_dismissals
from projections.engine.inspection import inspect
from projections.engine.model import Projection, Row
from projections.engine.projector import catch_up
from projections.engine.schemas import LIVE, STAGING, NotReady, connect, fetch_schema_positions, lock_staging
from projections.rebuild.switch import block_projectors, retry_on_lock_timeout
from store.log.event_log import EventLog

MAX_SHOWN = 5
"""Number of differences that are shown for each table and kind of difference."""
LAG_TIMEOUT_S = 10.0
"""Longest time in seconds to wait until live tables have reached the position of the staging tables."""


class TableDiff(msgspec.Struct):
    live: str
    staging: str
    rows_live: int
    rows_staging: int
    only_live: int = 0
    only_staging: int = 0
    changed: int = 0
    not_compared: list[str] = []
    """Columns that only one of the two tables has, or that have different types."""
    differences: list[str] = []
    """Descriptions of the first differences: `changed: id=1: first_name "Ann" -> ""`."""

    @property
    def is_equal(self) -> bool:
        return not (self.only_live or self.only_staging or self.changed)


class Diff(msgspec.Struct):
    name: str
    live_version: int
    staging_version: int
    position: int
    tables: list[TableDiff]
    not_compared: list[str]
    """Tables that exist only live or only staging."""

    @property
    def is_equal(self) -> bool:
        return all(table.is_equal for table in self.tables)


async def diff(conninfo: str, event_log: EventLog, projection: Projection) -> Diff:
    """Compares the staging tables of a projection with its live tables. Raises NotReady, LostLeadership or
    psycopg.OperationalError.
    """
    (projection,) = await with_dismissals(event_log, [projection])
    async with (
        lock_staging(conninfo, [projection]) as staging,
        await connect(conninfo) as live,
        await connect(conninfo) as snapshot,
    ):
        version = await _find_live_version(live, projection)
        await _wait_for_live(live, staging, event_log, projection, version)
        take_snapshot = partial(_take_snapshot, live, staging, snapshot, event_log, projection, version)
        position = await retry_on_lock_timeout(take_snapshot)
        old = await _fetch_tables(snapshot, projection.name, version)
        new = {row.table.name: row for row in projection.rows}
        tables = [await compare_tables(snapshot, old[name], row, STAGING) for name, row in new.items() if name in old]
        not_compared = [table for name, table in old.items() if name not in new]
        not_compared += [str(row.table) for name, row in new.items() if name not in old]
        await snapshot.rollback()
        return Diff(projection.name, version, projection.version, position, tables, not_compared)


async def _find_live_version(live: AsyncConnection, projection: Projection) -> int:
    """Returns the live version to compare with: this release's version if it is live, otherwise the newest live
    version.

    Raises NotReady if no version is live, or if the live tables are broken.
    """
    versions = [version for name, version in await fetch_schema_positions(live, LIVE) if name == projection.name]
    if not versions:
        raise NotReady(f"No version of {projection.name} is live, so there is nothing to compare with; switch to it.")
    if reason := (await inspect(live, [projection])).broken.get(projection.name):
        raise NotReady(f"{projection.name} is broken, so there is nothing to compare with: {reason}.")
    return projection.version if projection.version in versions else max(versions)


async def _wait_for_live(
    live: AsyncConnection, staging: AsyncConnection, event_log: EventLog, projection: Projection, version: int
) -> None:
    """Waits until the live tables have reached the position of the staging tables, since staging tables cannot go back.
    Then moves the staging tables up to the live tables' position.

    Raises NotReady after LAG_TIMEOUT_S, or if there are no staging tables.
    """
    built = (await fetch_schema_positions(staging, STAGING)).get((projection.name, projection.version))
    if built is None:
        raise NotReady(
            f"{projection.name} has no staging tables: run `testhide projections rebuild {projection.name}` first."
        )
    deadline = asyncio.get_running_loop().time() + LAG_TIMEOUT_S
    while (position := (await fetch_schema_positions(live, LIVE))[projection.name, version]) < built:
        if asyncio.get_running_loop().time() > deadline:
            raise NotReady(
                f"The live tables of {projection.name} are at position {position}, behind the staging tables at"
                f" {built}: start the projector that moves them (`testhide project`) and try again."
            )
        await asyncio.sleep(0.1)
    await catch_up(staging, event_log, [projection], position)


async def _take_snapshot(
    live: AsyncConnection,
    staging: AsyncConnection,
    snapshot: AsyncConnection,
    event_log: EventLog,
    projection: Projection,
    version: int,
) -> int:
    """Begins a transaction on the connection `snapshot` that sees live and staging tables at one position. Returns this
    position.
    """
    async with live.transaction():
        await block_projectors(live)
        position = (await fetch_schema_positions(live, LIVE))[projection.name, version]
        await catch_up(staging, event_log, [projection], position)
        await snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await snapshot.execute("SELECT 1")
    return position


async def _fetch_tables(snapshot: AsyncConnection, name: str, version: int) -> dict[str, str]:
    """Returns the live tables of one version of the projection `name`: `users` -> `users_v2`."""
    cursor = await snapshot.execute(
        f"SELECT unnest(tables) FROM {LIVE}.projection_positions WHERE name = %s AND version = %s".encode(),
        (name, version),
    )
    return {table.removesuffix(f"_v{version}"): table for (table,) in await cursor.fetchall()}


async def _fetch_columns(snapshot: AsyncConnection, schema: str, table: str) -> dict[str, str]:
    """Returns column -> SQL type of a table."""
    cursor = await snapshot.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        (schema, table),
    )
    return dict(await cursor.fetchall())


async def compare_tables(
    snapshot: AsyncConnection, live: str, row: type[Row], schema: str, columns: Collection[str] | None = None
) -> TableDiff:
    """Compares the rows of the live table `live` with those of the table of `row` in the schema `schema`.

    Compares only `columns`. With None, compares all columns that have equal types in both tables.
    """
    staging = str(row.table)
    old, new = await _fetch_columns(snapshot, LIVE, live), await _fetch_columns(snapshot, schema, staging)
    shared = [name for name in new if old.get(name) == new[name] and (columns is None or name in columns)]
    sides = {
        "columns": SQL(", ").join(map(Identifier, shared)),
        "live": Identifier(LIVE, live),
        "staging": Identifier(schema, staging),
    }
    counts = SQL("SELECT (SELECT count(*) FROM {live}), (SELECT count(*) FROM {staging})").format(**sides)
    found = TableDiff(live, staging, *await _fetch_counts(snapshot, counts))
    found.not_compared = [name for name in {**old, **new} if name not in shared]
    is_keyed = not row.table.append_only and set(row.table.key) <= set(shared)
    different = (_by_key if is_keyed else _by_content)(row.table.key, sides)
    cursor = await snapshot.execute(
        SQL("WITH different AS MATERIALIZED ({}) ").format(different)
        + SQL(
            "SELECT how, count, old, new FROM ("
            "  SELECT how, sum(n) OVER (PARTITION BY how)::bigint AS count, old, new,"
            "  row_number() OVER (PARTITION BY how ORDER BY sort_key) AS number FROM different) AS numbered"
            " WHERE number <= %s ORDER BY how, number"
        ),
        (MAX_SHOWN,),
    )
    for how, count, before, after in await cursor.fetchall():
        setattr(found, how, count)
        found.differences.append(_describe(how, row.table.key, before, after))
    return found


def _by_key(key: Sequence[str], sides: dict[str, Composable]) -> Composed:
    joined = SQL(" AND ").join(SQL("s.{0} = b.{0}").format(Identifier(column)) for column in key)
    return SQL(
        "SELECT CASE WHEN b.{first} IS NULL THEN 'only_live' WHEN s.{first} IS NULL THEN 'only_staging'"
        " ELSE 'changed' END AS how, 1 AS n, to_jsonb(s) AS old, to_jsonb(b) AS new,"
        " ROW({sort_key}) AS sort_key"
        " FROM (SELECT {columns} FROM {live}) AS s"
        " FULL JOIN (SELECT {columns} FROM {staging}) AS b ON {joined} WHERE s IS DISTINCT FROM b"
    ).format(
        **sides,
        first=Identifier(key[0]),
        joined=joined,
        sort_key=SQL(", ").join(SQL("coalesce(s.{0}, b.{0})").format(Identifier(column)) for column in key),
    )


def _by_content(key: Sequence[str], sides: dict[str, Composable]) -> Composed:
    """Returns a query that compares two tables without keys, by how often each row occurs in each of them."""
    return SQL(
        "SELECT CASE WHEN balance_ > 0 THEN 'only_live' ELSE 'only_staging' END AS how, abs(balance_) AS n,"
        " CASE WHEN balance_ > 0 THEN to_jsonb(rows) END AS old, CASE WHEN balance_ < 0 THEN to_jsonb(rows) END AS new,"
        " ROW({columns}) AS sort_key FROM ("
        "  SELECT {columns}, sum(side) AS balance_ FROM ("
        "   SELECT {columns}, 1 AS side FROM {live} UNION ALL SELECT {columns}, -1 FROM {staging}) AS both_sides"
        "  GROUP BY {columns} HAVING sum(side) <> 0) AS rows"
    ).format(**sides)


def _describe(how: str, key: Sequence[str], old: dict[str, object] | None, new: dict[str, object] | None) -> str:
    shown = old or new or {}
    key_text = ", ".join(f"{column}={shown.get(column)}" for column in key)
    if old is None or new is None:
        return f"{how.replace('_', ' ')}: {key_text}"
    changes = [f"{name} {_short(old[name])} -> {_short(new[name])}" for name in old if old[name] != new[name]]
    return f"changed: {key_text}: {', '.join(changes)}"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


async def _fetch_counts(snapshot: AsyncConnection, query: Composed) -> tuple[int, int]:
    row = await (await snapshot.execute(query)).fetchone()
    assert row is not None, "a SELECT of two counts returns a row"
    return row[0], row[1]
