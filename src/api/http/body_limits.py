"""Limits the size of request bodies and the time to send them, so that they do not use up connections and memory.

The body of a request without credentials must be small, and all bodies of such requests together are limited. For a
request with credentials, the limit is Litestar's `request_max_body_size`: MAX_BYTES, or LARGE_BYTES for the few
operations that take lists of many texts.
Uploaded files have other limits.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

from litestar.connection import ASGIConnection
from litestar.types import HTTPDisconnectEvent, HTTPRequestEvent, Receive, Scope

from api.http.networks import Network, find_network
from domain.core.errors import BodyTimeout, TooLarge, TooManyRequests, Unavailable

MAX_BODY = "max_public_body"
"""Key in the `opt` of a handler that needs no credentials. Its value is the largest size of the body in bytes."""
MAX_PUBLIC_BODY = 64 * 1024
"""Largest size in bytes of the body of a request without credentials, if the handler does not set MAX_BODY."""
SMALL_BODY = 4 * 1024
"""PublicBodies does not count this many bytes at the beginning of each body. So the server accepts a small body, such
as that of a sign-in, even while large bodies use up the limits. On all connections of a process together, the uncounted
bytes are less than 80 MiB.
"""
MAX_PUBLIC_BODIES = 64 * 1024**2
"""Largest number of bytes that a process holds at once of the bodies of all requests without credentials."""
MAX_PUBLIC_BODIES_OF_NETWORK = 8 * 1024**2
"""Largest number of bytes that a process holds at once of the bodies of one network's requests without credentials."""
RETRY_AFTER_S = 5
MAX_BYTES = 1024**2
"""Largest size in bytes of the body of a request with credentials, if the handler sets no other limit."""
LARGE_BYTES = 16 * 1024**2
"""Largest size in bytes of the body of a request with credentials that may contain a list of many texts."""
BODY_TIMEOUT_S = 30.0
"""Seconds within which a request without credentials must have sent its whole body."""
PAUSE_TIMEOUT_S = 60.0
"""Longest pause in seconds within the body of a request with credentials. The body may be a large file."""
MIN_BYTES_S = 64 * 1024
"""Lowest average speed in bytes a second at which the body of a request with credentials may arrive, after the first
PAUSE_TIMEOUT_S. Only the time that the server waits for the caller counts.
"""


class PublicBodies:
    """Counts the bytes that a process holds at once of the bodies of requests without credentials, in total and for
    each network.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._of_networks: Counter[Network] = Counter()

    @contextmanager
    def hold(self, scope: Scope) -> Iterator[Callable[[int], None]]:
        """Yields a function that counts a number of bytes as held until the block ends. The function raises
        TooManyRequests if too many bytes are then held for the caller's network, and Unavailable if too many are held
        for all callers together.
        """
        counted = 0
        network: Network | None = None

        def count(size: int) -> None:
            nonlocal counted, network
            network = find_network(ASGIConnection(scope))
            if network is not None and self._of_networks[network] + size > MAX_PUBLIC_BODIES_OF_NETWORK:
                raise TooManyRequests("Your address sends too much at once without credentials.", RETRY_AFTER_S)
            if self._bytes + size > MAX_PUBLIC_BODIES:
                raise Unavailable("Too much is sent at once without credentials; try again.", RETRY_AFTER_S)
            counted += size
            self._bytes += size
            if network is not None:
                self._of_networks[network] += size

        try:
            yield count
        finally:
            self._bytes -= counted
            if network is not None:
                self._of_networks[network] -= counted
                if not self._of_networks[network]:
                    del self._of_networks[network]


def limit_body(scope: Scope, receive: Receive, count_public: Callable[[int], None]) -> Receive:
    """Returns a `receive` that raises BodyTimeout or TooLarge if the body exceeds its limits. After the end of the
    body, `receive` has no time limit, since it only waits for the client to disconnect.

    If the request has no credentials, passes the size of each part of the body beyond SMALL_BODY to `count_public`,
    which may raise errors, too.
    """
    receive_http = cast("Callable[[], Awaitable[HTTPRequestEvent | HTTPDisconnectEvent]]", receive)
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
        part = len(message.get("body", b""))
        size += part
        if not scope.get("user"):
            is_complete, is_last = True, is_complete  # complete, too, if a line below raises
            if size > (limit := scope["route_handler"].opt.get(MAX_BODY, MAX_PUBLIC_BODY)):
                raise TooLarge(f"Without credentials, this operation takes bodies of at most {limit:,} bytes.")
            if size > SMALL_BODY:
                count_public(min(part, size - SMALL_BODY))
            is_complete = is_last
        return message

    return receive_within_limits
