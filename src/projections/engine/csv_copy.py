"""Packs rows of any types for PostgreSQL's COPY in CSV format. It takes PostgreSQL a third of the time that the same
rows take as JSON.

msgspec writes rows as JSON, since nothing else in Python is as fast. Without its brackets, the JSON of a row is nearly
a line of CSV: `12,"a \\"word\\"",null`. The difference is what may follow a backslash: in CSV only quotes and
backslashes. All other characters stand for themselves, also line breaks.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec.structs import astuple
from psycopg import AsyncConnection

from projections.engine.model import Row, columns_of

CHUNK_ROWS = 5_000
"""Number of rows that are packed together. It limits the memory that packing needs."""
CONTROL_CHARACTERS = ((rb"\n", b"\n"), (rb"\r", b"\r"), (rb"\t", b"\t"), (rb"\b", b"\b"), (rb"\f", b"\f"))
"""Pairs of a control character as JSON writes it, and the character. JSON writes all others as `\\u001b`."""

_encoder = msgspec.json.Encoder()


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Returns `rows` in CSV format. Pass at least one row, and only rows of one table."""
    columns = list(zip(*map(astuple, rows), strict=True))
    for index, convert in _conversions(type(rows[0])):
        columns[index] = tuple(map(convert, columns[index]))
    # JSON never contains a line break within a string.
    lines = _encoder.encode_lines(zip(*columns, strict=True))[1:-2].replace(b"]\n[", b"\n") + b"\n"
    if b"\\" in lines:
        lines = lines.replace(rb"\\", b"\0")  # no text in PostgreSQL contains NUL
        for escaped, character in CONTROL_CHARACTERS:
            lines = lines.replace(escaped, character)
        if rb"\u" in lines:
            lines = re.sub(rb"\\u00(..)", lambda found: bytes.fromhex(found[1].decode()), lines)
        lines = lines.replace(b"\0", rb"\\")
    return lines


async def copy_rows(connection: AsyncConnection, row: type[Row], rows: Sequence[Row]) -> None:
    """Writes rows to the table of `row`."""
    names = ", ".join(row.__struct_fields__)
    query = f"COPY {row.table} ({names}) FROM STDIN (FORMAT csv, ESCAPE '\\', NULL 'null')"
    async with connection.cursor() as cursor, cursor.copy(query.encode()) as copying:
        for first in range(0, len(rows), CHUNK_ROWS):
            await copying.write(pack_rows(rows[first : first + CHUNK_ROWS]))


@cache
def _conversions(row: type[Row]) -> list[tuple[int, Callable[[Any], str | None]]]:
    """Returns the indexes of the columns whose values the encoder cannot write, and a function for each that converts a
    value.
    """
    converted = [(index, _conversion(column.sql_type)) for index, column in enumerate(columns_of(row))]
    return [(index, convert) for index, convert in converted if convert is not None]


def _conversion(sql_type: str) -> Callable[[Any], str | None] | None:
    match sql_type:
        case "jsonb":
            return lambda value: None if value is None else _encoder.encode(value).decode()
        case "bytea":
            return lambda value: None if value is None else f"\\x{value.hex()}"
        case "smallint[]" | "integer[]":
            return lambda value: f"{{{','.join(map(str, value))}}}"
        case _:
            return None
