"""Open streams of this process: who reads, and how a stream ends before its time.

A reader holds nothing but the message that is being sent; what it is sent comes from buffers that all readers share. It
is cut, and may come back and go on, when its connection is gone, when it takes nothing for a while, when there was no
news for it for long, when it has lost access and when the server stops. Readers are registered in the call that sends
the answer, so that nothing begins without its end: a generator that was never started never runs its `finally`.
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

from api.http.permissions import Agent, User
from api.http.security import caller_of
from domain.core.errors import Unauthenticated
from store.postgres.cancellation import cancel_and_wait

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"
FRAME = 16 * 1024
"""Bytes handed over at once; the server takes a few frames ahead of the connection."""
STALLED_S = 10.0
"""How long a frame may lie there until its reader is cut."""
KEEP_ALIVE_S = 15.0
IDLE_S = 3600.0
LOOK_S = 1.0
ASK_AGAIN_S = 2.5
"""How often it is asked whether the readers still may read."""
ASKED_AT_ONCE = 100

Source = Callable[["Reader"], Coroutine[Any, Any, None]]
"""Sends a reader what it is to have."""


class Reader:
    """One open stream."""

    def __init__(
        self,
        request: Request[User, Any, Any],
        may_read: Callable[[User], bool],
        keep_alive: Callable[[], bytes] | None = None,
    ) -> None:
        self.news = asyncio.Event()
        """Set it to have the reader look."""
        self.user = request.user
        """Who reads, with what he may by now."""
        self.request = request
        self._may_read = may_read
        self._keep_alive = keep_alive
        self._is_due = False
        self._sending_since: float | None = None
        self._sent_at = self._told_at = time.monotonic()
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send: Send

    async def run(self, source: Source, receive: Receive, send: Send) -> None:
        """Until the source ends or the reader is cut."""
        self._send = send
        watching = asyncio.create_task(self._watch(receive))
        sending = asyncio.create_task(source(self))
        try:
            await asyncio.wait((sending, self._cut), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await cancel_and_wait(watching, sending)

    async def send(self, body: bytes) -> None:
        await self._in_frames(body)
        self._told_at = self._sent_at

    async def wait(self) -> None:
        """Until there may be something new; the connection is kept alive meanwhile, where that was wanted."""
        await self.news.wait()
        self.news.clear()
        if self._is_due and self._keep_alive is not None:
            self._is_due = False
            await self._in_frames(self._keep_alive())

    def cut(self) -> None:
        if not self._cut.done():
            self._cut.set_result(None)

    def look(self, now: float) -> None:
        """Whether it has to be cut or kept alive."""
        if self._sending_since is not None:
            if now - self._sending_since > STALLED_S:
                self.cut()
        elif now - self._told_at > IDLE_S:
            self.cut()
        elif self._keep_alive is not None and now - self._sent_at > KEEP_ALIVE_S:
            self._is_due = True
            self.news.set()

    def found(self, caller: User | Agent | None) -> None:
        """Takes in who its caller is by now."""
        if isinstance(caller, User) and self._may_read(caller):
            self.user = caller
        else:
            self.cut()

    async def _in_frames(self, body: bytes) -> None:
        for start in range(0, len(body), FRAME):
            self._sending_since = time.monotonic()
            await self._send(_body(body[start : start + FRAME], more=True))
        self._sending_since, self._sent_at = None, time.monotonic()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self.cut()


class Readers:
    """All open streams of a process."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    async def run(self, reader: Reader, source: Source, receive: Receive, send: Send) -> None:
        self._readers.add(reader)
        try:
            await reader.run(source, receive, send)
        finally:
            self._readers.discard(reader)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cuts whom it has to; all of them at the end."""
        tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._ask())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.cut_all()

    def cut_all(self) -> None:
        for reader in self._readers:
            reader.cut()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for reader in self._readers:
                reader.look(now)

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            await ask(self._readers)


async def ask(readers: Iterable[Reader]) -> None:
    """Who they are by now and what they may; once for all that came with the same credentials."""
    alike: dict[str, list[Reader]] = defaultdict(list)
    for reader in readers:
        alike[reader.request.headers["authorization"]].append(reader)
    groups = list(alike.values())
    for start in range(0, len(groups), ASKED_AT_ONCE):
        await asyncio.gather(*map(_ask, groups[start : start + ASKED_AT_ONCE]))


async def _ask(alike: list[Reader]) -> None:
    try:
        caller = await caller_of(alike[0].request)
    except Unauthenticated:
        caller = None
    except psycopg.OperationalError as error:
        log.warning("it cannot be asked who still may read", error=str(error).strip())
        return
    for reader in alike:
        reader.found(caller)


class LiveStream(Stream):
    """The answer that a reader is sent, message by message."""

    def __init__(self, readers: Readers, reader: Reader, source: Source) -> None:
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._sending = partial(readers.run, reader, source)

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        return _Sending(self._sending, self.headers)


class _Sending(ASGIResponse):
    _should_set_content_length = False

    def __init__(self, sending: Callable[[Receive, Send], Awaitable[None]], headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=MEDIA_TYPE)
        self._sending = sending

    async def send_body(self, send: Send, receive: Receive) -> None:
        await self._sending(receive, send)
        await send(_body(b"", more=False))


def _body(body: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}
