"""Blocks of numbers as PostgreSQL's binary COPY takes them.

Every row of a table of numbers has the same shape, so the rows of a block are one template repeated, into which each
byte that differs goes by one slice assignment for all rows. That is a tenth of the time that packing row by row
takes, and a COPY is a third of what the same rows cost as arrays.
"""

import struct
from collections.abc import Callable
from functools import cache, lru_cache

from psycopg import AsyncConnection

from projections.machinery.model import Block, Row, columns

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CODES = {"smallint": "h", "integer": "i", "bigint": "q"}
"""SQL type -> code of `struct`."""


ERRORS = (OverflowError, TypeError, struct.error)
"""What a value that its column does not hold raises."""


@cache
def _shape(row: type[Row]) -> tuple[bytes, list[tuple[str, str, int]]]:
    """One row without its values, and (column, code, where its value begins)."""
    template = bytearray(struct.pack(">h", len(row.__struct_fields__)))
    places = []
    for column in columns(row):
        code = CODES[column.sql_type]
        size = struct.calcsize(f">{code}")
        template += struct.pack(">i", size)
        places.append((column.name, code, len(template)))
        template += bytes(size)
    return bytes(template), places


def packed(block: Block) -> bytes | bytearray:
    """The rows of a block. Raises one of ERRORS."""
    count = len(block.columns[block.row.__struct_fields__[0]])
    if count == 0:
        return b""
    template, places = _shape(block.row)
    first, width = bytearray(template), len(template)
    spread: list[tuple[int, bytes]] = []
    for name, code, begin in places:
        values = block.columns[name]
        if isinstance(values, range):
            shared, differing = _counting(values, code)
        elif values[0] == values[-1] and values.count(values[0]) == count:
            shared, differing = struct.pack(f">{code}", values[0]), b""
        else:
            shared, differing = b"", _packing(code, count)(*values)
        first[begin : begin + len(shared)] = shared
        begin += len(shared)
        size = len(differing) // count
        spread += [(begin + byte, differing[byte::size]) for byte in range(size)]
    rows = first * count
    for place, content in spread:
        rows[place::width] = content
    return rows


@lru_cache(5_000)
def _packing(code: str, count: int) -> Callable[..., bytes]:
    return struct.Struct(f">{count}{code}").pack


def _counting(values: range, code: str) -> tuple[bytes, bytes]:
    """The bytes that all of these numbers begin with, and the rest of each: what follows each other shares most."""
    last = struct.pack(f">{code}", values[-1])
    if values.step == 1 and values[0] >> 16 == values[-1] >> 16 and len(last) > 2:
        low = 2 * (values[0] & 0xFFFF)
        return last[:-2], _LOW[low : low + 2 * len(values)]
    return b"", _packing(code, len(values))(*values)


_LOW = struct.pack(">65536H", *range(65536))


async def copy(connection: AsyncConnection, row: type[Row], blocks: list[bytes | bytearray]) -> None:
    """Writes packed blocks."""
    query = f"COPY {row.table} ({', '.join(row.__struct_fields__)}) FROM STDIN (FORMAT binary)"
    async with connection.cursor() as cursor, cursor.copy(query.encode()) as copying:
        await copying.write(b"".join([HEADER, *blocks, TRAILER]))
