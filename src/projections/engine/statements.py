"""Generates SQL from row structs: creates tables, fetches rows by key, and writes the rows of a batch.

A statement gets all its rows as one JSON text (`json_to_recordset`). So it has the same parameters for any number of
rows, and is prepared only once.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec

from projections.engine.model import DeleteRange, Key, Row, TableColumn, columns_of

Statement = tuple[str, list[Any]]


def create(row: type[Row]) -> list[str]:
    table = row.table
    body = [f"{column.name} {column.sql_type}{'' if column.nullable else ' NOT NULL'}" for column in columns_of(row)]
    body.extend(table.computed)
    if not table.append_only:
        body.append(f"PRIMARY KEY ({', '.join(table.key)})")
    fillfactor = 100 if table.append_only else 90  # leaves room on a page for new versions of its rows
    create_table = f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(body)}) WITH (fillfactor = {fillfactor})"
    # No query uses statistics on JSON or on the elements of arrays, and ANALYZE takes seconds to collect them.
    create_table += "".join(
        f"; ALTER TABLE {table} ALTER {column.name} SET STATISTICS 0"
        for column in columns_of(row)
        if column.sql_type == "jsonb" or column.sql_type.endswith("[]")
    )
    return [
        create_table,
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
    """Returns a query for rows by key. Its only parameter is the result of `keys_json`."""
    wanted = ", ".join(
        f"t.{column.name}{'::text' if column.sql_type == 'tsvector' else ''}" for column in columns_of(row)
    )
    keys, joined = _keys(row)
    return f"SELECT {wanted} FROM {row.table} t JOIN {keys} ON {joined}"


def keys_json(row: type[Row], keys: Iterable[Key]) -> str:
    if len(row.table.key) == 1:
        return msgspec.json.encode([key for (key,) in keys]).decode()
    return msgspec.json.encode([dict(zip(row.table.key, key, strict=True)) for key in keys]).decode()


@cache
def insert(row: type[Row]) -> str:
    cols = columns_of(row)
    names = ", ".join(column.name for column in cols)
    values = ", ".join(_from_json(column) for column in cols)
    record = ", ".join(f"{column.name} {'text' if column.sql_type == 'bytea' else column.sql_type}" for column in cols)
    return f"INSERT INTO {row.table} ({names}) SELECT {values} FROM json_to_recordset(%s::json) AS r({record})"


@cache
def upsert(row: type[Row]) -> str:
    others = [column.name for column in columns_of(row) if column.name not in row.table.key]
    updates = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
    on_conflict = f"DO UPDATE SET {updates}" if updates else "DO NOTHING"
    return f"{insert(row)} ON CONFLICT ({', '.join(row.table.key)}) {on_conflict}"


@cache
def delete(row: type[Row]) -> str:
    keys, joined = _keys(row)
    return f"DELETE FROM {row.table} t USING {keys} WHERE {joined}"


def bulk_delete(deletion: DeleteRange) -> Statement:
    if deletion.first == deletion.last:
        return f"DELETE FROM {deletion.row.table} WHERE {deletion.column} = %s", [deletion.first]
    query = f"DELETE FROM {deletion.row.table} WHERE {deletion.column} BETWEEN %s AND %s"
    return query, [deletion.first, deletion.last]


def bulk_deletes(deletions: Sequence[DeleteRange]) -> list[Statement]:
    """Returns statements for many deletions from one table: for each column, one for single values and one for
    ranges.
    """
    groups: dict[tuple[str, bool], list[DeleteRange]] = defaultdict(list)
    for deletion in deletions:
        groups[deletion.column, deletion.first == deletion.last].append(deletion)
    return [_grouped_delete(column, group, is_value) for (column, is_value), group in groups.items()]


def _grouped_delete(column: str, deletions: Sequence[DeleteRange], is_value: bool) -> Statement:
    row, first = deletions[0].row, [deletion.first for deletion in deletions]
    if is_value:
        types = {item.name: item.sql_type for item in columns_of(row)}
        return f"DELETE FROM {row.table} WHERE {column} = ANY (%s::{types[column]}[])", [first]
    return (
        f"DELETE FROM {row.table} USING unnest(%s::bigint[], %s::bigint[]) AS deleted (first, last)"
        f" WHERE {column} BETWEEN deleted.first AND deleted.last",
        [first, [deletion.last for deletion in deletions]],
    )


def rows_json(rows: Iterable[Row]) -> str:
    return msgspec.json.encode(list(rows), enc_hook=list).decode()  # the hook encodes arrays of numbers


def _keys(row: type[Row]) -> tuple[str, str]:
    """Returns two pieces of SQL: a table of the keys in a result of `keys_json`, and the condition that a row `t` has
    one of these keys.
    """
    types = {column.name: column.sql_type for column in columns_of(row)}
    if len(row.table.key) == 1:
        (name,) = row.table.key
        return "json_array_elements_text(%s::json) AS k(key)", f"t.{name} = k.key::{types[name]}"
    record = ", ".join(f"{name} {types[name]}" for name in row.table.key)
    joined = " AND ".join(f"t.{name} = k.{name}" for name in row.table.key)
    return f"json_to_recordset(%s::json) AS k({record})", joined


def _from_json(column: TableColumn) -> str:
    return f"decode(r.{column.name}, 'base64')" if column.sql_type == "bytea" else f"r.{column.name}"
