"""Connections of the tests' client that stay open between requests."""

import contextlib
import socket
import weakref
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from urllib.parse import urlsplit


class Connections:
    """The idle connections to a server. A request takes one of them, or makes one if there is none."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def close(self) -> None:
        """Closes the idle connections. The next request makes one."""
        _close(self._idle)

    def exchange(
        self, method: str, path: str, body: bytes | str | None, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[HTTPResponse, bytes]:
        """Sends a request. Returns the response and its content. Raises OSError and HTTPException."""
        while True:
            # Taken in one step, since threads may share a client.
            try:
                connection, is_used = self._idle.pop(), True
            except IndexError:
                connection, is_used = HTTPConnection(self._address), False
            connection.timeout = timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            try:
                # Fails also if the answer came before the end of the request.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, path, body, dict(headers))
                if _is_answered(connection):
                    response = connection.getresponse()
                    content = response.read()
                    if not response.will_close:
                        self._idle.append(connection)
                    return response, content
            except BaseException:
                connection.close()
                raise
            connection.close()
            if not is_used:
                raise RemoteDisconnected("the server has closed the connection without an answer")
            # The server closes connections that are idle for 30 s, perhaps while a request is on its way.


def _is_answered(connection: HTTPConnection) -> bool:
    """Waits for the first byte of the answer. Returns False if the server closes the connection without one."""
    try:
        return connection.sock is not None and bool(connection.sock.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def _close(connections: list[HTTPConnection]) -> None:
    while connections:
        connections.pop().close()
