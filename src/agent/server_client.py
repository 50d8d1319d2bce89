"""HTTP client for the server: JSON over connections that are kept open, with retries for as long as the caller wants.

Exception
├── RequestRefused       the server answered with a status that no retry changes (any but 401, 408, 429 and 5xx)
├── TokenRefused         401
└── RequestAbandoned     the caller's `RetryPause` gave up, or its `Cancellation` was used
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from agent import VERSION
from agent.console import print_line
from agent.credentials import TokenHolder
from agent.server_request import Cancellation, RetryPause, ServerRequest

FIRST_PAUSE_S = 0.2
"""Pause in seconds after the first try of a request. The pause doubles after each try."""
LONGEST_PAUSE_S = 10.0
"""Longest pause in seconds between two tries of a request."""
_LONGEST_RETRY_AFTER_S = 300.0  # longest pause that the server can ask for
_CONNECT_TIMEOUT_S, _TIMEOUT_S, _UPLOAD_TIMEOUT_S = 10.0, 30.0, 300.0


class RequestRefused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class TokenRefused(Exception):
    pass


class RequestAbandoned(Exception):
    pass


class ServerClient:
    """Sends requests to the server, from any thread. Every request takes an idle connection or opens a new one.

    `get`, `post` and `upload` return the decoded JSON answer, or None if the answer is empty. They raise the exceptions
    of this module.
    """

    def __init__(self, url: str, tokens: TokenHolder) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.tokens = tokens
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._is_unreachable = False

    def get(self, path: str, *, timeout: float, pause: RetryPause, cancellation: Cancellation, **query: object) -> Any:
        return self._send(
            ServerRequest("GET", self._target(path, query), lambda: b"", {}, timeout, pause, cancellation)
        )

    def post(self, path: str, body: object, *, pause: RetryPause, **query: object) -> Any:
        """Send `body` as JSON. If `body` is bytes, it must be JSON already and is sent unchanged."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._send(ServerRequest("POST", self._target(path, query), lambda: data, headers, _TIMEOUT_S, pause))

    def upload(
        self,
        path: str,
        query: Mapping[str, object],
        body: Callable[[], Iterable[bytes]],
        headers: Mapping[str, str],
        pause: RetryPause,
        method: str = "POST",
    ) -> Any:
        """Send the chunks that `body` returns. `body` is called once for each try. `headers` must contain a
        Content-Length.
        """
        return self._send(ServerRequest(method, self._target(path, query), body, headers, _UPLOAD_TIMEOUT_S, pause))

    def download(
        self,
        path: str,
        query: Mapping[str, object],
        read: Callable[[http.client.HTTPResponse], bytes],
        pause: RetryPause,
    ) -> None:
        """Send a GET request and let `read` read the answer. `read` is called once for each try that is answered."""
        self._send(ServerRequest("GET", self._target(path, query), lambda: b"", {}, _TIMEOUT_S, pause, read=read))

    def _target(self, path: str, query: Mapping[str, object]) -> str:
        parts = [f"{name}={quote(str(value), '', errors='replace')}" for name, value in query.items()]
        return f"{self._prefix}{path}{'?' if parts else ''}{'&'.join(parts)}"

    def _send(self, request: ServerRequest) -> Any:
        wait = FIRST_PAUSE_S
        while True:
            retry_after, token = 0.0, self.tokens.token
            try:
                status, answer, retry_after = self._send_once(request, token)
                if status == 401 and self.tokens.replace(token):
                    continue
                if status < 500 and status not in (408, 429):
                    self._note_reachable()
                    return _decode_answer(status, answer)
                trouble = f"it answered {status}"
            except (OSError, http.client.HTTPException) as error:
                if request.is_cancelled:
                    raise RequestAbandoned from None
                trouble = str(error) or type(error).__name__
            self._note_unreachable(trouble)
            if request.pause(max(wait * random.uniform(0.5, 1), retry_after * random.uniform(1, 1.1))):  # noqa: S311 (jitter)
                raise RequestAbandoned
            wait = min(wait * 2, LONGEST_PAUSE_S)

    def _send_once(self, request: ServerRequest, token: str) -> tuple[int, bytes, float]:
        """Send the request once. Return three values: the status, the body, and the number of seconds in Retry-After,
        which is 0 without that header.

        If the request was sent on an idle connection that the server has closed, send it again on another one.
        """
        while True:
            connection, is_reused = self._take_connection()
            try:
                if not is_reused:
                    connection.connect()
                if request.cancellation is not None:
                    request.cancellation.attach(connection)
                connection.sock.settimeout(request.timeout)
                is_sent = True
                try:
                    headers = {"User-Agent": f"testhide-agent/{VERSION}", **request.headers}
                    if token:
                        headers["Authorization"] = f"Bearer {token}"
                    connection.request(request.method, request.target, request.body() or None, headers)
                except (BrokenPipeError, ConnectionResetError):
                    is_sent = False  # the server may have refused a large body early: then its answer is there to read
                response = connection.getresponse()
                answer = request.read(response)
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                if not is_reused or request.is_cancelled:
                    raise
                continue  # the server had closed the idle connection, which does not mean that it is unreachable
            except BaseException:
                connection.close()
                raise
            if is_sent and not response.will_close:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()
            return response.status, answer, _parse_retry_after(response.getheader("Retry-After"))

    def _take_connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether an earlier request has used it."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        address: dict[str, Any] = {"host": self._host, "port": self._port, "timeout": _CONNECT_TIMEOUT_S}
        if self._tls:
            return http.client.HTTPSConnection(**address, context=self._tls), False
        return http.client.HTTPConnection(**address), False

    def _note_unreachable(self, trouble: str) -> None:
        with self._lock:
            is_change, self._is_unreachable = not self._is_unreachable, True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        if is_change:
            print_line(f"Cannot reach {self.url}: {trouble}. Retrying.")

    def _note_reachable(self) -> None:
        with self._lock:
            is_change, self._is_unreachable = self._is_unreachable, False
        if is_change:
            print_line(f"{self.url} answers again.")


def pause_forever(seconds: float) -> bool:
    """Sleep for `seconds` and return False. A request with this `RetryPause` is never given up."""
    time.sleep(seconds)
    return False


def _parse_retry_after(header: str | None) -> float:
    """Return the seconds that the header Retry-After asks for, at most `_LONGEST_RETRY_AFTER_S`.

    Return 0 without the header, and also for an HTTP date, which a Testhide server never sends.
    """
    text = (header or "").strip()
    return min(float(text), _LONGEST_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _decode_answer(status: int, answer: bytes) -> Any:
    try:
        decoded = json.loads(answer) if answer else None
    except ValueError:
        decoded = None
    if 200 <= status < 300:
        return decoded
    problem = decoded if isinstance(decoded, dict) else {}
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    raise TokenRefused(detail) if status == 401 else RequestRefused(status, detail)
