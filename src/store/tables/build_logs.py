"""Build logs: numbered lines, stored in compressed chunks by build and attempt. Lines are not events.

The server acknowledges lines up to the first gap. A line that is sent again is recognised by its number. Each chunk has
a digest of itself and all chunks before it. The event that ends the build contains the number of lines and the last
digest, so a later change of the log can be detected.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import zstandard

from domain.core.errors import TooLarge
from store.postgres.notifications import BUILD_LOGS
from store.postgres.queries import Source, connected, execute, fetch_row, fetch_rows

MAX_SIZE = 1024 * 1024 * 1024
"""Largest size of a log, in bytes before compression. Agents cut a log at a far smaller size."""

CHECKED_CHUNKS = 20
"""Largest number of chunks that `find_damage` has in memory at a time."""
MAX_READ_SIZE = 4 * 1024 * 1024
"""Largest size in bytes of the lines that one `read` returns. A first line that is larger alone is still returned."""
PAGE_CHUNKS = 100
"""Largest number of chunks that `read_page` returns."""
PAGE_SIZE = 64 * 1024
"""Largest number of bytes, before compression, of the chunks that `read_page` returns after the first one. The first
chunk is returned whatever its size.
"""


class Line(msgspec.Struct, array_like=True, frozen=True):
    at_ms: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    """Milliseconds since 1970, by the agent's clock."""
    text: str


class LogEnd(NamedTuple):
    lines: int
    digest: bytes
    """SHA-256 of the previous chunk's digest and the last chunk; empty for an empty log."""
    size: int
    """Bytes of the log before compression."""


EMPTY_LOG = LogEnd(0, b"", 0)


_lines = msgspec.msgpack.Decoder(list[Line])
_raw_lines = msgspec.msgpack.Decoder(list[msgspec.Raw])
_compressor = zstandard.ZstdCompressor(level=1)
_decompressor = zstandard.ZstdDecompressor()


