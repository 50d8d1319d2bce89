"""Ids come from sequences. A command carries the ids of what it creates, so deciding needs no database."""

from collections.abc import Sequence
from typing import Literal, get_args

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.postgres.batch_loader import BatchLoader
from store.postgres.queries import fetch_rows

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


async def _draw(connection: AsyncConnection, kinds: Sequence[Kind]) -> list[int]:
    query = "SELECT nextval(name::regclass) FROM unnest(%s::text[]) AS name"
    return [number for (number,) in await fetch_rows(connection, query, ([f"{kind}_ids" for kind in kinds],))]
