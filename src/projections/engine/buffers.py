"""Buffers of a bulk load. They hold rows in memory, and changes that are not in the database yet."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import filterfalse, islice
from typing import Any

from psycopg import AsyncConnection

from projections.engine import binary_copy, statements
from projections.engine.model import DeleteRange, Key, Row
from projections.engine.row_validation import check_rows
from projections.engine.row_writer import RowWriter, flat_key_of, pack_numbers

CACHED_ROWS = 50_000
"""Number of rows of a table that stay in memory after a transaction, if a projection reads the table."""
CACHED_NUMERIC_ROWS = 200_000
"""Number of rows of a table that stay in memory after a transaction, if a projection reads the table and all columns of
the table are numbers. It is higher than CACHED_ROWS, since rows of numbers are small.
"""


class NotInMemory(Exception):
    """Raised when a projection reads a row that is not in memory."""


class LoadConnection:
    """The connection of a bulk load. Creates an index when it is first needed, and remembers which indexes it has
    created.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._indexed: set[tuple[type[Row], str]] = set()

    async def execute(self, query: str, *parameters: object) -> None:
        await self.connection.execute(query.encode(), parameters, prepare=True)

    async def ensure_index(self, row: type[Row], column: str) -> None:
        """Creates the index that the table declares on `column`, unless this connection has created it before. Does
        nothing if the table declares no index that begins with `column`.
        """
        if (row, column) in self._indexed:
            return
        self._indexed.add((row, column))
        for body, statement in zip(row.table.indexes, statements.create(row)[1:], strict=True):
            if re.match(rf"[^(]*\({column}\b", body):
                await self.connection.execute(statement.encode())
                return


