"""SQL that follows from a row's struct: its table, fetching rows by key, and writing a batch in one statement.

Rows travel as one JSON text a table (`json_to_recordset`): one parameter with one type, so each shape of batch is
prepared once.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec

from projections.engine.model import Column, DeleteRange, DeleteWhere, Key, Row, Sweep, columns

Statement = tuple[str, list[Any]]


def create(row: type[Row]) -> list[str]:
    table = row.table
    body = [f"{column.name} {column.sql_type}{'' if column.nullable else ' NOT NULL'}" for column in columns(row)]
    if not table.append_only:
        body.append(f"PRIMARY KEY ({', '.join(table.key)})")
    fillfactor = 100 if table.append_only else 90  # room on the page for new versions of a row
    made = f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(body)}) WITH (fillfactor = {fillfactor})"
    # The commonest elements of arrays help no query, and counting them takes seconds.
    made += "".join(
        f"; ALTER TABLE {table} ALTER {column.name} SET STATISTICS 0"
        for column in columns(row)
        if column.sql_type.endswith("[]")
    )
    return [
        made,
        *(
            f"CREATE INDEX IF NOT EXISTS {name} ON {table} {index}"
            for name, index in zip(index_names(row), table.indexes, strict=True)
        ),
    ]


def index_names(row: type[Row]) -> list[str]:
    return [f"{row.table}_{number}" for number, _ in enumerate(row.table.indexes, start=1)]


def drop(row: type[Row]) -> str:
    return f"DROP TABLE IF EXISTS {row.table}"


@cache
def fetch(row: type[Row]) -> str:
    """Takes one parameter: the keys as JSON (`keys_json`)."""
    wanted = ", ".join(f"t.{column.name}" for column in columns(row))
    record, joined = _keys(row)
    return f"SELECT {wanted} FROM {row.table} t JOIN json_to_recordset(%s::json) AS k({record}) ON {joined}"


def keys_json(row: type[Row], keys: Iterable[Key]) -> str:
    return msgspec.json.encode([dict(zip(row.table.key, key, strict=True)) for key in keys]).decode()


@cache
def insert(row: type[Row]) -> str:
    cols = columns(row)
    names = ", ".join(column.name for column in cols)
    values = ", ".join(_from_json(column) for column in cols)
    record = ", ".join(f"{column.name} {'text' if column.sql_type == 'bytea' else column.sql_type}" for column in cols)
    return f"INSERT INTO {row.table} ({names}) SELECT {values} FROM json_to_recordset(%s::json) AS r({record})"


@cache
def upsert(row: type[Row]) -> str:
    others = [column.name for column in columns(row) if column.name not in row.table.key]
    updates = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
    on_conflict = f"DO UPDATE SET {updates}" if updates else "DO NOTHING"
    return f"{insert(row)} ON CONFLICT ({', '.join(row.table.key)}) {on_conflict}"


@cache
def delete(row: type[Row]) -> str:
    record, joined = _keys(row)
    return f"DELETE FROM {row.table} t USING json_to_recordset(%s::json) AS k({record}) WHERE {joined}"


def sweep(swept: Sweep) -> Statement:
    if isinstance(swept, DeleteWhere):
        return f"DELETE FROM {swept.row.table} WHERE {swept.column} = %s", [swept.value]
    return f"DELETE FROM {swept.row.table} WHERE {swept.column} BETWEEN %s AND %s", [swept.first, swept.last]


def sweeps(swept: Sequence[Sweep]) -> list[Statement]:
    """Many of one table in few statements."""
    found: dict[tuple[str, bool], list[Sweep]] = defaultdict(list)
    for one in swept:
        found[one.column, isinstance(one, DeleteWhere)].append(one)
    return [_sweeps(column, together) for (column, _), together in found.items()]


def _sweeps(column: str, swept: Sequence[Sweep]) -> Statement:
    table, types = swept[0].row.table, {item.name: item.sql_type for item in columns(swept[0].row)}
    values = [one.value for one in swept if isinstance(one, DeleteWhere)]
    if values:
        return f"DELETE FROM {table} WHERE {column} = ANY (%s::{types[column]}[])", [values]
    spans = [one for one in swept if isinstance(one, DeleteRange)]
    return (
        f"DELETE FROM {table} USING unnest(%s::bigint[], %s::bigint[]) AS span (first, last)"
        f" WHERE {column} BETWEEN span.first AND span.last",
        [[one.first for one in spans], [one.last for one in spans]],
    )


def rows_json(rows: Iterable[Row]) -> str:
    return msgspec.json.encode(list(rows), enc_hook=list).decode()  # columns are arrays


def _keys(row: type[Row]) -> tuple[str, str]:
    types = {column.name: column.sql_type for column in columns(row)}
    record = ", ".join(f"{name} {types[name]}" for name in row.table.key)
    joined = " AND ".join(f"t.{name} = k.{name}" for name in row.table.key)
    return record, joined


def _from_json(column: Column) -> str:
    return f"decode(r.{column.name}, 'base64')" if column.sql_type == "bytea" else f"r.{column.name}"
