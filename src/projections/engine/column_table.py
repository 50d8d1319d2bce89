"""Buffer of a bulk load that keeps the rows of a table column by column.

So a projection can change the rows of hundreds of consecutive keys by a few operations on whole columns. A row takes
the bytes of its numbers, a fifth of what a row object takes.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any

import msgspec

from projections.engine import binary_copy, statements
from projections.engine.buffers import LoadConnection, NotInMemory
from projections.engine.model import ABSENT, ORDINARY, PRESENT, UNKNOWN, ColumnsByKey, DeleteRange, Key, Row, columns_of
from projections.engine.row_writer import LoadRefused, RowWriter

SPAN = 4_096
"""Number of consecutive keys whose rows are kept together."""
MAX_SPANS = 200
"""Number of spans that stay in memory after a transaction: 800,000 rows, which take 50 MB."""
MIN_REWRITTEN = 0.3
"""If at least this share of a table's rows has changed, the whole table is written anew. Updating a row takes several
times as long as writing a new one.
"""
_IS_PRESENT = bytes(state in (ORDINARY, PRESENT) for state in range(256))


class _Span:
    """The rows of SPAN consecutive keys."""

    def __init__(self, codes: Mapping[str, str], state: int) -> None:
        self.states = bytearray([state]) * SPAN
        """ORDINARY, PRESENT, ABSENT or UNKNOWN for each key."""
        self.changed = bytearray(SPAN)
        """1 for each row that has to be written, else 0."""
        self.columns = {name: array(code, bytes(array(code).itemsize * SPAN)) for name, code in codes.items()}

    def changed_columns(self, number: int) -> "list[array[int]]":
        """Returns the columns of the changed rows, beginning with the column of the keys. `number` is the number of
        this span: its first key divided by SPAN.
        """
        keys = array("q", range(number * SPAN, (number + 1) * SPAN))
        columns = (keys, *self.columns.values())
        first, end = self.changed.index(1), self.changed.rindex(1) + 1
        if self.changed.count(1) == end - first:
            return [column[first:end] for column in columns]
        return [array(column.typecode, compress(column, self.changed)) for column in columns]


class _SpanColumns:
    """Rows with consecutive keys. Implements `Columns`: copies a column when it is asked for."""

    def __init__(self, pieces: Sequence[tuple[_Span, int, int]]) -> None:
        self._pieces = pieces
        self.states = bytearray().join(span.states[start:end] for span, start, end in pieces)

    def __getitem__(self, name: str) -> "array[int]":
        (span, start, end), *others = self._pieces
        column = span.columns[name][start:end]
        for span, start, end in others:
            column += span.columns[name][start:end]
        return column


def _replace(column: Any, start: int, numbers: Any, others: Sequence[int]) -> None:
    """Replaces the numbers of a column from the index `start` on, except at the indexes `others`."""
    kept = [(index, column[index]) for index in others]
    column[start : start + len(numbers)] = numbers
    for index, number in kept:
        column[index] = number


class ColumnTable:
    """Buffer for a table whose `Table.in_columns` is true. Has the methods of `BufferedTable`."""

    def __init__(self, db: LoadConnection, row: type[Row], *, is_complete: bool) -> None:
        self.row = row
        self._make: Callable[..., Row] = row
        self.is_complete = is_complete
        self.is_read = True
        self.writer = RowWriter(db.connection, row)
        self._db = db
        key, *others = columns_of(row)
        assert row.table.key == (key.name,), f"the first column of {row.table} has to be its key"
        self._codes = {column.name: binary_copy.CODES[column.sql_type] for column in others}
        self._spans: dict[int, _Span] = {}

    @property
    def changes(self) -> int:
        return sum(span.changed.count(1) for span in self._spans.values())

    def flatten(self, key: Key) -> int:
        (number,) = key
        return int(number)

    def has(self, key: int) -> bool:
        return self._span_of(key).states[key % SPAN] != UNKNOWN

    def get(self, key: int) -> Row | None:
        span, index = self._span_of(key), key % SPAN
        if span.states[index] <= PRESENT:
            return self._make(key, *map(itemgetter(index), span.columns.values()))
        if span.states[index] == UNKNOWN:
            raise NotInMemory
        return None

    def get_many(self, keys: Iterable[int]) -> list[Row | None]:
        return [self.get(key) for key in keys]

    def get_columns(self, first: int, count: int) -> _SpanColumns:
        """Returns the rows with `count` consecutive keys, of which `first` is the first."""
        return _SpanColumns(self._pieces(first, count))

    def store(self, item: Row) -> None:
        """Stores a row. Raises LoadRefused for a value that does not fit its column."""
        try:
            span, index = self._set(item)
        except (OverflowError, TypeError) as error:
            raise LoadRefused(f"{self.row.table}: {error}") from error
        span.changed[index] = 1

    def store_many(self, rows: Mapping[int, Row]) -> None:
        for item in rows.values():
            self.store(item)

    def check(self) -> None:
        """Does nothing: the columns take only values that fit."""

    def put_columns(self, change: ColumnsByKey) -> None:
        """Changes columns of consecutive rows. Raises LoadRefused for a value that does not fit its column."""
        done = 0
        for span, start, end in self._pieces(change.first, change.count):
            size = end - start
            others = [start + index - done for index in change.others if done <= index < done + size]
            for name, column in change.columns.items():
                if isinstance(column, array):
                    _replace(span.columns[name], start, column[done : done + size], others)
                else:
                    _replace(span.columns[name], start, self._repeat(name, column, size), others)
            _replace(span.changed, start, b"\1" * size, others)
            done += size

    def _repeat(self, name: str, number: int, count: int) -> "array[int]":
        try:
            return array(self._codes[name], [number]) * count
        except OverflowError as error:
            raise LoadRefused(f"{self.row.table}: {error}") from error

    def delete(self, key: int) -> None:
        raise AssertionError("rows of a table in columns are never deleted")

    def bulk_delete(self, deletion: DeleteRange) -> None:
        raise AssertionError("rows of a table in columns are never deleted")

    async def fetch(self, keys: Iterable[Key]) -> None:
        """Reads the rows with these keys into memory."""
        cursor = await self._db.connection.execute(
            statements.fetch(self.row).encode(), (statements.keys_json(self.row, keys),), prepare=True, binary=True
        )
        for (key,) in keys:
            self._span_of(key).states[key % SPAN] = ABSENT
        for values in await cursor.fetchall():
            self._set(self._make(*values))

    async def write(self) -> None:
        """Writes all changes to the table. Then drops the oldest spans from memory if there are too many."""
        changed_count = sum(span.changed.count(1) for span in self._spans.values())
        if self.is_complete and changed_count >= MIN_REWRITTEN * sum(
            span.states.translate(_IS_PRESENT).count(1) for span in self._spans.values()
        ):
            await self.writer.truncate()
            for span in self._spans.values():
                span.changed = span.states.translate(_IS_PRESENT)
        for number, span in sorted(self._spans.items()):  # new rows have the highest keys
            if 1 in span.changed:
                changed = span.changed_columns(number)
                if self.writer.is_new(changed[0][0]):
                    await self.writer.copy_columns(changed)
                else:
                    await self.writer.write(list(map(self.row, *changed)))
                span.changed = bytearray(SPAN)
        for number in list(self._spans)[:-MAX_SPANS]:
            del self._spans[number]
            self.is_complete = False

    def _set(self, item: Row) -> tuple[_Span, int]:
        """Puts a row into its span. Returns the span, and the index of the row in it."""
        key, *values = msgspec.structs.astuple(item)
        span, index = self._span_of(key), key % SPAN
        span.states[index] = ORDINARY if item.is_ordinary else PRESENT
        for column, value in zip(span.columns.values(), values, strict=True):
            column[index] = value
        return span, index

    def _span_of(self, key: int) -> _Span:
        number = key // SPAN
        if (span := self._spans.get(number)) is None:
            span = self._spans[number] = _Span(self._codes, ABSENT if self.is_complete else UNKNOWN)
        return span

    def _pieces(self, first: int, count: int) -> list[tuple[_Span, int, int]]:
        """Divides `count` consecutive keys by spans. Returns (span, start, end) for each span: the keys have the
        indexes from `start` to before `end` in it.
        """
        pieces, key, end = [], first, first + count
        while key < end:
            stop = min(end, (key // SPAN + 1) * SPAN)
            pieces.append((self._span_of(key), key % SPAN, (stop - 1) % SPAN + 1))
            key = stop
        return pieces
