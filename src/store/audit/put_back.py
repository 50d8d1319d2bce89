"""Repairs rows of the log that were changed or removed: copies them from a second database, which was restored from a
backup.
"""

from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.audit.checkpoints import AuditTree, leaf_hash_of
from store.audit.leaves import row_of
from store.crypto.secrets import Secrets
from store.log.row_macs import has_right_mac
from store.postgres.queries import Source, fetch_rows


class NotPutBack(Exception):
    """The second database cannot repair the log; the message says why. Nothing was changed."""


class RowsPutBack(NamedTuple):
    positions: list[int]
    types: set[str]
    """Types of the events at the repaired positions: of the wrong rows, and of the rows that replaced them."""


async def put_rows_back(
    pool: AsyncConnectionPool, secrets: Secrets, other: AsyncConnection, range_: range
) -> RowsPutBack:
    """Repairs the rows at the positions in `range_` with rows of the database `other`. Returns what it repaired.

    Leaves intact rows alone. A sealed row is intact if its hash equals its leaf in the audit tree. A row that is not
    sealed yet is intact if its MAC is right. Raises NotPutBack if a position needs repair and `other` has no intact row
    for it, or if a row outside `range_` has the stream and version of a row to insert.
    """
    tree = AuditTree(pool)
    newest = await tree.checkpoint()
    sealed = newest.size if newest else 0
    leaves = dict(zip(range_, await tree.leaves(range_), strict=True))
    theirs, ours = await _fetch(other, range_), await _fetch(pool, range_)

    def is_right(position: int, row: StoredEvent | None) -> bool:
        if position <= sealed:
            return leaf_hash_of(position, row) == leaves[position]
        return row is not None and has_right_mac(secrets.rows_keys(position), row)

    wrong = [position for position in range_ if not is_right(position, ours.get(position))]
    for position in wrong:
        if position not in ours and position not in theirs:
            raise NotPutBack(f"neither database has a row at position {position}")
        if not is_right(position, theirs.get(position)):
            raise NotPutBack(f"the row at position {position} of the other database is not the one that was there")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("DELETE FROM stored_events WHERE notification_id = ANY (%s)", (wrong,))
        try:
            await _insert(connection, [(position, row) for position in wrong if (row := theirs.get(position))])
        except psycopg.errors.UniqueViolation as error:
            detail = error.diag.message_detail or ""
            raise NotPutBack(
                f"another row took its stream and version, put that back together with it: {detail}"
            ) from None
    rows = [rows[position] for rows in (ours, theirs) for position in wrong if position in rows]
    return RowsPutBack(wrong, {row.topic for row in rows})


async def _fetch(source: Source, positions: range) -> dict[int, StoredEvent]:
    rows = await fetch_rows(
        source,
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE notification_id >= %s AND notification_id < %s",
        (positions.start, positions.stop),
    )
    return {position: row_of(*columns) for position, *columns in rows}


async def _insert(connection: AsyncConnection, rows: Sequence[tuple[int, StoredEvent]]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO stored_events (notification_id, originator_id, originator_version, topic, state)"
            " VALUES (%s, %s, %s, %s, %s)",
            [(at, row.originator_id, row.originator_version, row.topic, row.state) for at, row in rows],
        )
