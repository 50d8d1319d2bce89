"""Runs the server-sent event streams of this process. A *client* is one open stream; its *source* sends it messages. To
*cut* a client is to end its stream before the source returns.

A client is cut in five cases: its connection is closed, it does not accept a message for `STALL_TIMEOUT_S`, there is no
message for it for `IDLE_TIMEOUT_S`, its user loses access, or the server stops. A client that was cut may reconnect and
continue. A client takes memory only for the message that is being sent, since messages come from buffers that all
clients share.

Clients register in the call that sends the response, not before: the `finally` of a generator that was never started
does not run.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import psycopg
import structlog
from litestar import Request
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Send

from api.http.authentication import find_caller
from api.http.permissions import Agent, User
from domain.core.errors import TooManyRequests, Unauthenticated, Unavailable
from store.postgres.cancellation import cancel_and_wait

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"
FRAME_BYTES = 16 * 1024
"""Largest number of bytes of a frame. Messages are given to the HTTP server in frames, and the HTTP server buffers a
few of them.
"""
STALL_TIMEOUT_S = 10.0
"""Seconds that a frame may wait for the connection before its client is cut."""
KEEP_ALIVE_INTERVAL_S = 15.0
"""Seconds without a message after which a comment is sent, so that proxies do not close the connection."""
IDLE_TIMEOUT_S = 3600.0
"""Seconds without a message after which a client is cut."""
CHECK_INTERVAL_S = 1.0
"""Seconds between two checks for stalled and idle clients."""
ACCESS_INTERVAL_S = 2.5
"""Seconds between two checks whether users may still read. A lost access takes effect after this time at the latest."""
RETRY_AFTER_S = 10
"""Seconds after which a user with too many streams may try again."""
ACCESS_BATCH_SIZE = 100
"""Number of tokens that are checked at once. Between two such batches, other requests can get database connections."""


def understands_ids(request: Request[User, Any, Any]) -> bool:
    """Returns whether the client needs the ids of messages: an EventSource, or a client that reconnects with
    `Last-Event-ID`.

    An EventSource sends `Accept: text/event-stream`, as the HTML standard says, and `Cache-Control: no-cache`, which
    the fetch standard adds since an EventSource does not use the cache. Only after a message with an id does it send
    `Last-Event-ID`, by which the server tells a reconnection after the end from a new reader. Simple clients that take
    every line for a message send no `Cache-Control`.
    """
    if "last-event-id" in request.headers:
        return True
    is_stream = request.headers.get("accept", "").partition(";")[0].strip().lower() == MEDIA_TYPE
    return is_stream and "no-cache" in request.headers.get("cache-control", "").lower()


Source = Callable[["StreamClient"], Coroutine[Any, Any, None]]
"""Function that sends a client its messages, and returns when there will be no more messages."""


class StreamClient:
    """One open stream of server-sent events."""

    def __init__(
        self,
        request: Request[User, Any, Any],
        may_read: Callable[[User], bool],
        keep_alive: Callable[[], bytes] | None = None,
        is_one_text: bool = False,
    ) -> None:
        self.changed = asyncio.Event()
        """Event that a source or feed sets when there may be messages for the client."""
        self.user = request.user
        """User with the access that the last check found."""
        self.request = request
        self._may_read = may_read
        self._keep_alive = keep_alive
        self._is_one_text = is_one_text
        """Whether a cut breaks the connection, so that the client does not take a part of the text for the whole."""
        self._is_gone = False
        self._is_due = False
        self._sending_since: float | None = None
        self._sent_at = self._message_at = time.monotonic()
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send: Send

    async def run(self, source: Source, receive: Receive, send: Send) -> None:
        """Runs `source` until it returns or the client is cut. Raises ConnectionAbortedError if the client was cut
        before it had a text that it needs as a whole.
        """
        self._send = send
        watching = asyncio.create_task(self._watch(receive))
        sending = asyncio.create_task(source(self))
        try:
            await asyncio.wait((sending, self._cut), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif self._is_one_text and not self._is_gone:
                raise ConnectionAbortedError("the client was cut before it had the whole text")
        finally:
            await cancel_and_wait(watching, sending)

    async def send(self, body: bytes) -> None:
        await self._in_frames(body)
        self._message_at = self._sent_at

    async def wait(self) -> None:
        """Waits until `changed` is set, and clears it. Then sends a keep-alive comment if one is due."""
        await self.changed.wait()
        self.changed.clear()
        if self._is_due and self._keep_alive is not None:
            self._is_due = False
            await self._in_frames(self._keep_alive())

    def cut(self) -> None:
        if not self._cut.done():
            self._cut.set_result(None)

    def check(self, now: float) -> None:
        """Cuts the client if, at the time `now`, it has been stalled or idle for too long. If a keep-alive comment is
        due, wakes the source from its wait for the next message, so that it sends the comment.
        """
        if self._sending_since is not None:
            if now - self._sending_since > STALL_TIMEOUT_S:
                self.cut()
        elif now - self._message_at > IDLE_TIMEOUT_S:
            self.cut()
        elif self._keep_alive is not None and now - self._sent_at > KEEP_ALIVE_INTERVAL_S:
            self._is_due = True
            self.changed.set()

    def update_caller(self, caller: User | Agent | None) -> None:
        """Replaces the client's user by `caller`, the same user with their present access. Cuts the client if the user
        may no longer read the stream.
        """
        if isinstance(caller, User) and self._may_read(caller):
            self.user = caller
        else:
            self.cut()

    async def _in_frames(self, body: bytes) -> None:
        for start in range(0, len(body), FRAME_BYTES):
            self._sending_since = time.monotonic()
            await self._send(_body(body[start : start + FRAME_BYTES], more=True))
        self._sending_since, self._sent_at = None, time.monotonic()

    async def _watch(self, receive: Receive) -> None:
        await _until_disconnect(receive)
        self._is_gone = True
        self.cut()


class StreamClients:
    """Open streams of one kind in a process. One user may have at most `limit` of them, and all users together `total`;
    0 means no limit. `kind` names the streams in error messages.
    """

    def __init__(self, limit: int = 0, total: int = 0, kind: str = "streams") -> None:
        self._limit = limit
        self._total = total
        self._kind = kind
        self._clients: set[StreamClient] = set()

    def __len__(self) -> int:
        return len(self._clients)

    def admit(self, user: User) -> None:
        """Raises TooManyRequests if the user already has as many open streams as one user may have, and Unavailable if
        all users together have as many as the process may have.
        """
        if self._limit and sum(client.user.user_id == user.user_id for client in self._clients) >= self._limit:
            raise TooManyRequests(f"You have {self._limit} {self._kind} open; close one first.", RETRY_AFTER_S)
        if self._total and len(self._clients) >= self._total:
            raise Unavailable(f"{self._total} {self._kind} are open; try again later.", RETRY_AFTER_S)

    async def run(self, client: StreamClient, source: Source, receive: Receive, send: Send) -> None:
        self._clients.add(client)
        try:
            await client.run(source, receive, send)
        finally:
            self._clients.discard(client)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Checks all clients regularly until the block ends, and then cuts them."""
        tasks = [asyncio.create_task(self._check()), asyncio.create_task(self._check_access())]
        try:
            yield
        finally:
            self.cut_all()
            await cancel_and_wait(*tasks)

    def cut_all(self) -> None:
        for client in self._clients:
            client.cut()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.monotonic()
            for client in self._clients:
                client.check(now)

    async def _check_access(self) -> None:
        while True:
            await asyncio.sleep(ACCESS_INTERVAL_S)
            await refresh_callers(self._clients)


