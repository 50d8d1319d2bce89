"""The parts of a projection: row structs, each with its table, and two pure functions.

`keys(event)` names the stored rows that applying the event needs. It may leave out rows that the event creates.

`apply(event, rows)` yields changes. A change is a `Row`, a `RowsByKey`, a `ColumnsByKey`, or a deletion. A `Row` is
inserted, or replaces the row with its key. `Delete` deletes by key; `DeleteWhere` and `DeleteRange` delete by an
indexed column. The engine writes an event with `DeleteWhere` or `DeleteRange` in a separate statement.
"""

import hashlib
import types
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from domain.core.events import Damaged, Event, Recorded, changes_of
from domain.registry import EVENTS

R = TypeVar("R", bound="Row")
Key = tuple[Any, ...]

SQL_TYPES = {
    int: "bigint",
    str: "text",
    bool: "boolean",
    float: "double precision",
    bytes: "bytea",
    datetime: "timestamptz",
}

SmallInt = Annotated[int, "smallint"]
Int = Annotated[int, "integer"]
SmallInts = Annotated[Sequence[int], "smallint[]"]
Ints = Annotated[Sequence[int], "integer[]"]
TsVector = Annotated[str, "tsvector"]
"""Words for full-text search, in the syntax of PostgreSQL. In a row that was read, they are sorted, and each
occurs once.
"""

ORDINARY, PRESENT, ABSENT, UNKNOWN = range(4)
"""States of a key in `Columns`. ORDINARY: its row is known, and a `ColumnsByKey` may change it (`Row.is_ordinary`).
PRESENT: its row is known, but is not ordinary. ABSENT: the table has no row with this key. UNKNOWN: nothing is known.
So the row is known if the state is PRESENT or lower.
"""


@dataclass(frozen=True)
class Table:
    """A table of a projection. `str(table)` is the name in SQL.

    This name ends with the projection's version, so that the tables of two versions can exist side by side.
    """

    name: str
    version: int
    key: tuple[str, ...] = ("id",)
    indexes: tuple[str, ...] = ()
    """Index definitions in the syntax of CREATE INDEX: `(job_id, id DESC)`, `USING gin (case_ids)`."""
    computed: tuple[str, ...] = ()
    """Definitions of columns that PostgreSQL computes from the others, in the syntax of CREATE TABLE. Rows in Python do
    not have them.
    """
    append_only: bool = False
    """True if rows are never changed: only inserted, or deleted by `DeleteWhere` and `DeleteRange`. Such a table has no
    primary key, `keys` never names its rows, and all its columns are numbers or arrays of numbers.
    """
    in_columns: bool = False
    """True if a bulk load keeps the rows column by column (`projections.engine.column_table`). All columns of such a
    table are numbers that are never null, its key is a single column, and its rows are never deleted.
    """

    def __str__(self) -> str:
        return f"{self.name}_v{self.version}"


class Row(msgspec.Struct, frozen=True, gc=False):
    table: ClassVar[Table]

    @property
    def row_key(self) -> Key:
        return _get_key(type(self))(self)

    @property
    def is_ordinary(self) -> bool:
        """Whether a `ColumnsByKey` may change the row. Only tables with `Table.in_columns` have such rows."""
        return False


@cache
def _get_key(row: type[Row]) -> Callable[[Row], Key]:
    """Returns a function that returns the key of a row."""
    get = attrgetter(*row.table.key)
    return get if len(row.table.key) > 1 else lambda item: (get(item),)


class Delete:
    """A change that deletes the row with this key."""

    def __init__(self, row: type[Row], *key: Any) -> None:
        self.row, self.key = row, key


class DeleteRange:
    """A change that deletes all rows whose `column` is between `first` and `last`, both included."""

    def __init__(self, row: type[Row], column: str, first: int, last: int) -> None:
        self.row, self.column, self.first, self.last = row, column, first, last

    def matches(self, item: Row) -> bool:
        return bool(self.first <= getattr(item, self.column) <= self.last)


class DeleteWhere(DeleteRange):
    """A change that deletes all rows whose `column` has this value."""

    def __init__(self, row: type[Row], column: str, value: int) -> None:
        super().__init__(row, column, value, value)

    def matches(self, item: Row) -> bool:
        return bool(getattr(item, self.column) == self.first)  # no order comparison, since the column may be null


class RowsByKey:
    """A change that inserts or replaces many rows of one table. `rows` maps flat keys to rows. A flat key is the value
    of the key column, or a tuple if the key has several columns.

    Only one of the rows is validated, so they must be equal except for keys and counters.
    """

    def __init__(self, row: type[Row], rows: Mapping[Any, Row]) -> None:
        self.row, self.rows = row, rows


