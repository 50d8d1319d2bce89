"""Limits how large and how slow bodies are, so that they do not occupy connections and memory.

Callers without credentials may send little. How much others may send is Litestar's `request_max_body_size`: MAX_BYTES,
or LARGE_BYTES for the few operations that take lists of many texts. Files have limits of their own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from litestar.types import HTTPDisconnectEvent, HTTPRequestEvent, Receive, Scope

from domain.core.errors import BodyTimeout, TooLarge

MAX_BODY = "max_public_body"
"""Key in the `opt` of a handler that needs no credentials. Its value is the largest size of the body in bytes."""
MAX_PUBLIC_BODY = 64 * 1024
"""Largest size in bytes of a body without credentials, if the handler does not set MAX_BODY."""
MAX_BYTES = 1024**2
"""Largest size in bytes of a body with credentials, if the handler does not set another limit."""
LARGE_BYTES = 16 * 1024**2
BODY_TIMEOUT_S = 30.0
"""Seconds within which a request without credentials must have sent its whole body."""
PAUSE_TIMEOUT_S = 60.0
"""Seconds for which a request with credentials may pause within its body, which may be a large file."""
MIN_BYTES_S = 64 * 1024
"""Bytes a second that a body with credentials must have on average, after the first PAUSE_TIMEOUT_S. Only time that the
server waits for the caller counts.
"""


def limit_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that enforces the limits: it raises BodyTimeout or TooLarge while the body is received. After
    the body it has no time limit, since it then only waits for the client to disconnect.
    """
    receive_http = cast(Callable[[], Awaitable[HTTPRequestEvent | HTTPDisconnectEvent]], receive)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BODY_TIMEOUT_S
    is_complete = False
    size, waited_s = 0, 0.0

    async def receive_within_limits() -> HTTPRequestEvent | HTTPDisconnectEvent:
        nonlocal is_complete, size, waited_s
        if is_complete:
            return await receive_http()
        began = loop.time()
        slowest = began + PAUSE_TIMEOUT_S + min(0.0, size / MIN_BYTES_S - waited_s)
        try:
            async with asyncio.timeout_at(slowest if scope.get("user") else deadline):
                message = await receive_http()
        except TimeoutError:
            is_complete = True
            raise BodyTimeout("The body of the request did not come in time; send it again.") from None
        waited_s += loop.time() - began
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
