"""A receiver of calls: it keeps what came, and answers as it is told."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Receiver:
    url: str = ""
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str], bytes]] = field(default_factory=deque)
    """What to say next; then `status`."""
    status: int = 200
    hold: asyncio.Event | None = None
    """Nothing is answered before it is set."""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(Received(request.path_qs, request.headers, await request.read()))
        if self.hold is not None:
            await self.hold.wait()
        status, headers, body = self.answers.popleft() if self.answers else (self.status, {}, b"")
        return web.Response(status=status, headers=headers, body=body)


@contextlib.asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        receiver.port = runner.addresses[0][1]
        receiver.url = f"http://127.0.0.1:{receiver.port}/hook"
        yield receiver
    finally:
        await runner.cleanup()


def messages(receiver: Receiver) -> list[tuple[str, int]]:
    """(type, build) of what came, in order."""
    return [(request.json["type"], request.json["data"]["id"]) for request in receiver.requests]
