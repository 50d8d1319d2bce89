"""The only way to the server: JSON over kept connections, retried for as long as the caller wants."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from agent import VERSION
from agent.console import say

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
_LONGEST_ASKED = 300.0  # pause that the server may ask for
_CONNECT_TIMEOUT, _TIMEOUT, _UPLOAD_TIMEOUT = 10.0, 30.0, 300.0
Pause = Callable[[float], bool]
"""Waits that long, or less; true when the call should be given up."""


class Refused(Exception):
    """The server understood and says no."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class BadToken(Refused):
    """401."""


class GivenUp(Exception):
    """The caller's pause said that it is no longer worth waiting."""


class Call:
    """A request that another thread may cut short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self.cut = False

    def goes_over(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self.cut:
                raise ConnectionAbortedError
            self._connection = connection

    def cut_short(self) -> None:
        with self._lock:
            self.cut = True
            if self._connection is not None and self._connection.sock is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's: TLS's own would pull the session away under its reader.
                    socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)


class Server:
    """Thread-safe: every request takes an idle connection or opens one."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": f"testhide-agent/{VERSION}"}
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._away = False

    def get(self, path: str, *, timeout: float, pause: Pause, call: Call, **query: object) -> Any:
        return self._persist("GET", path, query, lambda: b"", {}, timeout, pause, call)

    def post(self, path: str, body: object, *, pause: Pause, **query: object) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._persist("POST", path, query, lambda: data, headers, _TIMEOUT, pause)

    def upload(
        self,
        path: str,
        query: Mapping[str, object],
        body: Callable[[], Iterable[bytes]],
        headers: Mapping[str, str],
        pause: Pause,
    ) -> Any:
        """`body` is asked again for every try; `headers` must tell its Content-Length."""
        return self._persist("POST", path, query, body, headers, _UPLOAD_TIMEOUT, pause)

    def _persist(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: Callable[[], bytes | Iterable[bytes]],
        headers: Mapping[str, str],
        timeout: float,
        pause: Pause,
        call: Call | None = None,
    ) -> Any:
        target = self._prefix + path
        if query:
            target += "?" + "&".join(
                f"{name}={quote(str(value), '', errors='replace')}" for name, value in query.items()
            )
        wait = FIRST_PAUSE
        while True:
            asked = 0.0
            try:
                status, answer, asked = self._once(method, target, body, headers, timeout, call)
                if status < 500 and status != 429:
                    self._is_back()
                    return _accepted(status, answer)
                trouble = f"it answered {status}"
            except (OSError, http.client.HTTPException) as error:
                if call is not None and call.cut:
                    raise GivenUp from None
                trouble = str(error) or type(error).__name__
            self._is_away(trouble)
            if pause(max(wait * random.uniform(0.5, 1), asked * random.uniform(1, 1.1))):  # noqa: S311 (jitter)
                raise GivenUp
            wait = min(wait * 2, LONGEST_PAUSE)

    def _once(
        self,
        method: str,
        target: str,
        body: Callable[[], bytes | Iterable[bytes]],
        headers: Mapping[str, str],
        timeout: float,
        call: Call | None,
    ) -> tuple[int, bytes, float]:
        """Status, body, and how long the server asks to wait."""
        while True:
            connection, used = self._connection()
            try:
                if not used:
                    connection.connect()
                if call is not None:
                    call.goes_over(connection)
                connection.sock.settimeout(timeout)
                whole = True
                try:
                    connection.request(method, target, body() or None, {**self._headers, **headers})
                except (BrokenPipeError, ConnectionResetError):
                    whole = False  # it may have refused a large body early: then its answer is there
                response = connection.getresponse()
                answer = response.read()
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                if not used or (call is not None and call.cut):
                    raise
                continue  # the server had closed it while it was idle: that says nothing about now
            except BaseException:
                connection.close()
                raise
            if whole and not response.will_close:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()
            return response.status, answer, _seconds(response.getheader("Retry-After"))

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        if self._tls:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=_CONNECT_TIMEOUT, context=self._tls
            ), False
        return http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT), False

    def _is_away(self, trouble: str) -> None:
        with self._lock:
            news, self._away = not self._away, True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        if news:
            say(f"Cannot reach {self.url}: {trouble}. Trying on.")

    def _is_back(self) -> None:
        with self._lock:
            news, self._away = self._away, False
        if news:
            say(f"{self.url} answers again.")


def sleep(seconds: float) -> bool:
    """The pause of calls that are never given up."""
    time.sleep(seconds)
    return False


def _seconds(retry_after: str | None) -> float:
    """A date, which our server never sends, counts as nothing."""
    words = (retry_after or "").strip()
    return min(float(words), _LONGEST_ASKED) if words.isascii() and words.isdigit() else 0.0


def _accepted(status: int, answer: bytes) -> Any:
    """The decoded answer, None for an empty one."""
    try:
        decoded = json.loads(answer) if answer else None
    except ValueError:
        decoded = None
    if 200 <= status < 300:
        return decoded
    problem = decoded if isinstance(decoded, dict) else {}
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    raise (BadToken if status == 401 else Refused)(status, detail)