class BuildLogs:
    def __init__(self, source: Source) -> None:
        self._source = source

    async def append(self, job_id: int, build_id: int, attempt: int, first_line: int, lines: Sequence[Line]) -> int:
        """Stores `lines`; the first of them has the number `first_line`. Skips lines that are stored already. Stores
        nothing if lines before `first_line` are missing. Returns the number of stored lines of this attempt. Raises
        TooLarge if the log would have more than MAX_SIZE bytes.
        """
        async with connected(self._source) as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (build_id % 2**31, attempt))
            stored, digest, size = await _fetch_end(connection, build_id, attempt)
            fresh = lines[stored - first_line :] if first_line <= stored else []
            if not fresh:
                return stored
            chunk = msgspec.msgpack.encode(fresh)
            size += len(chunk)
            digest = _digest(digest, chunk)
            if size > MAX_SIZE:
                raise TooLarge(f"The log of a build may have {MAX_SIZE >> 20} MiB.")
            await execute(
                connection,
                "WITH stored AS ("
                "INSERT INTO build_log_chunks (job_id, build_id, attempt, first_line, line_count, lines, digest, size)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)) SELECT pg_notify(%s, %s)",
                (
                    *(job_id, build_id, attempt, stored, len(fresh), _compressor.compress(chunk), digest, size),
                    *(BUILD_LOGS, str(build_id)),
                ),
            )
            return stored + len(fresh)

    async def count_lines(self, build_id: int, attempt: int) -> int:
        return (await self.fetch_end(build_id, attempt)).lines

    async def fetch_end(self, build_id: int, attempt: int) -> LogEnd:
        return await _fetch_end(self._source, build_id, attempt)

    async def fetch_ends(self, build_id: int) -> dict[int, LogEnd]:
        """Returns attempt -> end of its log, for the attempts of a build that have lines."""
        rows = await fetch_rows(
            self._source,
            "SELECT DISTINCT ON (attempt) attempt, first_line + line_count, digest, size FROM build_log_chunks"
            " WHERE build_id = %s ORDER BY attempt, first_line DESC",
            (build_id,),
        )
        return {attempt: LogEnd(*end) for attempt, *end in rows}

    async def find_damage(self, build_id: int, attempt: int, lines: int, digest: bytes) -> str | None:
        """Returns a text that says which of the first `lines` lines are missing or were changed; None if all are
        intact.

        Reads all these lines. `digest` is the digest that the chunk with the last of these lines should have.
        """
        reached, found = 0, b""
        while reached < lines:
            chunks = await fetch_rows(
                self._source,
                "SELECT first_line, line_count, lines, digest FROM build_log_chunks"
                " WHERE build_id = %s AND attempt = %s AND first_line >= %s AND first_line < %s"
                " ORDER BY first_line LIMIT %s",
                (build_id, attempt, reached, lines, CHECKED_CHUNKS),
            )
            if not chunks:
                return f"lines {reached + 1} to {lines} are missing"
            for first, count, packed, noted in chunks:
                if first != reached:
                    return f"lines {reached + 1} to {first} are missing"
                found = _digest_of_chunk(found, packed, count)
                reached += count
                if found != noted:
                    return f"lines {first + 1} to {reached} were changed"
        if (reached, found) == (lines, digest):
            return None
        return f"lines 1 to {reached} were changed together with their digests"

    async def read(self, build_id: int, attempt: int, offset: int, limit: int) -> list[Line]:
        """Returns up to `limit` lines from line `offset` on. Returns fewer if they have more bytes than
        MAX_READ_SIZE.
        """
        chunks = await fetch_rows(
            self._source,
            "WITH first AS (SELECT first_line, size FROM build_log_chunks WHERE build_id = %(build)s"
            " AND attempt = %(attempt)s AND first_line <= %(offset)s ORDER BY first_line DESC LIMIT 1)"
            " SELECT next.first_line, next.lines FROM first JOIN build_log_chunks AS next"
            " ON next.build_id = %(build)s AND next.attempt = %(attempt)s AND next.first_line >= first.first_line"
            " AND next.first_line < %(end)s AND next.size <= first.size + %(size)s ORDER BY next.first_line",
            {"build": build_id, "attempt": attempt, "offset": offset, "end": offset + limit, "size": MAX_READ_SIZE},
        )
        return await asyncio.to_thread(_cut, chunks, offset, limit)

    async def read_page(self, build_id: int, attempt: int, offset: int) -> list[Line]:
        """Returns the lines of the next few chunks, from line `offset` on; an empty list at the end of the log."""
        chunks = await fetch_rows(
            self._source,
            "WITH first AS (SELECT first_line, size FROM build_log_chunks WHERE build_id = %(build)s"
            " AND attempt = %(attempt)s AND first_line <= %(offset)s ORDER BY first_line DESC LIMIT 1)"
            " SELECT next.first_line, next.lines FROM first, LATERAL (SELECT first_line, size, lines"
            " FROM build_log_chunks WHERE build_id = %(build)s AND attempt = %(attempt)s"
            " AND first_line >= first.first_line ORDER BY first_line LIMIT %(chunks)s) AS next"
            " WHERE next.size <= first.size + %(size)s ORDER BY next.first_line",
            {"build": build_id, "attempt": attempt, "offset": offset, "chunks": PAGE_CHUNKS, "size": PAGE_SIZE},
        )
        return _lines_from(chunks, offset)

    async def delete_build(self, build_id: int) -> None:
        await execute(self._source, "DELETE FROM build_log_chunks WHERE build_id = %s", (build_id,))

    async def delete_job(self, job_id: int) -> None:
        await execute(self._source, "DELETE FROM build_log_chunks WHERE job_id = %s", (job_id,))


async def _fetch_end(source: Source, build_id: int, attempt: int) -> LogEnd:
    row = await fetch_row(
        source,
        "SELECT first_line + line_count, digest, size FROM build_log_chunks"
        " WHERE build_id = %s AND attempt = %s ORDER BY first_line DESC LIMIT 1",
        (build_id, attempt),
    )
    return EMPTY_LOG if row is None else LogEnd(*row)


def _lines_from(chunks: Sequence[tuple[Any, ...]], offset: int) -> list[Line]:
    """Decodes adjacent chunks. Leaves out the lines before `offset`."""
    lines = [line for _, chunk in chunks for line in _lines.decode(_decompressor.decompress(chunk))]
    return lines[max(0, offset - chunks[0][0]) :] if chunks else []


def _cut(chunks: Sequence[tuple[Any, ...]], offset: int, limit: int) -> list[Line]:
    """Decodes adjacent chunks. Returns up to `limit` lines from line `offset` on, with at most MAX_READ_SIZE bytes."""
    size, found = 0, _lines_from(chunks, offset)[:limit]
    for count, line in enumerate(found):
        size += len(line.text.encode())
        if size > MAX_READ_SIZE and count > 0:
            return found[:count]
    return found


def _digest(before: bytes, chunk: bytes) -> bytes:
    return hashlib.sha256(before + chunk).digest()


def _digest_of_chunk(before: bytes, packed: bytes, count: int) -> bytes:
    """Returns the digest of a stored chunk. `before` is the digest of the previous chunk. Returns empty bytes if the
    chunk is damaged or does not have `count` lines.
    """
    try:
        chunk = _decompressor.decompress(packed)
        return _digest(before, chunk) if len(_raw_lines.decode(chunk)) == count else b""
    except (zstandard.ZstdError, msgspec.MsgspecError):
        return b""