class BufferedTable:
    """Buffer of a bulk load for a table with a primary key. Bulk deletes are written to the database before changed
    rows.

    The buffer holds rows by their flat key: the value of the key column, or a tuple if the key has several columns.
    """

    def __init__(self, db: LoadConnection, row: type[Row], *, is_complete: bool) -> None:
        self.row = row
        self._flat_key_of = flat_key_of(row)
        self.rows: dict[Any, Row | None] = {}
        """Flat key -> row, or None if the table is known to have no row with this key."""
        self.changed: dict[Any, Row | None] = {}
        self.is_complete = is_complete
        """Whether `rows` contains all rows of the table."""
        self.is_read = False
        """Whether a projection reads rows of this table."""
        self._db = db
        self._unchecked: list[Row] = []
        self._bulk_deletes: list[DeleteRange] = []
        self._keys_by_value: dict[str, dict[Any, set[Any]]] = {}
        """Column -> value -> flat keys of the rows in memory that have this value, or had it before. Contains the
        columns by which a bulk delete has searched since rows were last dropped from memory.
        """
        self._unindexed: set[Any] = set()
        """Flat keys of the rows that were stored since the last search by a bulk delete. The next search adds them to
        `_keys_by_value`.
        """
        self._has_single_key = len(row.table.key) == 1
        self.writer = RowWriter(db.connection, row)
        self._cached = CACHED_NUMERIC_ROWS if self.writer.is_numeric else CACHED_ROWS

    @property
    def changes(self) -> int:
        """Number of changed rows."""
        return len(self.changed)

    def has(self, flat_key: Any) -> bool:
        """Returns whether the row with this key is in memory, or is known not to exist. A row does not exist if its key
        is higher than all keys that the table has had.
        """
        return self.is_complete or flat_key in self.rows or self.writer.is_new(flat_key)

    def get(self, flat_key: Any) -> Row | None:
        """Returns the row with this key; None if the table has none. Raises NotInMemory if the row has to be read from
        the table first.
        """
        self.is_read = True
        if (found := self.rows.get(flat_key)) is None and not self.has(flat_key):
            raise NotInMemory
        return found

    def get_many(self, flat_keys: Sequence[Any]) -> Sequence[Row | None]:
        """Returns for each of these keys the row; None if the table has no such row. Raises NotInMemory if one of the
        rows has to be read from the table first.
        """
        self.is_read = True
        if not self.is_complete and not all(map(self.has, flat_keys)):
            raise NotInMemory
        return list(map(self.rows.get, flat_keys))

    def flatten(self, key: Key) -> Any:
        return key[0] if self._has_single_key else key

    def _unflatten(self, flat_key: Any) -> Key:
        return (flat_key,) if self._has_single_key else flat_key

    def delete(self, flat_key: Any) -> None:
        self.rows[flat_key] = self.changed[flat_key] = None

    def store(self, item: Row) -> None:
        flat_key = self._flat_key_of(item)
        self.rows[flat_key] = self.changed[flat_key] = item
        self._unchecked.append(item)
        if self._keys_by_value:
            self._unindexed.add(flat_key)

    def store_many(self, rows: Mapping[Any, Row]) -> None:
        """Stores many new or changed rows, by flat key. Only one of them is checked later, so they must be equal except
        for keys and counters.
        """
        self.rows.update(rows)
        self.changed.update(rows)
        self._unchecked += islice(rows.values(), 1)
        if self._keys_by_value:
            self._unindexed.update(rows)

    def check(self) -> None:
        """Raises InvalidValue if one of the rows that were stored since the last check has a value that its column
        cannot hold.
        """
        if self._unchecked:
            check_rows(self._unchecked)
            self._unchecked = []

    def _index(self) -> None:
        for flat_key in self._unindexed:
            if (item := self.rows.get(flat_key)) is not None:
                for column, keys in self._keys_by_value.items():
                    keys[getattr(item, column)].add(flat_key)
        self._unindexed.clear()

    def bulk_delete(self, deletion: DeleteRange) -> None:
        self._bulk_deletes.append(deletion)
        for flat_key in list(self._candidates(deletion)):
            item = self.rows.get(flat_key)
            if item is not None and deletion.matches(item):
                self.delete(flat_key)

    def _candidates(self, deletion: DeleteRange) -> Iterable[Any]:
        """Returns the flat keys of all rows in memory that the deletion matches. The result may have further keys."""
        column = deletion.column
        if self.row.table.key == (column,):
            keys = range(deletion.first, deletion.last + 1)
            if len(keys) < len(self.rows):
                return filter(self.rows.__contains__, keys)
            return filter(keys.__contains__, self.rows)
        if deletion.first != deletion.last:
            return self.rows
        if column not in self._keys_by_value:
            self._keys_by_value[column] = defaultdict(set)
            self._unindexed.update(self.rows)
        self._index()
        return self._keys_by_value[column].get(deletion.first, ())

    async def fetch(self, keys: Iterable[Key]) -> None:
        """Reads the rows with these keys into memory."""
        self.is_read = True
        await self._write_bulk_deletes()
        cursor = await self._db.connection.execute(
            statements.fetch(self.row).encode(), (statements.keys_json(self.row, keys),), prepare=True, binary=True
        )
        self.rows.update(dict.fromkeys(map(self.flatten, keys)))
        found = [self.row(*values) for values in await cursor.fetchall()]
        fetched = {self._flat_key_of(item): item for item in found}
        self.rows.update(fetched)
        if self._keys_by_value:
            self._unindexed.update(fetched)

    async def write(self) -> None:
        """Writes all changes to the table. Then drops the oldest rows from memory if there are too many, or all rows if
        no projection reads the table.
        """
        await self._write_bulk_deletes()
        if deleted := [self._unflatten(key) for key, item in self.changed.items() if item is None]:
            await self._db.execute(statements.delete(self.row), statements.keys_json(self.row, deleted))
        if stored := [item for item in self.changed.values() if item is not None]:
            await self.writer.write(stored)
        self.changed = {}
        limit = self._cached if self.is_read else 0
        if len(self.rows) > limit:
            self.rows = dict(islice(self.rows.items(), len(self.rows) - limit, None))
            self._keys_by_value, self._unindexed = {}, set()
            self.is_complete = False

    async def _write_bulk_deletes(self) -> None:
        for column in {deletion.column for deletion in self._bulk_deletes}:
            await self._db.ensure_index(self.row, column)
        for query, parameters in statements.bulk_deletes(self._bulk_deletes):
            await self._db.execute(query, *parameters)
        self._bulk_deletes = []


