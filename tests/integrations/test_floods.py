"""Receivers that answer without end: bounded in memory and time, whatever the answer is made of."""

import asyncio
import contextlib
import gzip
import re
import time
import tracemalloc

import pytest

from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.outgoing_calls import MAX_RESPONSE_BYTES
from integrations.ports import Unanswered
from tests.integrations.test_outgoing import speaking

pytestmark = pytest.mark.anyio

BOMB = gzip.compress(bytes(100 * 1024 * 1024), compresslevel=1)  # a third of the time that the default takes
OK = b"HTTP/1.1 200 OK\r\n"
FLOODS: dict[str, tuple[bytes, bytes, str]] = {
    "a bomb": (OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB, "200"),
    "a bomb in transfer": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"8000\r\n%b\r\n" % BOMB[:0x8000], "200"),
    "headers": (OK, b"X-A: %b\r\n" % (b"a" * 4_000), "no HTTP"),
    "small headers": (OK, b"X-A: a\r\n" * 1_000, "no HTTP"),
    "one header": (OK + b"X-A: ", b"a" * 65_536, "no HTTP"),
    "a folded header": (OK + b"X-A: ", b"\r\n a" * 1_000, "no HTTP"),
    "a status": (b"HTTP/1.1 200 ", b"a" * 65_536, "no HTTP"),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 100, "no answer within"),
    "a chunk's extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536, "200"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n" * 1_000, "200|no HTTP"),
    "answers": (OK + b"Content-Length: 1\r\n\r\na", (OK + b"Content-Length: 1\r\n\r\na") * 1_000, "200"),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", b"a" * 65_536, "101"),
}
"""What a receiver begins with, what it goes on with for ever, and what becomes of it."""


@pytest.mark.parametrize(("begin", "flood", "what"), FLOODS.values(), ids=FLOODS)
async def test_a_flood_takes_little_memory_and_no_longer_than_other_calls(
    begin: bytes, flood: bytes, what: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(begin)
            while True:
                writer.write(flood)
                await writer.drain()
        writer.close()

    async with speaking(serve) as port, HttpOutgoing(parse_networks("127.0.0.0/8"), timeout_s=0.5) as client:
        began = time.monotonic()
        tracemalloc.start()
        try:
            answer = await client.post(f"http://127.0.0.1:{port}/", b"{}", {})
            outcome, length = str(answer.status), len(answer.excerpt)
        except Unanswered as error:
            outcome, length = str(error), 0
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert re.search(what, outcome)
        assert length <= MAX_RESPONSE_BYTES
        assert peak < 16 * 1024 * 1024
        assert time.monotonic() - began < 5
