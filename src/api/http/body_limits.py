"""Limits how large and how slow bodies are, so that they do not occupy connections and memory.

Callers without credentials may send little. How much others may send is Litestar's `request_max_body_size`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from litestar.types import HTTPDisconnectEvent, HTTPRequestEvent, Receive, Scope

from domain.core.errors import BodyTimeout, TooLarge

MAX_BODY = "max_public_body"
"""Key in `opt` of a handler that needs no credentials: how many bytes its body may have."""
MAX_PUBLIC_BODY = 64 * 1024
"""Bytes of a body without credentials, where the handler says nothing else."""
BODY_TIMEOUT_S = 30.0
"""Seconds within which a request without credentials must have sent its whole body."""
PAUSE_TIMEOUT_S = 60.0
"""Seconds for which a request with credentials may pause within its body, which may be a large file."""


def limit_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that raises BodyTimeout and TooLarge. After the body it waits, as long as the caller likes,
    for the end of the connection.
    """
    receive_http = cast(Callable[[], Awaitable[HTTPRequestEvent | HTTPDisconnectEvent]], receive)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BODY_TIMEOUT_S
    is_complete = False
    size = 0

    async def receive_within_limits() -> HTTPRequestEvent | HTTPDisconnectEvent:
        nonlocal is_complete, size
        if is_complete:
            return await receive_http()
        try:
            async with asyncio.timeout_at(loop.time() + PAUSE_TIMEOUT_S if scope.get("user") else deadline):
                message = await receive_http()
        except TimeoutError:
            is_complete = True
            raise BodyTimeout("The body of the request did not come in time; send it again.") from None
        if message["type"] == "http.disconnect":
            is_complete = True
            return message
        is_complete = not message.get("more_body")
        size += len(message.get("body", b""))
        if not scope.get("user") and size > (limit := scope["route_handler"].opt.get(MAX_BODY, MAX_PUBLIC_BODY)):
            is_complete = True
            raise TooLarge(f"Without credentials, this operation takes bodies of at most {limit:,} bytes.")
        return message

    return receive_within_limits
