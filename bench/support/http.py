"""HTTP/1.1 client for benchmarks: one persistent connection, one request at a time, little CPU per request.

It reads bodies with Content-Length and chunked bodies. This server sends no others.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Self


class ConnectionLost(Exception):
    """Raised when the server closed the connection before the end of an answer."""


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"

    @classmethod
    async def open(cls, port: int, token: str) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port), token)

    def close(self) -> None:
        self._writer.close()

    def prepare(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Returns the bytes of a request, which may be sent many times."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def send(self, prepared: bytes) -> tuple[int, bytes, bytes]:
        """Sends a request. Returns the status, head and body of its answer. Raises ConnectionLost."""
        try:
            self._writer.write(prepared)
            head = await self._reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            if b"content-length: " in lower:
                length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await self._reader.readexactly(length)
            elif b"transfer-encoding: chunked" in lower:
                body = b"".join([chunk async for chunk in self._chunks()])
            else:
                body = b""
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost(str(error)) from error
        return int(head[9:12]), head, body

    async def stream(self, prepared: bytes) -> AsyncIterator[bytes]:
        """Sends a request. Yields the chunks of its answer's body as they arrive."""
        self._writer.write(prepared)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert int(head[9:12]) == 200, head
        async for chunk in self._chunks():
            yield chunk

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