class ColumnsByKey:
    """A change of some columns of the rows with `count` consecutive keys, of which `first` is the first. `columns` maps
    the name of a column to its new numbers, or to the one number that all rows get. The rows at the indexes `others`
    stay as they are. All other rows must be ordinary (`Row.is_ordinary`) before and after the change.
    """

    def __init__(
        self,
        row: type[Row],
        first: int,
        count: int,
        columns: "Mapping[str, int | array[int]]",
        others: Sequence[int],
    ) -> None:
        self.row, self.first, self.count, self.columns, self.others = row, first, count, columns, others


Change = Row | Delete | DeleteRange | RowsByKey | ColumnsByKey


def changed_columns(row: Row, event: Event) -> dict[str, Any]:
    """Returns column -> new value, for the columns of the row that an update event changes. Ignores fields of the event
    that have no column.
    """
    changes = changes_of(event)
    if "title" in changes and "name" in row.__struct_fields__:
        changes["name"] = changes["title"]
    return {column: value for column, value in changes.items() if column in row.__struct_fields__}


class Columns(Protocol):
    """Rows with consecutive keys, in columns."""

    states: bytearray
    """The state of each key: ORDINARY, PRESENT, ABSENT or UNKNOWN."""

    def __getitem__(self, name: str) -> "array[int]":
        """Returns a copy of a column. Its numbers mean nothing for keys without a known row."""
        ...


class Rows(Protocol):
    def get(self, row: type[R], *key: Any) -> R | None:
        """Returns the row with this key, as earlier events have left it; None if there is none. The projection's `keys`
        must have named the row.
        """
        ...

    def get_many(self, row: type[R], keys: Sequence[Any]) -> Sequence[R | None]:
        """Returns for each of these keys the row; None if the table has no such row. The table's key must be a single
        column.
        """
        ...

    def get_columns(self, row: type[Row], first: int, count: int) -> Columns | None:
        """Returns the rows with `count` consecutive keys, of which `first` is the first. Returns None if the rows have
        to be read by `get_many`, which is always so except in a bulk load.
        """
        ...


Keys = Callable[[Recorded], Iterable[tuple[type[Row], Key]]]


def no_rows(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    return ()


def row_of(row: type[Row], field: str, *events: type[Event]) -> Keys:
    """Returns a function for use as `keys`. For an event of the classes `events`, it names the row of type `row` whose
    key is in the event's field `field`.
    """

    def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
        if isinstance(recorded.event, events):
            yield row, (getattr(recorded.event, field),)

    return keys


class Unreadable(Exception):
    """Raised when a damaged event is of a type that the projection handles."""


@dataclass(frozen=True)
class Projection:
    name: str
    version: int
    rows: tuple[type[Row], ...]
    keys: Keys
    apply: Callable[[Recorded, Rows], Iterable[Change]]
    handles: tuple[type[Event], ...] | None = None
    """Event classes, or base classes of events, that change the tables. None if all events may."""
    dismissed: frozenset[int] = frozenset()
    """Positions of events that an operator has dismissed from this read model (`projections.engine.dismissals`)."""

    def __post_init__(self) -> None:
        versions = {row.table.version for row in self.rows}
        assert versions <= {self.version}, f"{self.name}: its tables have another version"

    def handles_any(self, types: Iterable[str]) -> bool:
        """Returns whether an event with one of these names may change the tables. Ignores names of unknown events."""
        events = [EVENTS[name] for name in types if name in EVENTS]
        return any(self.handles is None or issubclass(event, self.handles) for event in events)

    def changes(self, recorded: Recorded, rows: Rows) -> Sequence[Change]:
        """Returns the changes that the projection makes for an event; none if the event was dismissed.

        Raises Unreadable for a damaged event of a type that the projection handles, and whatever `apply` raises.
        """
        event = recorded.event
        if self.dismissed and recorded.position in self.dismissed:
            return ()
        if type(event) is Damaged:
            if self.handles is None or issubclass(EVENTS[event.type], self.handles):
                raise Unreadable(event.reason)
        elif self.handles is not None and not isinstance(event, self.handles):
            return ()
        return list(self.apply(recorded, rows))


def versions_digest(projections: Iterable[Projection]) -> str:
    """Returns a short hash of the names and versions of projections. Notifications of the projector contain it."""
    names = ",".join(sorted(f"{projection.name} {projection.version}" for projection in projections))
    return hashlib.sha256(names.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TableColumn:
    name: str
    sql_type: str
    nullable: bool


@cache
def columns_of(row: type[Row]) -> tuple[TableColumn, ...]:
    hints = get_type_hints(row, include_extras=True)
    return tuple(TableColumn(name, *_sql_type(hints[name])) for name in row.__struct_fields__)


def _sql_type(hint: Any) -> tuple[str, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return _sql_type(inner)[0], True
    if get_origin(hint) is Annotated:
        return get_args(hint)[1], False
    if get_origin(hint) is Literal:
        return "text", False
    return SQL_TYPES.get(hint, "jsonb"), False
