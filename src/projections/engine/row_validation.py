"""Checks that PostgreSQL can store a row, before the row is sent.

This finds the event that has a bad value, so that the event is parked. An error of PostgreSQL would not show which
event it was: of each row in a batch, PostgreSQL gets only the last state, without the values that later events of the
batch have replaced.
"""

import math
import re
import struct
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from projections.engine.model import Change, Row, RowsByKey, TableColumn, columns_of

IntegerCode = Literal["h", "i", "q"]
INTEGERS: dict[str, IntegerCode] = {"smallint": "h", "integer": "i", "bigint": "q"}
"""SQL type -> code of `struct` and `array`."""
TEXTS = "text", "tsvector"
INDEXED_BYTES = 2_000
"""Largest number of bytes of a text in a key or an index. PostgreSQL allows 2,704 bytes after compression, a third of a
page.
"""
MANY_ROWS = 100
"""Number of changes from which on checking all rows of a table together is faster than checking each row alone."""
NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

Check = Callable[[Any], None]


class InvalidValue(ValueError):
    """Raised for a value that its column cannot hold. The message names the column, but does not quote the value."""


def check(change: Change) -> None:
    """Raises InvalidValue for a value that its column cannot hold. Of a `RowsByKey`, checks only one row."""
    if isinstance(change, Row):
        _row_check(type(change))(change)
    elif isinstance(change, RowsByKey):
        for one in islice(change.rows.values(), 1):
            check(one)


def check_all(changes: Sequence[Change]) -> None:
    """Raises InvalidValue if one of the changes has a value that its column cannot hold."""
    if len(changes) < MANY_ROWS:
        for change in changes:
            check(change)
        return
    rows: dict[type[Row], list[Row]] = defaultdict(list)
    for change in changes:
        if isinstance(change, Row):
            rows[type(change)].append(change)
        else:
            check(change)
    for of_table in rows.values():
        check_rows(of_table)


def check_rows(rows: Sequence[Row]) -> None:
    """Raises InvalidValue if one of these rows, all of the same table, has a value that its column cannot hold. For
    many rows it is several times as fast as `check`.
    """
    if not _are_plain(rows):
        check_row = _row_check(type(rows[0]))
        for item in rows:
            check_row(item)


def _are_plain(rows: Sequence[Row]) -> bool:
    """Returns True if PostgreSQL can certainly store these rows. False means that each row must be checked alone; the
    result is always False for rows with arrays of numbers.
    """
    columns = zip(*map(astuple, rows), strict=True)
    try:
        return all(is_plain(values) for is_plain, values in zip(_plain_checks(type(rows[0])), columns, strict=True))
    except (TypeError, OverflowError, UnicodeEncodeError):
        return False


@cache
def _plain_checks(row: type[Row]) -> list[Callable[[Sequence[Any]], bool]]:
    return [_plain_check(row, column) for column in columns_of(row)]


def _plain_check(row: type[Row], column: TableColumn) -> Callable[[Sequence[Any]], bool]:
    """Returns a function that returns whether a column can certainly hold some values. Instead of returning False, it
    may raise TypeError, OverflowError or UnicodeEncodeError.

    The function checks equal texts only once, and also a JSON document that several rows share. This saves much time,
    since most rows of a batch are versions of a few rows.
    """
    nullable = column.nullable

    def are_numbers(values: Sequence[Any]) -> bool:
        array(INTEGERS[column.sql_type], filter(None, values) if nullable else values)
        return True

    def are_texts(values: Sequence[Any]) -> bool:
        different = set(values)
        if nullable:
            different.discard(None)
        text, limit = "".join(different), INDEXED_BYTES
        if not text.isascii():
            text.encode()  # raises for half of a surrogate pair
            limit //= 4
        is_short = len(text) <= limit or not _is_indexed(row, column.name) or max(map(len, different)) <= limit
        return is_short and "\0" not in text

    def are_documents(values: Sequence[Any]) -> bool:
        different = dict(zip(map(id, values), values, strict=True))
        encoded = msgspec.json.encode(list(different.values()))
        return b"\\u0000" not in encoded and (nullable or id(None) not in different)

    match column.sql_type:
        case "smallint" | "integer" | "bigint":
            return are_numbers
        case "text" | "tsvector":
            return are_texts
        case "jsonb":
            return are_documents
        case "double precision":
            return lambda values: all(map(math.isfinite, filter(None, values) if nullable else values))
        case "smallint[]" | "integer[]":
            return lambda values: False
        case _:
            return lambda values: nullable or type(None) not in set(map(type, values))