async def refresh_callers(clients: Iterable[StreamClient]) -> None:
    """Updates the users of the clients with their present access, and cuts the clients whose users have lost access.
    Looks up each token only once, even if several clients use it.
    """
    by_credentials: dict[str, list[StreamClient]] = defaultdict(list)
    for client in clients:
        by_credentials[client.request.headers["authorization"]].append(client)
    groups = list(by_credentials.values())
    for start in range(0, len(groups), ACCESS_BATCH_SIZE):
        await asyncio.gather(*map(_refresh_caller, groups[start : start + ACCESS_BATCH_SIZE]))


async def _refresh_caller(clients: list[StreamClient]) -> None:
    try:
        caller = await find_caller(clients[0].request)
    except (Unauthenticated, Unavailable):
        # The token, which the read models had before, is not valid any more, or its user has lost rights that the read
        # models still show.
        caller = None
    except psycopg.OperationalError as error:
        log.warning("the access of clients cannot be checked", error=str(error).strip())
        return
    for client in clients:
        client.update_caller(caller)


@contextlib.asynccontextmanager
async def watching_disconnect(
    request: Request[Any, Any, Any], changed: asyncio.Event | None = None
) -> AsyncIterator[asyncio.Event]:
    """Yields an event that is set when the client closes the connection. Sets `changed` at the same time.

    Use this in handlers that wait, since the server does not end a handler whose client has gone. The body of the
    request must be read before the block begins.
    """
    is_gone = asyncio.Event()

    async def watch() -> None:
        await _until_disconnect(request.receive)
        is_gone.set()
        if changed is not None:
            changed.set()

    watching = asyncio.create_task(watch())
    try:
        yield is_gone
    finally:
        watching.cancel()


class LiveStream(Stream):
    """Response that sends a client the messages of a source as they come. The constructor raises TooManyRequests if the
    user has too many open streams, and Unavailable if all users together have too many.
    """

    def __init__(
        self,
        clients: StreamClients,
        client: StreamClient,
        source: Source,
        media_type: str = MEDIA_TYPE,
        status_code: int = 200,
    ) -> None:
        clients.admit(client.user)
        super().__init__((), headers={"X-Accel-Buffering": "no"}, media_type=media_type, status_code=status_code)
        self._sending = partial(clients.run, client, source)

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        return _Sending(self._sending, self.headers, str(self.media_type), self.status_code or 200)


class _Sending(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self,
        sending: Callable[[Receive, Send], Awaitable[None]],
        headers: dict[str, str],
        media_type: str,
        status_code: int,
    ) -> None:
        super().__init__(headers=headers, media_type=media_type, status_code=status_code)
        self._sending = sending

    async def send_body(self, send: Send, receive: Receive) -> None:
        await self._sending(receive, send)
        await send(_body(b"", more=False))


def _body(body: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
