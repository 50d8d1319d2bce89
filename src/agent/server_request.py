"""A request to the server, and how other threads can cancel it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

RetryPause = Callable[[float], bool]
"""Function that is called between two tries of a request, and waits at most the given number of seconds. Returns False
if the request must be tried again, and True if it must be given up.
"""


class Cancellation:
    """Lets another thread cancel one request to the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self.is_cancelled = False

    def attach(self, connection: http.client.HTTPConnection) -> None:
        """Remember the connection that the request is about to use, so that `cancel` can close it. Raises
        `ConnectionAbortedError` if the request was cancelled already.
        """
        with self._lock:
            if self.is_cancelled:
                raise ConnectionAbortedError
            self._connection = connection

    def cancel(self) -> None:
        with self._lock:
            self.is_cancelled = True
            if self._connection is not None and self._connection.sock is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown, which drops the TLS state that the other thread is reading with.
                    socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)


class ServerRequest(NamedTuple):
    method: str
    target: str
    body: Callable[[], bytes | Iterable[bytes]]
    headers: Mapping[str, str]
    timeout: float
    pause: RetryPause
    cancellation: Cancellation | None = None
    read: Callable[[http.client.HTTPResponse], bytes] = http.client.HTTPResponse.read
    """Function that reads the body of an answer and returns the bytes to decode. The function returns no bytes if it
    has stored the body elsewhere, for example in a file.
    """

    @property
    def is_cancelled(self) -> bool:
        return self.cancellation is not None and self.cancellation.is_cancelled
