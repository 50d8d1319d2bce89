"""What a load keeps of one table between its batches: the rows that it knows, and what is still to be written."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from projections.engine import binary_copy
from projections.engine.model import DeleteRange, DeleteWhere, Key, Row, Sweep, columns

ROWS_KEPT = 20_000
"""Rows of a table that stay known from one transaction to the next."""
NUMBERS_KEPT = 200_000
"""The same of rows that are nothing but numbers."""


class Span(NamedTuple):
    """Rows that are gone: those whose `column` has a value from `first` to `last`."""

    column: str
    first: int
    last: int


class Spans:
    """The spans of one column."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._single: set[int] = set()
        self._wide: list[Span] = []
        self._first = self._last = 0
        """Of the wide ones."""

    def add(self, span: Span) -> None:
        if span.first == span.last:
            self._single.add(span.first)
            return
        self._first = min(self._first, span.first) if self._wide else span.first
        self._last = max(self._last, span.last) if self._wide else span.last
        self._wide.append(span)

    def hit(self, row: Row) -> bool:
        value: int = getattr(row, self._column)
        if value in self._single:
            return True
        # Most rows come after all that is deleted.
        return self._first <= value <= self._last and any(span.first <= value <= span.last for span in self._wide)


class BufferedTable:
    """One table of rows with keys. Of what is to be written, deletions of many come first, then rows."""

    def __init__(self, row: type[Row], *, is_whole: bool) -> None:
        self.row = row
        self.place_of: Callable[[Row], Any] = attrgetter(*row.table.key)
        self.rows: dict[Any, Row | None] = {}
        """By place: the key, where it is one column without a tuple around it. None for what is known not to exist."""
        self.changed: dict[Any, Row | None] = {}
        self.swept: list[Sweep] = []
        self.is_whole = is_whole
        """What is not in memory does not exist."""
        self.is_asked = False
        """A projection reads its rows."""
        self._is_single = len(row.table.key) == 1
        self._kept = NUMBERS_KEPT if all(item.sql_type in binary_copy.CODES for item in columns(row)) else ROWS_KEPT

    def place(self, key: Key) -> Any:
        return key[0] if self._is_single else key

    def key(self, place: Any) -> Key:
        return (place,) if self._is_single else place

    def put(self, place: Any, item: Row | None) -> None:
        self.rows[place] = self.changed[place] = item

    def put_all(self, rows: Mapping[Any, Row]) -> None:
        self.rows.update(rows)
        self.changed.update(rows)

    def sweep(self, sweep: Sweep) -> None:
        self.swept.append(sweep)
        for place in list(self._candidates(sweep)):
            item = self.rows.get(place)
            if item is not None and sweep.takes(item):
                self.put(place, None)

    def _candidates(self, sweep: Sweep) -> Iterable[Any]:
        if isinstance(sweep, DeleteRange) and self.row.table.key == (sweep.column,):
            span = range(sweep.first, sweep.last + 1)
            if len(span) < len(self.rows):
                return span
        return self.rows

    def written(self) -> Iterator[tuple[list[Row], list[Key]]]:
        """Once, if anything changed: rows to write and keys to delete."""
        if self.changed:
            kept = [item for item in self.changed.values() if item is not None]
            yield kept, [self.key(place) for place, item in self.changed.items() if item is None]
        self.changed = {}

    def forget(self) -> None:
        """Leaves the rows that came last; none where no projection asks for them."""
        kept = self._kept if self.is_asked else 0
        if len(self.rows) > kept:
            self.rows = dict(islice(self.rows.items(), len(self.rows) - kept, None))
            self.is_whole = False


class AppendOnlyTable:
    """One table that only grows. Its deletions wait for the end, when an index finds the rows: none that came after a
    deletion may be among what it takes.
    """

    def __init__(self, row: type[Row]) -> None:
        self.row = row
        self.rows: list[Row] = []
        """New ones, not packed yet."""
        self.packed: list[bytes | bytearray] = []
        self.size = 0
        """Of what is packed, in bytes."""
        self.unsaved: list[Span] = []
        """Deletions of this transaction."""
        self._waiting: dict[str, Spans] = {}

    def pack(self) -> None:
        """Raises one of `copying.ERRORS`."""
        if self.rows:
            self.packed.append(binary_copy.packed(self.rows))
            self.size += len(self.packed[-1])
            self.rows = []

    def written(self) -> None:
        self.packed, self.size = [], 0

    def sweep(self, sweep: Sweep) -> None:
        if isinstance(sweep, DeleteWhere):
            span = Span(sweep.column, sweep.value, sweep.value)
        else:
            span = Span(sweep.column, sweep.first, sweep.last)
        self.wait(span)
        self.unsaved.append(span)

    def wait(self, span: Span) -> None:
        self._waiting.setdefault(span.column, Spans(span.column)).add(span)

    def would_lose(self, row: Row) -> bool:
        """Whether a deletion that waits would wrongly take this new row."""
        return any(spans.hit(row) for spans in self._waiting.values())

    def settled(self) -> None:
        self._waiting, self.unsaved = {}, []
