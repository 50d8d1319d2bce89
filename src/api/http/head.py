"""Answers HEAD on every path that has GET: same status and headers, no body.

The handler of GET runs as usual. After it has sent the headers, it receives "the client has disconnected", so that a
stream ends at once.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar.types import ASGIApp, HTTPDisconnectEvent, HTTPRequestEvent, HTTPScope, Message, Send

IS_HEAD = "testhide_is_head"
"""Key in the ASGI scope of a HEAD request. A handler of GET looks for this key before it waits for a message or records
an event: for HEAD it must do neither.
"""


async def answer_head(app: ASGIApp, scope: HTTPScope, send: Send) -> None:
    is_answered = asyncio.Event()
    requests: list[HTTPRequestEvent] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> HTTPRequestEvent | HTTPDisconnectEvent:
        if requests:
            return requests.pop()
        await is_answered.wait()
        return {"type": "http.disconnect"}

    async def send_start(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            is_answered.set()

    as_get: Any = {**scope, "method": "GET", IS_HEAD: True}
    await app(as_get, receive, send_start)


def format_allowed(methods: Iterable[str]) -> str:
    """Returns the value of the header `Allow` for a path: its handlers' methods, and HEAD if GET is among them."""
    allowed = set(methods)
    return ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
