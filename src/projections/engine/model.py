"""What a projection is made of: rows with a table, and two pure functions.

`keys(event)` names the stored rows that the event needs to see. `apply(event, rows)` yields the changes: a row
(inserted or replaced by its key), `Delete`, `DeleteWhere` or `DeleteRange` (delete by an indexed column;
the engine writes such an event alone). A row that an event creates is not named by `keys`.
"""

import hashlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from domain.core.events import Damaged, Event, Recorded
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


@dataclass(frozen=True)
class Table:
    """`str(table)` is its name in SQL; it carries the projection's version, so two versions stand side by side."""

    name: str
    version: int
    key: tuple[str, ...] = ("id",)
    indexes: tuple[str, ...] = ()
    """Bodies of CREATE INDEX, e.g. `(job_id, id DESC)`, `USING gin (case_ids)`."""
    append_only: bool = False
    """Its rows are numbers and arrays of numbers, not read by a projection, not replaced, and deleted by sweeps alone:
    nobody has to see to it that there is one with each key.
    """

    def __str__(self) -> str:
        return f"{self.name}_v{self.version}"


class Row(msgspec.Struct, frozen=True, gc=False):
    table: ClassVar[Table]

    @property
    def row_key(self) -> Key:
        return tuple(getattr(self, column) for column in self.table.key)


class Delete:
    """The row with this key is deleted."""

    def __init__(self, row: type[Row], *key: Any) -> None:
        self.row, self.key = row, key


class DeleteWhere:
    """All rows whose `column` has this value are deleted."""

    def __init__(self, row: type[Row], column: str, value: Any) -> None:
        self.row, self.column, self.value = row, column, value

    def takes(self, item: Row) -> bool:
        return bool(getattr(item, self.column) == self.value)


class DeleteRange:
    """All rows whose `column` has a value from `first` to `last` are deleted."""

    def __init__(self, row: type[Row], column: str, first: int, last: int) -> None:
        self.row, self.column, self.first, self.last = row, column, first, last

    def takes(self, item: Row) -> bool:
        return bool(self.first <= getattr(item, self.column) <= self.last)


class Many:
    """Rows of one table by their key, which is one column. They differ by it and by counters, so that what is fit to be
    stored is told by one.
    """

    def __init__(self, row: type[Row], rows: Mapping[Any, Row]) -> None:
        self.row, self.rows = row, rows


Sweep = DeleteWhere | DeleteRange
"""Deletes rows that the event need not name one by one."""
Change = Row | Delete | Sweep | Many


class Rows(Protocol):
    def get(self, row: type[R], *key: Any) -> R | None:
        """The row as the events before left it. Only for keys that `keys` named."""
        ...

    def get_many(self, row: type[R], keys: Sequence[Any]) -> Sequence[R | None]:
        """`get` for each of these keys, of a table whose key is one column."""
        ...


class Unreadable(Exception):
    """An event that would have meant something to a projection is damaged."""


@dataclass(frozen=True)
class Projection:
    name: str
    version: int
    rows: tuple[type[Row], ...]
    keys: Callable[[Recorded], Iterable[tuple[type[Row], Key]]]
    apply: Callable[[Recorded, Rows], Iterable[Change]]
    takes: tuple[type[Event], ...] | None = None
    """The events that mean anything to it, by their classes or a base of them; None for all."""

    def __post_init__(self) -> None:
        assert all(row.table.version == self.version for row in self.rows), f"{self.name}: its tables carry its version"


def must_be_readable(projection: Projection, recorded: Recorded) -> None:
    """Raises Unreadable where the event is damaged and of a type that the projection takes."""
    event = recorded.event
    if isinstance(event, Damaged) and (projection.takes is None or issubclass(EVENTS[event.type], projection.takes)):
        raise Unreadable(event.reason)


def digest(projections: Iterable[Projection]) -> str:
    """Which projections, in which versions: short enough for a notification."""
    names = ",".join(sorted(f"{projection.name} {projection.version}" for projection in projections))
    return hashlib.sha256(names.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Column:
    name: str
    sql_type: str
    nullable: bool


def columns(row: type[Row]) -> list[Column]:
    hints = get_type_hints(row, include_extras=True)
    return [Column(name, *_sql_type(hints[name])) for name in row.__struct_fields__]


def _sql_type(hint: Any) -> tuple[str, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return _sql_type(inner)[0], True
    if get_origin(hint) is Annotated:
        return get_args(hint)[1], False
    if get_origin(hint) is Literal:
        return "text", False
    return SQL_TYPES.get(hint, "jsonb"), False
