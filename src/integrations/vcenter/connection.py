"""Connections to one vCenter: each goes to a checked address, has time limits, and can be broken off."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from pyVmomi.SoapAdapter import SoapStubAdapter

API_VERSION = "vim.version.version11"
"""Version of the API that calls use: that of vSphere 6.5, which all later releases support, too."""
SOCKET_TIMEOUT_S = 10.0
"""Longest time in seconds without a byte from the vCenter."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Largest number of bytes of one answer. The inventory comes in parts, which are far smaller."""


@dataclass(frozen=True)
class CheckedHost:
    host: str
    """Name or address that the certificate is checked for."""
    port: int
    addresses: Sequence[str]
    """Addresses of the host that may be called."""
    tls: ssl.SSLContext
    title: str
    """Host as the user entered it, for messages."""


class _LimitedResponse(HTTPResponse):
    _received = 0

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(min(amt or MAX_ANSWER_BYTES, MAX_ANSWER_BYTES))
        self._received += len(data)
        if self._received >= MAX_ANSWER_BYTES:
            raise HTTPException(f"an answer has more than {MAX_ANSWER_BYTES} bytes")
        return data


class _CheckedConnection(HTTPSConnection):
    """A connection to one of the checked addresses of a host. Does not look up the host's name again."""

    response_class = _LimitedResponse

    def __init__(self, *args: Any, stub: "VcenterStub", **options: Any) -> None:
        super().__init__(*args, **options)
        self._stub = stub

    def connect(self) -> None:
        checked, failure = self._stub.checked, OSError("the name has no address")
        for address in checked.addresses:
            try:
                plain = socket.create_connection((address, checked.port), SOCKET_TIMEOUT_S)
                break
            except OSError as error:
                failure = error
        else:
            raise failure
        self.sock = checked.tls.wrap_socket(plain, server_hostname=checked.host, do_handshake_on_connect=False)
        try:
            self._stub.watch(self.sock)
            self.sock.do_handshake()
        except BaseException:
            self.close()
            raise


class VcenterStub(SoapStubAdapter):
    """Sends the calls of pyVmomi to a checked host."""

    def __init__(self, checked: CheckedHost) -> None:
        # Uncompressed, since a short answer could otherwise fill the memory.
        options = {"version": API_VERSION, "acceptCompressedResponses": False}
        super().__init__(host=checked.host, port=checked.port, **options)  # type: ignore[no-untyped-call]
        self.checked = checked
        self.scheme: Any = _CheckedConnection
        self.schemeArgs: dict[str, Any] = {"timeout": SOCKET_TIMEOUT_S, "context": checked.tls, "stub": self}
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._is_closed = False

    def watch(self, opened: socket.socket) -> None:
        """Remembers an open socket, so that `close` can break it off. Raises OSError after `close`."""
        with self._guard:
            self._sockets = {one for one in self._sockets if one.fileno() >= 0} | {opened}
            if self._is_closed:
                raise OSError("the call was broken off")

    def close(self) -> None:
        """Breaks off all calls, which then raise OSError in their threads."""
        with self._guard:
            self._is_closed = True
            for one in self._sockets:
                # `close` would not wake a thread that reads. The method of TLS sockets would change what it reads with.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(one, socket.SHUT_RDWR)
            self._sockets = set()
        self.DropConnections()  # type: ignore[no-untyped-call]
