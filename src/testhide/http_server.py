"""The HTTP server, on a socket that lets go of whoever takes nothing.

Granian writes on until all is sent: a connection whose other end lives and does not read would stay for good, with what
lies in its buffers. The kernel ends it after a while, and those whose other end is gone.
"""

import socket

from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server

UNTAKEN_S = 30.0
"""How long what was sent may lie there untaken."""
IDLE_S = 60
"""After so long without a word it is asked whether the other end is still there."""


class Listening(Server):
    def _init_shared_socket(self) -> None:
        """Instead of Granian's own socket, whose options nobody can set. Accepted connections inherit them."""
        listening = listener(self.bind_addr, self.bind_port, self.backlog)
        # Granian's from here on: it closes it.
        self._shd = SocketHolder(listening.detach(), False, self.backlog)  # type: ignore[assignment, call-arg]


def listener(address: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # As Granian has it: another process may listen at the same port, while one replaces the other.
    listening = socket.create_server(
        (address, port), family=family, backlog=backlog, reuse_port=True, dualstack_ipv6=family == socket.AF_INET6
    )
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE_S), ("TCP_USER_TIMEOUT", round(UNTAKEN_S * 1_000))):
        if (option := getattr(socket, name, None)) is not None:  # Linux has both
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening
