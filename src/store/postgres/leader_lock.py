"""One of many: whoever holds an advisory lock leads, for as long as the connection lives that holds it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from psycopg import AsyncConnection

ASK_AGAIN_S = 0.2


@contextlib.asynccontextmanager
async def hold_leader_lock(conninfo: str, name: str) -> AsyncIterator[AsyncConnection]:
    """The connection that holds the lock, as soon as nobody else does. Raises psycopg.OperationalError.

    Asks again and again: a statement that waits for its lock holds a snapshot, and for as long as a standby waits no
    vacuum could take away what was deleted anywhere in the database.
    """
    async with await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
        while True:
            if await _taken(connection, name):
                break
            await asyncio.sleep(ASK_AGAIN_S)
        yield connection


async def _taken(connection: AsyncConnection, name: str) -> bool:
    cursor = await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,))
    return await cursor.fetchone() == (True,)
