"""Compares what was built beside with what serves, row by row, at the same position.

The projectors stand still for as long as it takes to bring the tables beside to the serving position and to take a
snapshot; the comparison then reads the snapshot, while everything moves on.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
from psycopg import AsyncConnection
from psycopg.sql import SQL, Composable, Composed, Identifier

from projections.engine.model import Projection, Row
from projections.engine.projector import catch_up
from projections.engine.schemas import Unready, alone_beside, at, connect
from projections.rebuild.switch import patiently, stand_still
from store.log.event_log import EventLog

SHOWN = 5
"""Differences of each table that are shown."""
WAIT_S = 10.0


class TableDiff(msgspec.Struct):
    serving: str
    beside: str
    rows_serving: int
    rows_beside: int
    only_serving: int = 0
    only_beside: int = 0
    changed: int = 0
    left_out: list[str] = []
    """Columns that only one side has."""
    first: list[str] = []
    """The first differences, in words."""

    @property
    def is_equal(self) -> bool:
        return not (self.only_serving or self.only_beside or self.changed)


class Diff(msgspec.Struct):
    name: str
    serving_version: int
    beside_version: int
    position: int
    tables: list[TableDiff]
    left_out: list[str]
    """Tables that only one side has."""

    @property
    def is_equal(self) -> bool:
        return all(table.is_equal for table in self.tables)


async def diff(conninfo: str, event_log: EventLog, projection: Projection) -> Diff:
    """Raises places.Unready, LostLeadership and psycopg.OperationalError."""
    async with (
        alone_beside(conninfo, [projection]) as beside,
        await connect(conninfo) as serving,
        await connect(conninfo) as reading,
    ):
        version = await _serving_version(serving, projection)
        await _serving_is_not_behind(serving, beside, event_log, projection, version)
        position = await patiently(partial(_snapshot, serving, beside, reading, event_log, projection, version))
        old, new = (
            await _tables(reading, "public", projection.name, version),
            {row.table.name: row for row in projection.rows},
        )
        pairs = [(old[name], row) for name, row in new.items() if name in old]
        tables = [await _compare(reading, table, row) for table, row in pairs]
        left_out = [table for name, table in old.items() if name not in new]
        left_out += [str(row.table) for name, row in new.items() if name not in old]
        await reading.rollback()
        return Diff(projection.name, version, projection.version, position, tables, left_out)


async def _serving_version(serving: AsyncConnection, projection: Projection) -> int:
    """That of this code where it serves; else the newest other one."""
    versions = [version for name, version in await at(serving, "public") if name == projection.name]
    if not versions:
        raise Unready(f"No version of {projection.name} serves, so there is nothing to compare with; switch to it.")
    return projection.version if projection.version in versions else max(versions)


async def _serving_is_not_behind(
    serving: AsyncConnection, beside: AsyncConnection, event_log: EventLog, projection: Projection, version: int
) -> None:
    """The tables beside cannot go back; so they are only moved as far as the others are, or those are waited for."""
    built = (await at(beside, "beside")).get((projection.name, projection.version))
    if built is None:
        raise Unready(
            f"{projection.name} is not built beside: run `testhide projections rebuild {projection.name}` first."
        )
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while (position := (await at(serving, "public"))[projection.name, version]) < built:
        if asyncio.get_running_loop().time() > deadline:
            raise Unready(
                f"{projection.name} serves at position {position}, behind {built}, where the tables beside are:"
                " start the projector that keeps it up (`testhide project`) and try again."
            )
        await asyncio.sleep(0.1)
    await catch_up(beside, event_log, [projection], position)


async def _snapshot(
    serving: AsyncConnection,
    beside: AsyncConnection,
    reading: AsyncConnection,
    event_log: EventLog,
    projection: Projection,
    version: int,
) -> int:
    """`reading` sees both sides at this position until its transaction ends."""
    async with serving.transaction():
        await stand_still(serving)
        position = (await at(serving, "public"))[projection.name, version]
        await catch_up(beside, event_log, [projection], position)
        await reading.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await reading.execute("SELECT 1")
    return position


async def _tables(reading: AsyncConnection, place: str, name: str, version: int) -> dict[str, str]:
    """The tables of a version by their names without it."""
    cursor = await reading.execute(
        f"SELECT unnest(tables) FROM {place}.projection_positions WHERE name = %s AND version = %s".encode(),
        (name, version),
    )
    return {table.removesuffix(f"_v{version}"): table for (table,) in await cursor.fetchall()}


async def _columns(reading: AsyncConnection, place: str, table: str) -> dict[str, str]:
    cursor = await reading.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        (place, table),
    )
    return dict(await cursor.fetchall())


async def _compare(reading: AsyncConnection, serving: str, row: type[Row]) -> TableDiff:
    beside = str(row.table)
    old, new = await _columns(reading, "public", serving), await _columns(reading, "beside", beside)
    shared = [name for name in new if old.get(name) == new[name]]
    sides = {
        "columns": SQL(", ").join(map(Identifier, shared)),
        "serving": Identifier("public", serving),
        "beside": Identifier("beside", beside),
    }
    counts = SQL("SELECT (SELECT count(*) FROM {serving}), (SELECT count(*) FROM {beside})").format(**sides)
    found = TableDiff(serving, beside, *await _one(reading, counts))
    found.left_out = [name for name in {**old, **new} if name not in shared]
    is_keyed = not row.table.append_only and set(row.table.key) <= set(shared)
    different = (_by_key if is_keyed else _by_content)(row.table.key, sides)
    cursor = await reading.execute(
        SQL("WITH different AS MATERIALIZED ({}) ").format(different)
        + SQL(
            "SELECT how, count, old, new FROM ("
            "  SELECT how, sum(n) OVER (PARTITION BY how)::bigint AS count, old, new,"
            "  row_number() OVER (PARTITION BY how ORDER BY place) AS number FROM different) AS numbered"
            " WHERE number <= %s ORDER BY how, number"
        ),
        (SHOWN,),
    )
    for how, count, before, after in await cursor.fetchall():
        setattr(found, how, count)
        found.first.append(_in_words(how, row.table.key, before, after))
    return found


def _by_key(key: Sequence[str], sides: dict[str, Composable]) -> Composed:
    joined = SQL(" AND ").join(SQL("s.{0} = b.{0}").format(Identifier(column)) for column in key)
    return SQL(
        "SELECT CASE WHEN b.{first} IS NULL THEN 'only_serving' WHEN s.{first} IS NULL THEN 'only_beside'"
        " ELSE 'changed' END AS how, 1 AS n, to_jsonb(s) AS old, to_jsonb(b) AS new,"
        " ROW({place}) AS place"
        " FROM (SELECT {columns} FROM {serving}) AS s"
        " FULL JOIN (SELECT {columns} FROM {beside}) AS b ON {joined} WHERE s IS DISTINCT FROM b"
    ).format(
        **sides,
        first=Identifier(key[0]),
        joined=joined,
        place=SQL(", ").join(SQL("coalesce(s.{0}, b.{0})").format(Identifier(column)) for column in key),
    )


def _by_content(key: Sequence[str], sides: dict[str, Composable]) -> Composed:
    """Rows without a key: how often the same row is there."""
    return SQL(
        "SELECT CASE WHEN balance_ > 0 THEN 'only_serving' ELSE 'only_beside' END AS how, abs(balance_) AS n,"
        " CASE WHEN balance_ > 0 THEN to_jsonb(rows) END AS old, CASE WHEN balance_ < 0 THEN to_jsonb(rows) END AS new,"
        " ROW({columns}) AS place FROM ("
        "  SELECT {columns}, sum(side) AS balance_ FROM ("
        "   SELECT {columns}, 1 AS side FROM {serving} UNION ALL SELECT {columns}, -1 FROM {beside}) AS both_sides"
        "  GROUP BY {columns} HAVING sum(side) <> 0) AS rows"
    ).format(**sides)


def _in_words(how: str, key: Sequence[str], old: dict[str, object] | None, new: dict[str, object] | None) -> str:
    shown = old or new or {}
    place = ", ".join(f"{column}={shown.get(column)}" for column in key)
    if old is None or new is None:
        return f"{how.replace('_', ' ')}: {place}"
    changes = [f"{name} {_short(old[name])} -> {_short(new[name])}" for name in old if old[name] != new[name]]
    return f"changed: {place}: {', '.join(changes)}"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


async def _one(reading: AsyncConnection, query: Composed) -> tuple[int, int]:
    row = await (await reading.execute(query)).fetchone()
    assert row is not None, "a SELECT of two counts has a row"
    return row[0], row[1]
