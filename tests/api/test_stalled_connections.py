"""Connections whose other end lives and takes nothing: at the level of sockets, with nothing of HTTP's clients."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testhide import http_server
from tests.api.test_stream_clients import chunks, connect, has_none, of, until
from tests.support.builders import Shop
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

TEXTS = [f"{number} {'x' * 10_000}" for number in range(2_000)]
"""More than lies in all buffers on the way."""
STALLED = 40
ESTABLISHED = "01"
MOST = 2
"""MiB of the server's memory that a connection may take."""


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "SEND_TIMEOUT_S", 1.0)
        with serve_in_process(server) as began:
            yield began


@pytest.fixture
def build(server: Server) -> dict[str, Any]:
    """Finished, with a long log."""
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start()
    build = agent.take_up()
    for offset in range(0, len(TEXTS), 200):
        agent.log(build, offset, TEXTS[offset : offset + 200]).raise_for_status()
    agent.finished(build).raise_for_status()
    return build


def connected(url: str) -> int:
    """How many connections the system has at the server's end."""
    port = int(url.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == ESTABLISHED for row in rows)


def test_it_is_ended_and_its_reader_goes_on(inside: InProcessServer, build: dict[str, Any]) -> None:
    admin = inside.client(*ADMIN)
    admin.close()
    with connect(inside, admin, of(build) + "?ids=true") as connection:
        got = next(chunks(connection))
        got = got[: got.rindex(b"\n\n") + 2]
        until(inside, lambda: connected(inside.url) == 1, "there is another one")
        until(inside, lambda: connected(inside.url) == 0, "it stays open")
        until(inside, lambda: has_none(inside), "its reader stays")
    last = got.rpartition(b"id: ")[2].partition(b"\n")[0].decode()
    rest = admin.get(of(build), headers={"Last-Event-ID": last}).content
    assert got + rest == admin.get(of(build), params={"ids": True}).content


def test_many_take_little_memory(server: Server, inside: InProcessServer, build: dict[str, Any]) -> None:
    status = Path(f"/proc/{server.processes['serve'].pid}/status")

    def memory() -> int:
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) // 1024

    real = InProcessServer(server.url, inside.app, inside.loop)
    with connect(real, server.admin, of(build)) as connection:
        next(chunks(connection))  # what all share is there
    before = memory()
    with ExitStack() as stack:
        for _ in range(STALLED):
            stack.enter_context(connect(real, server.admin, of(build)))
        most, deadline = before, time.monotonic() + 3
        while time.monotonic() < deadline:
            most = max(most, memory())
    assert most - before < STALLED * MOST
