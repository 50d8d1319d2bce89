"""Tables in memory: the rows that a projection's two pure functions make from a history, without a database."""

from collections.abc import Iterable, Sequence
from typing import Any

from domain.core.events import Event, Recorded
from projections.engine.model import Delete, DeleteRange, Key, Projection, R, Row, RowsByKey


class MemoryRows:
    """Implements `Rows`, and keeps its contract: only rows that `keys` named can be read."""

    def __init__(self, *projections: Projection) -> None:
        self._projections = projections
        self._rows: dict[tuple[type[Row], Key], Row] = {}
        self._named: set[tuple[type[Row], Key]] = set()
        self.position = 0

    def get(self, row: type[R], *key: Any) -> R | None:
        assert (row, key) in self._named, f"keys() does not name {row.__name__} {key}"
        found = self._rows.get((row, key))
        assert found is None or isinstance(found, row)
        return found

    def get_many(self, row: type[R], keys: Sequence[Any]) -> list[R | None]:
        return [self.get(row, key) for key in keys]

    def get_columns(self, row: type[Row], first: int, count: int) -> None:
        return None

    def apply(self, *events: Event) -> "MemoryRows":
        for event in events:
            self.position += 1
            for projection in self._projections:
                self._apply(projection, Recorded(event.stream, self.position, self.position, event))
        return self

    def all(self, row: type[R]) -> list[R]:
        """Returns the rows of a table, ordered by their keys."""
        return [found for (_, _), found in sorted(self._of(row), key=lambda item: item[0][1]) if isinstance(found, row)]

    def one(self, row: type[R]) -> R:
        (found,) = self.all(row)
        return found

    def then(self, *rows: Row) -> None:
        """Asserts that the tables of these rows have exactly these rows."""
        for row in {type(row) for row in rows}:
            assert self.all(row) == [one for one in rows if isinstance(one, row)]

    def _of(self, row: type[Row]) -> Iterable[tuple[tuple[type[Row], Key], Row]]:
        return [(key, found) for key, found in self._rows.items() if key[0] is row]

    def _apply(self, projection: Projection, recorded: Recorded) -> None:
        self._named = set(projection.keys(recorded))
        for change in list(projection.apply(recorded, self)):
            match change:
                case Row():
                    self._rows[type(change), change.row_key] = change
                case RowsByKey():
                    self._rows.update(((change.row, one.row_key), one) for one in change.rows.values())
                case Delete():
                    self._rows.pop((change.row, change.key), None)
                case DeleteRange():
                    for key, found in self._of(change.row):
                        if change.matches(found):
                            del self._rows[key]
