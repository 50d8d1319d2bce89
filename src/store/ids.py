"""Ids are drawn before the decision and carried in the event."""

from typing import Literal

from psycopg_pool import AsyncConnectionPool

Kind = Literal[
    "users",
    "api_tokens",
    "projects",
    "jobs",
    "node_pools",
    "nodes",
    "builds",
    "artifacts",
    "test_cases",
    "results",
]


class Ids:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def draw(self, kind: Kind) -> int:
        return await self._scalar("SELECT nextval(%s::regclass)", f"{kind}_ids")

    async def draw_range(self, kind: Kind, count: int) -> int:
        """The first of `count` ids in a row."""
        return await self._scalar("SELECT draw_ids(%s::regclass, %s)", f"{kind}_ids", count)

    async def _scalar(self, query: str, *params: object) -> int:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(query.encode(), params, prepare=True)).fetchone()
            assert row is not None
            return int(row[0])
