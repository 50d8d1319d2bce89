"""Limits the number of connections of each address, and ends the surplus.

Granian accepts connections by itself, and the application only learns of those that send a request. So this module
inspects the sockets of the process. To end a connection, it shuts down a duplicate of the connection's descriptor;
Granian then releases the connection.
"""

import asyncio
import contextlib
import os
import resource
import socket
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from api.http.networks import Network, parse_address, to_network

log = structlog.get_logger()

CHECK_INTERVAL_S = 1.0
"""Seconds between two checks of the connections."""
MAX_CONNECTIONS = 20_000
"""Largest number of connections that the process has at once, including those of long polls and responses that stay
open (SSE).
"""
OTHER_FILES = 500
"""Number of open files that the process needs besides its connections: database, spool, libraries."""
DESCRIPTORS = "/proc/self/fd"

Peer = tuple[str, int]
"""Address and port of the other end of a connection."""


def raise_file_limit() -> int:
    """Sets this process's limit of open files to the number that it needs, or to the system's hard limit if that is
    lower. Returns the number of connections that the process can then have.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - OTHER_FILES, limit // 2)


class ConnectionCap:
    """ASGI application that ends the surplus connections of an address that has too many.

    Ends connections without a request first, then those with the newest requests. Trusted proxies have no limit, since
    each of them forwards the requests of many clients.
    """

    def __init__(self, app: ASGIApp, port: int, limit: int, trusted_proxies: Sequence[Network]) -> None:
        self._app = app
        self._port = port
        self._limit = limit
        self._trusted = trusted_proxies
        self._in_use: dict[Peer, None] = {}
        """Connections whose request is being answered, in the order of the requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope.get("client")  # None for the start and end of the server
        if peer is None:
            await self._app(scope, receive, send)
            return
        self._in_use[peer] = None
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_use.pop(peer, None)

    async def run(self) -> None:
        """Checks the connections regularly until the task is cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if len(os.listdir(DESCRIPTORS)) > self._limit:
                ended = await asyncio.to_thread(self._end_surplus, dict(self._in_use))
                for network, count in ended.items():
                    log.warning("too many connections from an address were ended", address=str(network), count=count)

    def _end_surplus(self, in_use: Mapping[Peer, None]) -> dict[Network, int]:
        """Ends surplus connections. Returns network -> number of its connections that ended."""
        ranks = {peer: rank for rank, peer in enumerate(in_use)}
        by_network: dict[Network, list[tuple[int, Peer]]] = defaultdict(list)
        for descriptor in list_descriptors():
            with opened(descriptor, self._port) as found:
                address = parse_address(found[1][0]) if found is not None else None
                if found is not None and address is not None and not any(address in item for item in self._trusted):
                    by_network[to_network(address)].append((descriptor, found[1]))
        ended: dict[Network, int] = {}
        for network, connections in by_network.items():
            connections.sort(key=lambda item: ranks.get(item[1], len(ranks)))
            for descriptor, peer in connections[self._limit :]:
                with opened(descriptor, self._port) as found, contextlib.suppress(OSError):
                    if found is not None and found[1] == peer:
                        found[0].shutdown(socket.SHUT_RDWR)
                        ended[network] = ended.get(network, 0) + 1
        return ended


def list_descriptors() -> Collection[int]:
    return [int(name) for name in os.listdir(DESCRIPTORS)]


@contextlib.contextmanager
def opened(descriptor: int, port: int) -> Iterator[tuple[socket.socket, Peer] | None]:
    """Yields a duplicate of the connection with this descriptor, and the connection's peer. Yields None if the
    descriptor is no connection, or is a connection that was not accepted on `port`.
    """
    with contextlib.ExitStack() as stack:
        found = None
        with contextlib.suppress(OSError):
            duplicate = os.dup(descriptor)
            try:
                connection = stack.enter_context(socket.socket(fileno=duplicate))
            except OSError:  # no socket
                os.close(duplicate)
                raise
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port:
                found = connection, connection.getpeername()[:2]
        yield found
