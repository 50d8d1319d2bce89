"""Rows of numbers and of arrays of numbers, as PostgreSQL's binary COPY takes them.

All rows of a table of numbers have the same shape, so many of them are one template repeated, into which each byte that
differs goes by one slice assignment for all rows; the elements of an array are put between their lengths in the same
way. That is a fraction of the time that packing number by number takes.
"""

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from operator import attrgetter
from typing import Literal, NamedTuple

from psycopg import AsyncConnection

from projections.engine.model import Row, columns

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CODES = {"smallint": "h", "integer": "i", "bigint": "q"}
"""SQL type -> code of `struct`."""
ELEMENTS: dict[str, tuple[Literal["h", "i"], int]] = {"smallint[]": ("h", 21), "integer[]": ("i", 23)}
"""SQL type -> code of `array` and object id of the elements' type."""

ERRORS = (OverflowError, TypeError, struct.error)
"""What a value that its column does not hold raises."""


class _Number(NamedTuple):
    name: str
    code: str


class _Array(NamedTuple):
    name: str
    code: Literal["h", "i"]
    element: int


@cache
def _fields(row: type[Row]) -> list[_Number | _Array]:
    return [
        _Array(column.name, *ELEMENTS[column.sql_type])
        if column.sql_type in ELEMENTS
        else _Number(column.name, CODES[column.sql_type])
        for column in columns(row)
    ]


def packed(rows: Sequence[Row]) -> bytes | bytearray:
    """One or more rows of one table. Raises one of ERRORS."""
    fields = _fields(type(rows[0]))
    numbers = [field for field in fields if isinstance(field, _Number)]
    if len(numbers) == len(fields):
        return _of_one_shape(rows, numbers)
    return b"".join(part for row in rows for part in _parts(row, fields))


def _of_one_shape(rows: Sequence[Row], numbers: Sequence[_Number]) -> bytearray:
    count = len(rows)
    template = struct.pack(">h", len(numbers))
    spread: list[tuple[int, bytes]] = []
    for name, code in numbers:
        size = struct.calcsize(code)
        template += struct.pack(">i", size)
        values = _packing(code, count)(*map(attrgetter(name), rows))
        spread += [(len(template) + byte, values[byte::size]) for byte in range(size)]
        template += bytes(size)
    all_rows = bytearray(template) * count
    for place, content in spread:
        all_rows[place :: len(template)] = content
    return all_rows


def _parts(row: Row, fields: Sequence[_Number | _Array]) -> list[bytes]:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        value = getattr(row, field.name)
        if isinstance(field, _Number):
            parts.append(struct.pack(f">i{field.code}", struct.calcsize(field.code), value))
        else:
            parts.append(_array(value, field))
    return parts


def _array(values: Sequence[int], field: _Array) -> bytes:
    count = len(values)
    if count == 0:
        return struct.pack(">iiiI", 12, 0, 0, field.element)
    numbers = array(field.code, values)
    if sys.byteorder == "little":
        numbers.byteswap()
    size = numbers.itemsize
    # Each element is its length and then itself.
    elements = bytearray((struct.pack(">i", size) + bytes(size)) * count)
    with memoryview(elements).cast(field.code) as places:
        places[4 // size :: 1 + 4 // size] = memoryview(numbers)
    return struct.pack(">iiiIii", 20 + len(elements), 1, 0, field.element, count, 1) + elements


@lru_cache(5_000)
def _packing(code: str, count: int) -> Callable[..., bytes]:
    return struct.Struct(f">{count}{code}").pack


async def copy(connection: AsyncConnection, row: type[Row], chunks: Sequence[bytes | bytearray]) -> None:
    """Writes packed rows."""
    query = f"COPY {row.table} ({', '.join(row.__struct_fields__)}) FROM STDIN (FORMAT binary)"
    async with connection.cursor() as cursor, cursor.copy(query.encode()) as copying:
        await copying.write(b"".join([HEADER, *chunks, TRAILER]))
