"""Leader election by advisory lock: the holder leads for as long as its connection lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from psycopg import AsyncConnection

from store.postgres.queries import fetch_row

RETRY_INTERVAL_S = 0.2
CONNECT_TIMEOUT_S = 5


@contextlib.asynccontextmanager
async def hold_leader_lock(conninfo: str, name: str) -> AsyncIterator[AsyncConnection]:
    """Waits until the lock called `name` is free, and yields the connection that holds it.

    Tries again and again instead of blocking in PostgreSQL: a statement that waits for a lock holds a snapshot, which
    would keep vacuum from removing any deleted row for as long as a standby waits. Raises psycopg.OperationalError.
    """
    async with await AsyncConnection.connect(
        conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
    ) as connection:
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        while True:
            if await fetch_row(connection, query, (name,)) == (True,):
                break
            await asyncio.sleep(RETRY_INTERVAL_S)
        yield connection
