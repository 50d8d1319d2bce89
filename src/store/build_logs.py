"""Build logs: numbered lines in compressed chunks, by build and attempt.

Lines are not events. They are acknowledged only as far as they are stored without a gap; a resent line is recognised
by its number. The event that ends a build carries the line count.
"""

from collections.abc import Sequence

import msgspec
import zstandard
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from store.listen import BUILD_LOGS


class Line(msgspec.Struct, array_like=True, frozen=True):
    at_ms: int
    """Milliseconds since 1970, by the agent's clock."""
    text: str


_lines = msgspec.msgpack.Decoder(list[Line])
_compressor = zstandard.ZstdCompressor(level=1)
_decompressor = zstandard.ZstdDecompressor()


class BuildLogs:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def append(self, job_id: int, build_id: int, attempt: int, first_line: int, lines: Sequence[Line]) -> int:
        """Stores lines that follow what is there; answers how many are stored without a gap."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (build_id % 2**31, attempt))
            stored = await self._count(connection, build_id, attempt)
            fresh = lines[stored - first_line :] if first_line <= stored else []
            if not fresh:
                return stored
            chunk = _compressor.compress(msgspec.msgpack.encode(fresh))
            await connection.execute(
                "WITH stored AS ("
                "INSERT INTO build_log_chunks (job_id, build_id, attempt, first_line, line_count, lines)"
                " VALUES (%s, %s, %s, %s, %s, %s)) SELECT pg_notify(%s, %s)",
                (job_id, build_id, attempt, stored, len(fresh), chunk, BUILD_LOGS, str(build_id)),
                prepare=True,
            )
            return stored + len(fresh)

    async def count(self, build_id: int, attempt: int) -> int:
        async with self._pool.connection() as connection:
            return await self._count(connection, build_id, attempt)

    async def read(self, build_id: int, attempt: int, offset: int, limit: int) -> list[Line]:
        """`limit` lines from line `offset` on; fewer at the end of what is stored."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT first_line, lines FROM build_log_chunks WHERE build_id = %s AND attempt = %s"
                " AND first_line < %s AND first_line + line_count > %s ORDER BY first_line",
                (build_id, attempt, offset + limit, offset),
                prepare=True,
                binary=True,
            )
            chunks = await cursor.fetchall()
        lines: list[Line] = []
        for first_line, chunk in chunks:
            found = _lines.decode(_decompressor.decompress(chunk))
            lines.extend(found[max(0, offset - first_line) : offset + limit - first_line])
        return lines

    async def delete_of_build(self, build_id: int) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM build_log_chunks WHERE build_id = %s", (build_id,))

    async def delete_of_job(self, job_id: int) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM build_log_chunks WHERE job_id = %s", (job_id,))

    @staticmethod
    async def _count(connection: AsyncConnection, build_id: int, attempt: int) -> int:
        cursor = await connection.execute(
            "SELECT coalesce(max(first_line + line_count), 0) FROM build_log_chunks"
            " WHERE build_id = %s AND attempt = %s",
            (build_id, attempt),
            prepare=True,
        )
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])
