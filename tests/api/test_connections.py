"""Connections that say nothing, do not finish what they say, or are too many."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from api.http import body_limits
from domain.core.errors import TooManyRequests, Unavailable
from testhide import connections, http_server
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

SHORT_S = 0.5
"""Instead of half a minute."""
WITHIN_S = 10.0
MOST = 12
"""Connections of an address."""
LOGIN = b"POST /api/v3/authenticate HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "HEAD_TIMEOUT_S", SHORT_S)
        patch.setattr(body_limits, "BODY_TIMEOUT_S", SHORT_S)
        patch.setattr(body_limits, "PAUSE_TIMEOUT_S", SHORT_S)
        patch.setattr(connections, "CHECK_INTERVAL_S", 0.1)
        with serve_in_process(server, connections_per_address=MOST) as began:
            yield began


@pytest.fixture(scope="module")
def admin(inside: InProcessServer) -> Client:
    return inside.client(*ADMIN)


@contextmanager
def connected(inside: InProcessServer, sent: bytes = b"") -> Iterator[socket.socket]:
    host, port = inside.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), WITHIN_S) as connection:
        connection.sendall(sent)
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """What the server sends until it ends the connection."""
    got = b""
    try:
        while chunk := connection.recv(65_536):
            got += chunk
    except ConnectionResetError:
        pass
    return got


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"GET /api/v3/healthz HTTP/1.1\r\nHost: he", b""),
        (b"GET /api/v3/healthz HTTP/1.1\r\nHost: here\r\n\r\n", b"200"),  # and then nothing
        (LOGIN + b'Content-Length: 50\r\n\r\n{"username": ', b"408"),
        (LOGIN + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"use\r\n', b"408"),
        (b"GET /api/v3/healthz HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nx", b"408"),
        (b"POST /api/v3/projects HTTP/1.1\r\nHost: here\r\nContent-Length: 5000000\r\n\r\n{", b"401"),
        (b"POST /nowhere HTTP/1.1\r\nHost: here\r\nContent-Length: 5000000\r\n\r\n{", b"404"),
        (LOGIN + b"Content-Length: 70000\r\n\r\n" + b" " * 69_000, b"413"),
        (LOGIN + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + b" " * 69_000, b"413"),
        (b"GET /api/v3/healthz HTTP/1.1\r\nHost: here\r\nContent-Length: 70000\r\n\r\n" + b" " * 69_000, b"413"),
    ],
)
def test_a_connection_that_is_not_finished_is_ended(inside: InProcessServer, sent: bytes, status: bytes) -> None:
    with connected(inside, sent) as connection:
        got = read_to_end(connection)
    assert got[9:12] == status, got


def test_bodies_without_credentials_have_a_limit_together(
    inside: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_limits, "MAX_PUBLIC_BODIES", 200_000)
    monkeypatch.setattr(body_limits, "BODY_TIMEOUT_S", WITHIN_S)
    head = b"POST /webhook/proj/1 HTTP/1.1\r\nHost: here\r\nX-GitHub-Event: ping\r\nX-Hub-Signature-256: sha256=00\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 150000\r\nConnection: close\r\n\r\n"
    with connected(inside, head + b" " * 149_000) as first, connected(inside, head + b" " * 149_000) as second:
        refused, held = select.select([first, second], [], [], WITHIN_S)[0], (first, second)
        answer = read_to_end(refused[0])
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in answer.lower()
        with connected(inside, LOGIN + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}") as third:
            assert read_to_end(third).startswith(b"HTTP/1.1 422"), "small bodies do not count"
        other = next(connection for connection in held if connection not in refused)
        other.sendall(b" " * 1_000)
        assert read_to_end(other).startswith(b"HTTP/1.1 401")
    with connected(inside, head + b" " * 150_000) as connection:
        assert read_to_end(connection).startswith(b"HTTP/1.1 401"), "the others are not held any more"


def test_an_address_has_a_part_of_the_bodies_without_credentials() -> None:
    bodies, most = body_limits.PublicBodies(), body_limits.MAX_PUBLIC_BODIES_OF_NETWORK
    scopes: list[Any] = [{"type": "http", "client": (f"192.0.2.{number}", 1)} for number in range(100)]
    with ExitStack() as stack:
        with bodies.hold(scopes[0]) as count, bodies.hold(scopes[0]) as count_second:
            count(most)
            with pytest.raises(TooManyRequests):
                count_second(1)
        counts = [stack.enter_context(bodies.hold(scope)) for scope in scopes]
        for number in range(body_limits.MAX_PUBLIC_BODIES // most):
            counts[number](most)
        with pytest.raises(Unavailable):
            counts[-1](1)
    with bodies.hold(scopes[-1]) as count:
        count(most)


def test_an_upload_that_pauses_is_ended(inside: InProcessServer, admin: Client) -> None:
    head = f"POST /api/v3/projects HTTP/1.1\r\nHost: here\r\nAuthorization: {admin.headers['Authorization']!s}\r\n"
    with connected(inside, head.encode() + b"Content-Length: 20\r\n\r\n{") as connection:
        got = read_to_end(connection)
    assert got.startswith(b"HTTP/1.1 408")
    assert b"did not come in time" in got


def test_an_upload_that_trickles_is_ended(inside: InProcessServer, admin: Client) -> None:
    head = f"POST /api/v3/projects HTTP/1.1\r\nHost: here\r\nAuthorization: {admin.headers['Authorization']!s}\r\n"
    with connected(inside, head.encode() + b"Content-Length: 500\r\n\r\n{") as connection:
        connection.settimeout(SHORT_S / 5)
        got, sent = b"", 1
        while not got and sent < 100:
            connection.sendall(b" ")
            sent += 1
            with suppress(TimeoutError):
                got = connection.recv(65_536)
    assert got.startswith(b"HTTP/1.1 408"), sent


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/projects", 2**20, 408),
        ("/projects", 2**20 + 1, 413),
        ("/jobs/import", 2**24, 408),
        ("/jobs/import", 2**24 + 1, 413),
    ],
)
def test_how_large_a_body_with_credentials_may_be(
    inside: InProcessServer, admin: Client, path: str, size: int, status: int
) -> None:
    """One that is small enough is waited for."""
    head = f"POST /api/v3{path} HTTP/1.1\r\nHost: here\r\nAuthorization: {admin.headers['Authorization']!s}\r\n"
    with connected(inside, f"{head}Content-Length: {size}\r\n\r\n".encode()) as connection:
        assert read_to_end(connection).startswith(f"HTTP/1.1 {status}".encode())


def test_surplus_connections_of_an_address_are_ended(inside: InProcessServer, admin: Client) -> None:
    head = (
        f"GET /api/v3/events/stream HTTP/1.1\r\nHost: here\r\nAuthorization: {admin.headers['Authorization']!s}\r\n\r\n"
    )
    with ExitStack() as stack:
        stream = stack.enter_context(connected(inside, head.encode()))
        assert stream.recv(1_000).startswith(b"HTTP/1.1 200"), "it is in use"
        begun = time.monotonic()
        silent = [stack.enter_context(connected(inside)) for _ in range(2 * MOST)]
        ended = 0
        for connection in silent:
            connection.settimeout(0.0)
        while ended < MOST + 1 and time.monotonic() - begun < SHORT_S:
            still = []
            for connection in silent:
                try:
                    assert connection.recv(1) == b""
                    ended += 1
                except BlockingIOError:
                    still.append(connection)
            silent = still
        assert ended >= MOST + 1, "they wait for their time-out"
        assert inside.call(lambda: len(inside.streams.clients)) == 1, "the one in use stays"
