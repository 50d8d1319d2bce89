"""The rows that a batch of events reads and changes, and a cache that keeps rows for later batches."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from projections.engine import statements
from projections.engine.model import Change, Delete, DeleteRange, Key, R, Row, RowsByKey
from projections.engine.row_writer import has_numeric_key

COPY_ROWS = 500
"""Number of changed rows of a table at which a batch writes the table's new rows by COPY instead of by the batch's
statement. Such a batch also writes the rows of all append-only tables by COPY. COPY takes PostgreSQL one to two thirds
of the time for a row, but needs a few more statements.
"""
ROWS_CACHED = 20_000
"""Number of rows of each table that the cache keeps. It first drops the rows that no batch has needed for the longest
time.
"""


class RowCache:
    """Cache of rows as they are in the tables: key -> row, or None if the table has no row with this key."""

    def __init__(self) -> None:
        self._rows: dict[type[Row], dict[Key, Row | None]] = defaultdict(dict)

    def has(self, row: type[Row]) -> bool:
        """Returns whether rows of this type were ever looked up. Only rows of such types need to be cached."""
        return row in self._rows

    def of(self, row: type[Row]) -> dict[Key, Row | None]:
        return self._rows[row]

    def keep(self, row: type[Row], rows: Mapping[Key, Row | None]) -> None:
        """Stores rows in the cache, and marks them as the most recently needed ones."""
        cached = self._rows[row]
        for key in rows:
            cached.pop(key, None)
        cached.update(rows)
        for key in list(islice(cached, max(0, len(cached) - ROWS_CACHED))):
            del cached[key]

    def clear(self) -> None:
        self._rows.clear()


class RowBatch:
    """The rows that one batch of events reads, and the changes that its events make. Implements `Rows`.

    Later events of the batch see the changes of earlier events. All changes are written together.
    """

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache
        self._fetched: dict[type[Row], dict[Key, Row | None]] = defaultdict(dict)
        self._dirty: dict[type[Row], dict[Key, Row | None]] = defaultdict(dict)
        self._added: dict[type[Row], list[Row]] = defaultdict(list)
        self._bulk_deletes: list[DeleteRange] = []

    def get(self, row: type[R], *key: Any) -> R | None:
        dirty = self._dirty.get(row)
        found = dirty[key] if dirty is not None and key in dirty else self._fetched[row][key]
        assert found is None or isinstance(found, row)
        return found

    def get_many(self, row: type[R], keys: Sequence[Any]) -> list[R | None]:
        dirty, fetched = self._dirty.get(row, {}), self._fetched[row]
        return [dirty[key] if key in dirty else fetched[key] for key in zip(keys, strict=True)]  # type: ignore[misc]

    def get_columns(self, row: type[Row], first: int, count: int) -> None:
        return None

    def missing(self, needed: Iterable[tuple[type[Row], Key]]) -> dict[type[Row], set[Key]]:
        """Takes the needed rows from the cache. Returns the keys of the rows that the cache lacks; the caller fetches
        these from the tables.
        """
        wanted: dict[type[Row], set[Key]] = defaultdict(set)
        for row, key in needed:
            wanted[row].add(key)
        for row, keys in wanted.items():
            keys.difference_update(self._fetched[row])
            cached = self._cache.of(row)
            found = {key: cached[key] for key in keys if key in cached}
            self._fetched[row].update(found)
            keys.difference_update(found)
        return {row: keys for row, keys in wanted.items() if keys}

    def add_fetched(self, row: type[Row], keys: Iterable[Key], found: Iterable[Row]) -> None:
        rows: dict[Key, Row | None] = dict.fromkeys(keys)
        rows.update((item.row_key, item) for item in found)
        self._fetched[row].update(rows)

    def change(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case Row() if change.table.append_only:
                    self._added[type(change)].append(change)
                case Row():
                    self._dirty[type(change)][change.row_key] = change
                case RowsByKey():
                    row_keys = zip(change.rows, strict=True) if len(change.row.table.key) == 1 else change.rows
                    self._dirty[change.row].update(zip(row_keys, change.rows.values(), strict=True))
                case Delete():
                    self._dirty[change.row][change.key] = None
                case DeleteRange():
                    self._bulk_deletes.append(change)

    @property
    def is_empty(self) -> bool:
        return not (self._dirty or self._added or self._bulk_deletes)

    def large(self) -> dict[type[Row], list[Row]]:
        """Returns table -> its new and changed rows, for the tables that `row_writer.write_rows` is to write. These are
        the tables with a numeric key of which the batch changes at least COPY_ROWS rows. If there is such a table, all
        append-only tables that the batch changes are returned, too. For most batches the result is empty.
        """
        found: dict[type[Row], list[Row]] = {
            row: [item for item in dirty.values() if item is not None]
            for row, dirty in self._dirty.items()
            if len(dirty) >= COPY_ROWS and has_numeric_key(row)
        }
        return found | self._added if found else {}

    def statements(self, without: Collection[type[Row]] = ()) -> list[statements.Statement]:
        """Returns statements that together write all changes, except the new and changed rows of the tables `without`.
        No two statements touch the same row, so the caller may join them to one WITH statement in any order.
        """
        parts: list[statements.Statement] = []
        for row, dirty in self._dirty.items():
            stored = [] if row in without else [item for item in dirty.values() if item is not None]
            if stored:
                parts.append((statements.upsert(row), [statements.rows_json(stored)]))
            if deleted := [key for key, item in dirty.items() if item is None]:
                parts.append((statements.delete(row), [statements.keys_json(row, deleted)]))
        for row, added in self._added.items():
            if row not in without:
                parts.append((statements.insert(row), [statements.rows_json(added)]))
        parts.extend(statements.bulk_delete(deletion) for deletion in self._bulk_deletes)
        return parts

    def update_cache(self) -> None:
        """Puts the rows of this batch into the cache. Call it only after the batch was committed."""
        for row, fetched in self._fetched.items():
            self._cache.keep(row, fetched)
        for row, dirty in self._dirty.items():
            if self._cache.has(row):
                self._cache.keep(row, dirty)
        for deletion in self._bulk_deletes:
            cached = self._cache.of(deletion.row)
            for key, item in list(cached.items()):
                if item is not None and deletion.matches(item):
                    cached[key] = None