@cache
def _row_check(row: type[Row]) -> Callable[[Row], None]:
    """Returns a function that raises InvalidValue for a row of this type that cannot be stored.

    The function checks all numbers of a row together, and all texts together, since a bulk load checks millions of
    rows.
    """
    numbers = [column for column in columns_of(row) if column.sql_type in INTEGERS and not column.nullable]
    pack = struct.Struct("<" + "".join(INTEGERS[column.sql_type] for column in numbers)).pack
    all_numbers = _values_of([column.name for column in numbers])
    all_texts = _values_of([column.name for column in columns_of(row) if column.sql_type in TEXTS])
    all_needed = _values_of(
        [column.name for column in columns_of(row) if not column.nullable and column not in numbers]
    )
    checks = [(column.name, _check_of(row, column)) for column in columns_of(row)]
    others = [
        (column.name, _check_of(row, column))
        for column in columns_of(row)
        if column.sql_type in ("jsonb", "double precision")
        or column.sql_type.endswith("[]")
        or (column.sql_type in INTEGERS and column.nullable)
    ]

    def check_row(item: Row) -> None:
        try:
            pack(*all_numbers(item))
            texts = "".join(filter(None, all_texts(item)))
        except (struct.error, TypeError):
            _check_each(item, checks)
            raise
        if None in all_needed(item) or not _is_plain(texts):
            _check_each(item, checks)
        elif others:
            _check_each(item, others)

    return check_row


def _values_of(names: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda item: tuple(getattr(item, name) for name in names)


def _is_plain(text: str) -> bool:
    """Returns whether the text fits into any text column, indexed or not."""
    return text.isascii() and len(text) <= INDEXED_BYTES and "\0" not in text


def _check_each(item: Row, checks: list[tuple[str, Check]]) -> None:
    for name, check_value in checks:
        try:
            check_value(getattr(item, name))
        except InvalidValue as error:
            raise InvalidValue(f"{item.table}.{name} cannot hold {error}") from None


def _check_of(row: type[Row], column: TableColumn) -> Check:
    match column.sql_type:
        case "smallint" | "integer" | "bigint":
            one: Check = _integer(column.sql_type)
        case "smallint[]" | "integer[]":
            one = _integers(column.sql_type.removesuffix("[]"))
        case "text" | "tsvector":
            one = _indexed_text if _is_indexed(row, column.name) else _text
        case "double precision":
            one = _float
        case "jsonb":
            one = _json
        case _:
            one = _anything

    def check_value(value: Any) -> None:
        if value is not None:
            one(value)
        elif not column.nullable:
            raise InvalidValue("nothing")

    return check_value


@cache
def _is_indexed(row: type[Row], name: str) -> bool:
    indexes = [index for index in row.table.indexes if "hash" not in index and "USING gin" not in index]
    return name in row.table.key or any(re.search(rf"\b{name}\b", index) for index in indexes)


def _integer(sql_type: str) -> Check:
    pack = struct.Struct("<" + INTEGERS[sql_type]).pack

    def check_value(value: Any) -> None:
        try:
            pack(value)
        except struct.error:
            raise InvalidValue(f"a number outside of {sql_type}") from None

    return check_value


def _integers(sql_type: str) -> Check:
    check_one = _integer(sql_type)

    def check_values(values: Any) -> None:
        if values:
            check_one(min(values))
            check_one(max(values))

    return check_values


def _text(value: Any) -> None:
    if "\0" in value:
        raise InvalidValue("a text with NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidValue("a text with half of a surrogate pair") from None


def _indexed_text(value: Any) -> None:
    _text(value)
    if len(value) > INDEXED_BYTES // 4 and len(value.encode()) > INDEXED_BYTES:
        raise InvalidValue(f"a text of more than {INDEXED_BYTES:,} bytes, since it is indexed")


def _float(value: Any) -> None:
    if not math.isfinite(value):
        raise InvalidValue("a number that is none")


def _json(value: Any) -> None:
    if not value:
        return
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise InvalidValue("a text with half of a surrogate pair") from None
    if b"\\u0000" in text and NUL_IN_JSON.search(text):
        raise InvalidValue("a text with NUL")


def _anything(value: Any) -> None:
    pass
