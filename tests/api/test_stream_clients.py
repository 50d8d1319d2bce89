"""How open streams live and end; with a look into the process that has them."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from litestar.testing import RequestFactory

from api.live import build_feed, stream_clients
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer
from tests.support.server import ADMIN, Server

EVENTS = "/api/v3/events/stream"
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def admin(inside: InProcessServer) -> Client:
    return inside.client(*ADMIN)


@pytest.fixture
def build(shop: Shop, agent: FakeAgent) -> Iterator[dict[str, Any]]:
    shop.start()
    build = agent.take_up()
    yield build
    agent.finished(build)


def of(build: dict[str, Any]) -> str:
    return f"/api/v3/builds/{build['id']}/stream"


def connect(
    inside: InProcessServer, client: Client, path: str, *headers: str, buffer: int | None = None
) -> socket.socket:
    """A connection that has asked and has read nothing."""
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    host, port = inside.url.removeprefix("http://").split(":")
    connection.settimeout(WITHIN_S)
    connection.connect((host, int(port)))
    lines = [f"GET {path} HTTP/1.1", "Host: here", f"Authorization: {client.headers['Authorization']!s}", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def chunks(connection: socket.socket) -> Iterator[bytes]:
    """Of the answer, as the server wrote them; ends with the answer or its connection."""
    with connection.makefile("rb") as file:
        while file.readline().strip():
            continue
        while size := int(file.readline() or b"0", 16):
            yield file.read(size)
            file.readline()


def position(line: bytes) -> int:
    """The position in the log that a line `id: <position>` names."""
    return int(line.removeprefix(b"id: "))


def until(inside: InProcessServer, holds: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not inside.call(holds):
        assert time.monotonic() < deadline, why


def has_none(inside: InProcessServer) -> bool:
    streams = inside.streams
    return len(streams.clients) == len(streams.builds) == len(streams.events) == 0


def at_work(inside: InProcessServer) -> tuple[int, int]:
    """How many tasks the process has, and whom it notifies."""
    return len(asyncio.all_tasks(inside.loop)), sum(map(len, inside.services.listener._callbacks.values()))


def test_a_stalled_reader_is_cut_and_goes_on_later(
    inside: InProcessServer, admin: Client, agent: FakeAgent, build: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_clients, "STALL_TIMEOUT_S", 0.5)
    texts = [f"{number} {'x' * 10_000}" for number in range(2_000)]
    for offset in range(0, len(texts), 200):
        agent.log(build, offset, texts[offset : offset + 200]).raise_for_status()
    agent.finished(build).raise_for_status()
    idle = inside.call(lambda: at_work(inside))
    with connect(inside, admin, of(build) + "?ids=true", buffer=4096) as connection:
        until(inside, lambda: len(inside.streams.clients) == 1, "it is not read")
        until(inside, lambda: has_none(inside), "it is not cut")
        # Nothing waits for it to take the end.
        until(inside, lambda: at_work(inside) <= idle, "something of it stays")
        body = b"".join(chunks(connection))
    got = body[: body.rindex(b"\n\n") + 2]
    last = re.findall(rb"^id: (.+)$", got, re.MULTILINE)[-1].decode()
    assert last != f"1:{len(texts)}"
    rest = admin.get(of(build), headers={"Last-Event-ID": last}).content
    assert got + rest == admin.get(of(build), params={"ids": True}).content


def test_a_user_has_so_many_streams(
    server: Server, inside: InProcessServer, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.streams.clients, "_limit", 1)
    with connect(inside, admin, EVENTS) as first:
        assert first.recv(1_000).startswith(b"HTTP/1.1 200")
        refused = admin.get(EVENTS)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "10"
        assert "1 streams open" in refused.json()["detail"]
        user = server.make_user("viewer", {})
        with connect(inside, user, EVENTS) as second:
            assert second.recv(1_000).startswith(b"HTTP/1.1 200"), "of another user"
    until(inside, lambda: has_none(inside), "they stay")


async def test_a_reader_that_is_cut_ends_though_the_cancellation_is_lost() -> None:
    """As it is in what waits for the database, before Python 3.12: such a reader went on for ever, to nobody."""
    messages: list[Any] = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    async def deaf(client: stream_clients.StreamClient) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        while True:
            await client.wait()

    client = stream_clients.StreamClient(RequestFactory().get("/", user=None), lambda user: True)
    clients = stream_clients.StreamClients()
    async with asyncio.timeout(WITHIN_S):
        await clients.run(client, deaf, receive, send)
    assert len(clients) == 0


@pytest.mark.parametrize("has_read", [False, True])
def test_clients_that_are_gone_leave_nothing(
    inside: InProcessServer, admin: Client, agent: FakeAgent, build: dict[str, Any], has_read: bool
) -> None:
    agent.log(build, 0, ["one"]).raise_for_status()
    idle = inside.call(lambda: at_work(inside))
    connections = [connect(inside, admin, path) for path in (of(build), EVENTS) * 10]
    until(inside, lambda: len(inside.streams.clients) == len(connections), "they are not read")
    assert inside.call(lambda: at_work(inside)) > idle
    if has_read:
        for connection in connections:
            next(chunks(connection))
    for connection in connections:
        connection.close()
    until(inside, lambda: has_none(inside) and at_work(inside) <= idle, "something of them stays")


def test_many_lines_come_together(
    inside: InProcessServer, admin: Client, agent: FakeAgent, build: dict[str, Any]
) -> None:
    count = 100
    agent.log(build, 0, ["first"]).raise_for_status()
    with connect(inside, admin, of(build)) as connection:
        coming = chunks(connection)
        assert b"first" in next(coming)
        began = time.monotonic()
        for number in range(1, count + 1):
            agent.log(build, number, [f"line {number}"]).raise_for_status()
        written = 0
        for chunk in coming:
            written += 1
            if f'line {count}"'.encode() in chunk:
                break
        # What comes while a look reads is read by it too, as a piece of its own.
        looks = (time.monotonic() - began) / build_feed.DEBOUNCE_S + 1
        assert written <= 3 * looks


def test_only_streams_with_ids_are_kept_alive(
    inside: InProcessServer, admin: Client, agent: FakeAgent, build: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_clients, "KEEP_ALIVE_INTERVAL_S", 0.1)
    monkeypatch.setattr(stream_clients, "CHECK_INTERVAL_S", 0.05)
    with (
        connect(inside, admin, of(build)) as plain,
        connect(inside, admin, of(build) + "?ids=true") as numbered,
        connect(inside, admin, EVENTS) as events,
    ):
        until(inside, lambda: len(inside.streams.clients) == 3, "they are not read")
        alive = chunks(numbered)
        assert [next(alive) for _ in range(3)] == [b": still here\n\n"] * 3
        received = chunks(events)
        last = next(received)
        while not (chunk := next(received)).startswith(b": still here"):
            last = chunk  # an event of another test
        alive_at = re.fullmatch(rb": still here\n(id: \d+)\n\n", chunk)
        assert alive_at is not None, chunk
        # Events that this stream does not show may have moved the position on.
        assert position(alive_at[1]) >= position(last.partition(b"\n")[0])
        agent.log(build, 0, ["one"]).raise_for_status()
        assert next(chunks(plain)) == b'data: {"type":"log","data":"[10:00:05] one"}\n\n'
