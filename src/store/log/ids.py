"""Draws ids from sequences before a command is made. The command contains the ids, so that `decide` needs no
database.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.postgres.batch_loader import BatchLoader
from store.postgres.queries import Source, execute, fetch_rows

Kind = Literal[
    "users",
    "api_tokens",
    "projects",
    "jobs",
    "node_pools",
    "nodes",
    "node_commands",
    "templates",
    "builds",
    "comments",
    "artifacts",
    "test_cases",
    "known_issues",
    "quarantine",
    "results",
    "webhooks",
    "audit_reads",
    "identity_providers",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Each has a sequence `<kind>_ids`, which a migration creates."""

SKIPPED = 10_000
"""Positions, and ids of each kind, that are skipped after a restore: lost events may have had them."""
SKIPPED_RESULTS = 1_000 * SKIPPED
MAX_GAP = 100_000
"""The most adjacent positions that a rollback or a restore leaves without an event."""
POSITION_SEQUENCE = "public.stored_events_notification_id_seq"
LAST_POSITION = f"(SELECT coalesce(pg_sequence_last_value('{POSITION_SEQUENCE}'::regclass), 0))"
"""SQL: the last position that this server drew. Somebody else wrote a row beyond it, so readers stop before that row:
the server's next events come before it.
"""


class Ids:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._drawing = BatchLoader(pool, _draw)

    async def draw(self, kind: Kind) -> int:
        return await self._drawing(kind)

    async def draw_range(self, kind: Kind, count: int) -> int:
        """Reserves `count` consecutive ids. Returns the first of them."""
        rows = await fetch_rows(self._pool, "SELECT draw_ids(%s::regclass, %s)", (f"{kind}_ids", count))
        return int(rows[0][0])


async def fetch_last_position(source: Source) -> int:
    """Returns the last position that this server drew, for an event or for a gap; 0 before the first."""
    return int((await fetch_rows(source, f"SELECT {LAST_POSITION}"))[0][0])


async def use_positions(pool: AsyncConnectionPool, up_to: int) -> bool:
    """Moves the sequence of positions forward to `up_to`, so that all later events come after it. Returns False if it
    was there already.
    """
    async with pool.connection() as connection, connection.transaction():
        # The lock of the append function: no event is appended meanwhile.
        await execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended('public.stored_events', 0))")
        if await fetch_last_position(connection) >= up_to:
            return False
        await execute(connection, "SELECT setval(%s::regclass, %s)", (POSITION_SEQUENCE, up_to))
        return True


async def skip_lost_ids(pool: AsyncConnectionPool) -> None:
    """Moves the sequences of positions and ids forward after a restore, because lost events may have used the next
    ones.

    A backup contains somewhat higher positions and ids than its events use, because events were appended while it was
    made. The resulting gap in the positions never exceeds MAX_GAP.
    """
    counts = [SKIPPED_RESULTS if kind == "results" else SKIPPED for kind in KINDS]
    await execute(
        pool,
        "SELECT setval(name::regclass, nextval(name::regclass) + count) FROM unnest(%s::text[], %s::bigint[])"
        " AS sequences(name, count)",
        ([f"{kind}_ids" for kind in KINDS], counts),
    )
    await execute(
        pool,
        "SELECT setval(name, least(nextval(name) + %s, %s + (SELECT coalesce(max(notification_id), 0) FROM"
        " stored_events))) FROM pg_get_serial_sequence('stored_events', 'notification_id') AS name",
        (SKIPPED, MAX_GAP),
    )


async def _draw(connection: AsyncConnection, kinds: Sequence[Kind]) -> list[int]:
    query = "SELECT nextval(name::regclass) FROM unnest(%s::text[]) AS name"
    return [number for (number,) in await fetch_rows(connection, query, ([f"{kind}_ids" for kind in kinds],))]
