"""Blocks of numbers as PostgreSQL's binary COPY takes them.

Every row of a table of numbers has the same shape, so the rows of a block are one template repeated, into which each
byte of each column goes by one slice assignment for all rows. That is a tenth of the time that packing row by row
takes, and a COPY is a third of what the same rows cost as arrays.
"""

import struct
import sys
from array import array
from collections.abc import Callable
from functools import cache

from psycopg import AsyncConnection

from projections.machinery.model import Block, Row, columns

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CODES = {"smallint": "h", "integer": "i", "bigint": "q"}
"""SQL type -> code of `array`."""


ERRORS = (OverflowError, TypeError, struct.error)
"""What a value that its column does not hold raises."""
FEW = 8
"""Rows up to which one by one is faster."""


@cache
def _one_by_one(row: type[Row]) -> Callable[..., bytes]:
    """Packs the values of one row."""
    pack = struct.Struct(">2x" + "".join(f"4x{CODES[column.sql_type]}" for column in columns(row))).pack
    template = _shape(row)[0]
    width, around = len(template), int.from_bytes(template)
    return lambda *values: (int.from_bytes(pack(*values)) | around).to_bytes(width)


@cache
def _shape(row: type[Row]) -> tuple[bytes, list[tuple[str, str, int]]]:
    """One row without its values, and (column, code, where its value begins)."""
    template = bytearray(struct.pack(">h", len(row.__struct_fields__)))
    places = []
    for column in columns(row):
        code = CODES[column.sql_type]
        size = array(code).itemsize
        template += struct.pack(">i", size)
        places.append((column.name, code, len(template)))
        template += bytes(size)
    return bytes(template), places


def packed(block: Block) -> bytes:
    """The rows of a block. Raises one of ERRORS."""
    if len(block.columns[block.row.__struct_fields__[0]]) <= FEW:
        return b"".join(map(_one_by_one(block.row), *block.columns.values()))
    template, places = _shape(block.row)
    width = len(template)
    rows = bytearray(template * len(block.columns[places[0][0]]))
    for name, code, begin in places:
        values = array(code, block.columns[name])
        if sys.byteorder == "little":
            values.byteswap()
        size, content = values.itemsize, values.tobytes()
        for byte in range(size):
            rows[begin + byte :: width] = content[byte::size]
    return bytes(rows)


async def copy(connection: AsyncConnection, row: type[Row], blocks: list[bytes]) -> None:
    """Writes packed blocks."""
    query = f"COPY {row.table} ({', '.join(row.__struct_fields__)}) FROM STDIN (FORMAT binary)"
    async with connection.cursor() as cursor, cursor.copy(query.encode()) as copying:
        await copying.write(b"".join([HEADER, *blocks, TRAILER]))
