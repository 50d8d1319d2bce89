"""What a load keeps of one table between its batches: the rows that it knows, and what is still to be written."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from projections.machinery import copying
from projections.machinery.model import Block, GoneBetween, GoneWhere, Key, Row, Sweep, columns

ROWS_KEPT = 20_000
"""Rows of a table that stay known from one transaction to the next."""
NUMBERS_KEPT = 200_000
"""The same of rows that are nothing but numbers."""


class Span(NamedTuple):
    """Rows of a table of numbers that are gone: those whose `column` has a value from `first` to `last`."""

    column: str
    first: int
    last: int


class Spans:
    """The spans of one column."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._all: list[Span] = []
        self._first = self._last = 0

    def add(self, span: Span) -> None:
        self._first = min(self._first, span.first) if self._all else span.first
        self._last = max(self._last, span.last) if self._all else span.last
        self._all.append(span)

    def may_hit(self, block: Block) -> bool:
        values = block.columns[self._column]
        if len(values) == 0:
            return False
        least, greatest = (values[0], values[-1]) if isinstance(values, range) else (min(values), max(values))
        # Most blocks come after all that is deleted.
        if greatest < self._first or self._last < least:
            return False
        return any(span.first <= greatest and least <= span.last for span in self._all)


class Held:
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
        self._kept = NUMBERS_KEPT if all(item.sql_type in copying.CODES for item in columns(row)) else ROWS_KEPT

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
        if isinstance(sweep, GoneBetween) and self.row.table.key == (sweep.column,):
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


class HeldBlocks:
    """One table of blocks. Its deletions wait for the end, when an index finds the rows: no block that came after one
    may be among what it takes.
    """

    def __init__(self, row: type[Row]) -> None:
        self.row = row
        self.packed: list[bytes | bytearray] = []
        self.single: list[Row] = []
        """Rows that came by themselves, and are packed together."""
        self.size = 0
        """Of what is packed, in bytes."""
        self.unsaved: list[Span] = []
        """Deletions of this transaction."""
        self._waiting: dict[str, Spans] = {}

    @property
    def columns(self) -> list[str]:
        """Those that something waits for."""
        return list(self._waiting)

    def put(self, rows: bytes | bytearray) -> None:
        self.packed.append(rows)
        self.size += len(rows)

    def pack(self) -> None:
        """Raises one of `copying.ERRORS`."""
        if self.single:
            self.put(copying.packed(Block.of(self.single)))
            self.single = []

    def written(self) -> None:
        self.packed, self.size = [], 0

    def sweep(self, sweep: Sweep) -> None:
        if isinstance(sweep, GoneWhere):
            span = Span(sweep.column, sweep.value, sweep.value)
        else:
            span = Span(sweep.column, sweep.first, sweep.last)
        self.wait(span)
        self.unsaved.append(span)

    def wait(self, span: Span) -> None:
        self._waiting.setdefault(span.column, Spans(span.column)).add(span)

    def may_lose(self, block: Block) -> bool:
        """Whether a deletion that waits would wrongly take rows of this new block."""
        return any(spans.may_hit(block) for spans in self._waiting.values())

    def settled(self) -> None:
        self._waiting, self.unsaved = {}, []
