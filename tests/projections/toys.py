"""A small projection for tests of the engine, and a table to look at."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec
from psycopg import AsyncConnection

from domain.core.events import Event, Recorded
from projections.engine.model import (
    Change,
    Delete,
    DeleteRange,
    DeleteWhere,
    Int,
    Ints,
    Key,
    Projection,
    Row,
    Rows,
    SmallInt,
    SmallInts,
    Table,
)

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


class Toy(Event, frozen=True):
    name: ClassVar[str] = "toy"

    @property
    def stream(self) -> str:
        return "toys"


class Put(Toy, frozen=True):
    """Toy `id` is in `box`, and was put there once more."""

    id: int
    box: int
    text: str = ""

    @property
    def stream(self) -> str:
        return f"toy-{self.id}"


class Taken(Toy, frozen=True):
    id: int

    @property
    def stream(self) -> str:
        return f"toy-{self.id}"


class BoxGone(Toy, frozen=True):
    box: int


class ShelfGone(Toy, frozen=True):
    """All toys with these ids."""

    first: int
    last: int


class Delivered(Toy, frozen=True):
    ids: list[int]


class Found(Toy, frozen=True):
    """One piece."""

    id: int
    number: int


class Broken(Toy, frozen=True):
    """The projection does not know what to do with it."""

    id: int = 0

    @property
    def stream(self) -> str:
        return f"toy-{self.id}"


class ToyRow(Row, frozen=True):
    table = Table("toys", 1, indexes=("(box)",))
    id: int
    box: Int
    puts: SmallInt
    text: str


class PieceRow(Row, frozen=True):
    table = Table("pieces", 1, indexes=("(id)",), append_only=True)
    id: int
    number: Int


class DeliveryRow(Row, frozen=True):
    table = Table("deliveries", 1, indexes=("USING gin (sizes)",), append_only=True)
    id: int
    sizes: Ints
    small_sizes: SmallInts


class KindRow(Row, frozen=True):
    """One column of every type that rows may have."""

    table = Table("kinds", 1)
    id: int
    word: str
    data: bytes
    maybe: int | None
    flag: bool
    share: float
    at: datetime | None
    names: list[str]
    numbers: Ints
    more: dict[str, Any]
    level: Literal["low", "high"] | None
    small: SmallInt | None


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    if isinstance(recorded.event, Put):
        yield ToyRow, (recorded.event.id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case Put():
            before = rows.get(ToyRow, event.id)
            yield ToyRow(event.id, event.box, (before.puts if before else 0) + 1, event.text)
        case Taken():
            yield Delete(ToyRow, event.id)
        case BoxGone():
            yield DeleteWhere(ToyRow, "box", event.box)
            yield DeleteWhere(PieceRow, "number", event.box)
        case ShelfGone():
            for row in (ToyRow, PieceRow, DeliveryRow):
                yield DeleteRange(row, "id", event.first, event.last)
        case Delivered():
            for number, id in enumerate(event.ids):
                yield PieceRow(id, number)
            yield DeliveryRow(recorded.position, [id % 1_000_000 - 5 for id in event.ids], list(range(len(event.ids))))
        case Found():
            yield PieceRow(event.id, event.number)
        case Broken():
            raise ValueError("broken")
        case _:
            return


TOYS = Projection("toys", 1, (ToyRow, PieceRow, DeliveryRow), keys, apply)


class SeenRow(Row, frozen=True):
    table = Table("seen", 1)
    id: int


SEEN = Projection("seen", 1, (SeenRow,), lambda recorded: (), lambda recorded, rows: (SeenRow(recorded.position),))
"""Takes every event."""


def recorded(*events: Event, after: int = 0) -> list[Recorded]:
    return [
        Recorded(event.stream, position, position, msgspec.structs.replace(event, at=NOW))
        for position, event in enumerate(events, after + 1)
    ]


async def table(connection: AsyncConnection, row: type[Row]) -> list[tuple[Any, ...]]:
    """A table's rows, in order."""
    columns = ", ".join(row.__struct_fields__)
    return await query(connection, f"SELECT {columns} FROM {row.table} ORDER BY {columns}")


async def query(connection: AsyncConnection, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(text.encode(), parameters)).fetchall()


async def parked(connection: AsyncConnection) -> Sequence[tuple[Any, ...]]:
    return await query(connection, "SELECT projection, position, error FROM parked_events ORDER BY 1, 2")
