"""The HTTP server: Granian, on a socket whose options drop clients that stop reading.

Granian waits until a response is sent completely. So a client that stays connected and does not read would occupy the
connection and its buffers for ever. The options make the kernel close the connections of such clients, and of clients
that vanished.
"""

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server
from litestar import Litestar

from api.http.networks import Network
from store.postgres.cancellation import cancel_and_wait
from testhide.connections import ConnectionCap, raise_file_limit
from testhide.proxies import TrustedProxies

HEAD_TIMEOUT_S = 30.0
"""Seconds within which a connection must have sent the head of its first or next request."""
MAX_HEAD_BYTES = 64 * 1024
"""Largest number of bytes in the head of a request. Also the largest part of a body that a connection buffers."""
SEND_TIMEOUT_S = 30.0
"""Seconds that sent data may stay unacknowledged before the kernel closes the connection."""
KEEPALIVE_IDLE_S = 60
"""Seconds that a connection may be silent before the kernel probes whether the client is still there."""
ACCEPT_BACKLOG = 2048
"""Largest number of connections that the kernel queues while the server is busy."""
CONNECTIONS_PER_ADDRESS = 1_000
"""Number of connections that one address may have at once, by default."""
DISCONNECT_INTERVAL_S = 0.2
"""Seconds between two rounds in which a stopping server ends open responses and long polls. One round is not enough,
since another response may have just begun.
"""


class HttpServer(Server):
    def _init_shared_socket(self) -> None:
        """Use a socket with options that Granian cannot set. Connections inherit these options when they are
        accepted.
        """
        listener = open_listener(self.bind_addr, self.bind_port, self.backlog)
        # Granian closes the file descriptor.
        self._shd = SocketHolder(listener.detach(), False, self.backlog)  # type: ignore[assignment, call-arg]


def open_listener(address: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Like Granian's own: during a replacement, two processes may listen on the same port.
    listener = socket.create_server(
        (address, port), family=family, backlog=backlog, reuse_port=True, dualstack_ipv6=family == socket.AF_INET6
    )
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE_S), ("TCP_USER_TIMEOUT", round(SEND_TIMEOUT_S * 1_000))):
        if (option := getattr(socket, name, None)) is not None:  # Linux has both
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
    return listener


async def serve(
    app: Litestar,
    host: str,
    port: int,
    stop: Coroutine[Any, Any, object],
    trusted_proxies: Sequence[Network] = (),
    connections_per_address: int = CONNECTIONS_PER_ADDRESS,
) -> None:
    """Serve until `stop` returns. Then end open responses (SSE) and long polls, and wait until all other responses are
    sent.
    """
    cap = ConnectionCap(TrustedProxies(app, trusted_proxies), port, connections_per_address, trusted_proxies)
    server = HttpServer(
        cap,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        backlog=ACCEPT_BACKLOG,
        backpressure=raise_file_limit(),
        # Not HTTP/2: Granian waits without an end for the first byte of a connection that may use either.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=round(HEAD_TIMEOUT_S * 1_000), max_buffer_size=MAX_HEAD_BYTES),
        log_level=LogLevels.warning,
        websockets=False,
    )
    stopping = asyncio.create_task(stop)
    serving = asyncio.create_task(server.serve())
    capping = asyncio.create_task(cap.run())
    await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        server.stop()  # type: ignore[no-untyped-call]
        while not serving.done():
            if (streams := app.state.get("streams")) is not None:
                streams.clients.cut_all()
                app.state.polls.end_all()
            await asyncio.wait({serving}, timeout=DISCONNECT_INTERVAL_S)
    await cancel_and_wait(capping)
    await serving
