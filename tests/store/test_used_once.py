"""What was used once is not used again."""

import asyncio

from store.tables.used_once import RETENTION_S, UsedOnce
from testhide.processes import Core


async def test_one_of_many_uses_it(parts: Core) -> None:
    used = UsedOnce(parts.pool)
    assert sorted(await asyncio.gather(*(used.use("assertion", "a") for _ in range(20)))) == [False] * 19 + [True]
    assert await used.use("request", "a")
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE used_once SET at = at - make_interval(secs => %s)", (RETENTION_S + 1,))
    assert await used.use("assertion", "b")
    async with parts.pool.connection() as connection:
        assert await (await connection.execute("SELECT count(*) FROM used_once")).fetchone() == (1,)