class DeferredDeletes:
    """Bulk deletes by one column of a table. They wait until the column has an index."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._values: set[int] = set()
        self._ranges: list[DeleteRange] = []
        self._lowest = self._highest = 0
        """Bounds of all `_ranges`: the lowest and the highest value."""

    def add(self, deletion: DeleteRange) -> None:
        if deletion.first == deletion.last:
            self._values.add(deletion.first)
            return
        self._lowest = min(self._lowest, deletion.first) if self._ranges else deletion.first
        self._highest = max(self._highest, deletion.last) if self._ranges else deletion.last
        self._ranges.append(deletion)

    def matches(self, row: Row) -> bool:
        value: int = getattr(row, self._column)
        if value in self._values:
            return True
        # Most new rows have values above all deleted ones, so comparing with the bounds is nearly always enough.
        is_in_bounds = self._lowest <= value <= self._highest
        return is_in_bounds and any(item.first <= value <= item.last for item in self._ranges)


class AppendOnlyTable:
    """Buffer of an append-only table. Writes new rows by COPY.

    Deletes are deferred to the end of the load, when an index finds the rows to delete. Until then the deletes are
    stored in the table `waiting_deletions`. A deferred delete must not delete rows that came after it. So rows that
    came after a delete and match it are held back. Before they are inserted, all deferred deletes are executed.
    """

    def __init__(self, db: LoadConnection, row: type[Row]) -> None:
        self.row = row
        self.rows: list[Row] = []
        """New rows that came after both the last bulk delete and the last packing."""
        self.packed_bytes = 0
        """Size of the packed rows that are not written yet."""
        self._db = db
        self._unpacked: list[Row] = []
        """New rows that came before those in `rows` and are not packed yet, except rows that are held back."""
        self._packed: list[bytes | bytearray] = []
        self._held_back: list[Row] = []
        """New rows that a deferred delete matches, although they came after it."""
        self._deferred: dict[str, DeferredDeletes] = {}
        self._unsaved: list[DeleteRange] = []

    async def load_deferred(self) -> None:
        """Reads the deferred deletes that an interrupted load has left in the table `waiting_deletions`."""
        cursor = await self._db.connection.execute(
            "SELECT column_name, first, last FROM waiting_deletions WHERE table_name = %s", (str(self.row.table),)
        )
        for values in await cursor.fetchall():
            self._defer(DeleteRange(self.row, *values))

    def bulk_delete(self, deletion: DeleteRange) -> None:
        """Defers a delete. At the end of the load, it deletes the matching rows that came before it."""
        self._hold_back()
        self._held_back = [item for item in self._held_back if not deletion.matches(item)]
        self._defer(deletion)
        self._unsaved.append(deletion)

    def _defer(self, deletion: DeleteRange) -> None:
        self._deferred.setdefault(deletion.column, DeferredDeletes(deletion.column)).add(deletion)

    def _is_deleted(self, item: Row) -> bool:
        return any(deletions.matches(item) for deletions in self._deferred.values())

    def _hold_back(self) -> None:
        """Moves the rows in `rows` that match a deferred delete to `_held_back`, and all others to `_unpacked`."""
        if self._deferred:
            self._held_back += filter(self._is_deleted, self.rows)
            self._unpacked += filterfalse(self._is_deleted, self.rows)
        else:
            self._unpacked += self.rows
        self.rows.clear()

    def pack(self) -> None:
        """Packs the new rows for COPY. Raises LoadRefused for a value that does not fit its column."""
        self._hold_back()
        if self._unpacked:
            self._packed.append(pack_numbers(self._unpacked))
            self.packed_bytes += len(self._packed[-1])
            self._unpacked.clear()

    async def write(self) -> None:
        """Writes the new rows to the table, and the new deferred deletes to `waiting_deletions`. Raises LoadRefused for
        a value that does not fit its column.
        """
        self.pack()
        if self._packed:
            await binary_copy.copy_rows(self._db.connection, self.row, self._packed)
            self._packed, self.packed_bytes = [], 0
        if self._unsaved:
            await self._db.execute(
                "INSERT INTO waiting_deletions (table_name, column_name, first, last)"
                " SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])",
                str(self.row.table),
                *([getattr(item, name) for item in self._unsaved] for name in ("column", "first", "last")),
            )
            self._unsaved = []
        if self._held_back:
            await self._execute_deletes()
            self.rows += self._held_back
            self._held_back = []
            await self.write()

    async def delete_deferred(self) -> None:
        """Writes the new rows, and executes all deferred deletes, including those that interrupted loads have left."""
        await self.write()
        await self._execute_deletes()

    async def _execute_deletes(self) -> None:
        table = str(self.row.table)
        query = "SELECT DISTINCT column_name FROM waiting_deletions WHERE table_name = %s"
        cursor = await self._db.connection.execute(query.encode(), (table,), prepare=True)
        for (column,) in await cursor.fetchall():
            await self._db.ensure_index(self.row, column)
            await self._db.execute(
                f"DELETE FROM {table} USING waiting_deletions"
                f" WHERE table_name = %s AND column_name = %s AND {column} BETWEEN first AND last",
                table,
                column,
            )
        await self._db.execute("DELETE FROM waiting_deletions WHERE table_name = %s", table)
        self._deferred = {}
