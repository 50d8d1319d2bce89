"""Ids come from sequences. A command carries the ids of what it creates, so deciding needs no database."""

from collections.abc import Sequence
from typing import Literal, get_args

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.postgres.batch_loader import BatchLoader
from store.postgres.queries import execute, fetch_rows

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
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Each has a sequence `<kind>_ids`, which a migration makes."""

SKIPPED = 10_000
"""Positions and ids of each kind that are not used after a restore: lost events may have had them."""
SKIPPED_RESULTS = 1_000 * SKIPPED
MAX_GAP = 100_000
"""Positions in a row without an event that a rollback or a restore can leave."""


class Ids:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._drawing = BatchLoader(pool, _draw)

    async def draw(self, kind: Kind) -> int:
        return await self._drawing(kind)

    async def draw_range(self, kind: Kind, count: int) -> int:
        """Returns the first of `count` consecutive ids."""
        rows = await fetch_rows(self._pool, "SELECT draw_ids(%s::regclass, %s)", (f"{kind}_ids", count))
        return int(rows[0][0])


async def skip_lost_ids(pool: AsyncConnectionPool) -> None:
    """Lets positions and ids go on where no event that a restore has lost can have had them, as far as SKIPPED goes.

    The sequences of a dump are ahead of its events by all that was appended while it was made. Positions stay within
    MAX_GAP all the same.
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
