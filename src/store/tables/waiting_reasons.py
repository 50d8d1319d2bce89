"""Waiting reasons of queued builds. The dispatcher replaces them in each round. A crash loses them until the next
round.
"""

from collections.abc import Mapping

import msgspec
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool


class WaitingReasons:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def replace(self, reasons: Mapping[int, str]) -> None:
        """Replaces all stored reasons. `reasons` maps build ids to reasons."""
        rows = [{"build_id": build_id, "reason": reason} for build_id, reason in reasons.items()]
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("TRUNCATE queue_reasons")
            await connection.execute(
                "INSERT INTO queue_reasons SELECT build_id, reason"
                " FROM json_to_recordset(%s::json) AS r(build_id bigint, reason text)",
                (msgspec.json.encode(rows).decode(),),
            )


async def fetch_waiting_reason(connection: AsyncConnection, build_id: int) -> str | None:
    cursor = await connection.execute("SELECT reason FROM queue_reasons WHERE build_id = %s", (build_id,), prepare=True)
    row = await cursor.fetchone()
    return None if row is None else str(row[0])
