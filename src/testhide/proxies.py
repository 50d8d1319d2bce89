"""Reads the caller's address, and whether the caller used https, from the headers of trusted reverse proxies."""

import re
from collections.abc import Sequence

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from api.http.networks import Address, Network, parse_address

log = structlog.get_logger()

HOST = re.compile(r"\[(?P<v6>[^\]]*)\](:[0-9]*)?|(?P<v4>[^:]*)(:[0-9]*)?")
"""Pattern of an address with brackets or a port, as some proxies write it."""


class TrustedProxies:
    """ASGI application that changes the requests of trusted proxies: replaces the proxy's address by the caller's
    address, which it reads from `X-Forwarded-For`, and the scheme by that in `X-Forwarded-Proto`.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (peer := scope.get("client")) is not None:  # None for the start and end of the server
            forwarded = read_header(scope, b"x-forwarded-for")
            proxy = parse_address(peer[0]) if forwarded else None
            if proxy is not None and is_in(proxy, self._trusted):
                scope["client"] = (str(self._find_caller(proxy, forwarded)), 0)
                if (scheme := read_header(scope, b"x-forwarded-proto").partition(",")[0].strip()) in ("http", "https"):
                    scope["scheme"] = scheme
        await self._app(scope, receive, send)

    def _find_caller(self, proxy: Address, forwarded: str) -> Address:
        """Returns the last address in `forwarded`, the text of X-Forwarded-For, that is not the address of a trusted
        proxy; the first address if all are addresses of trusted proxies. If a trusted proxy sent a text that is no
        address, returns the address of that proxy.
        """
        caller = proxy
        for text in reversed(forwarded.split(",")):
            if (address := parse_forwarded(text.strip())) is None:
                if not self._has_warned:
                    self._has_warned = True
                    log.warning("a proxy sends no address in X-Forwarded-For", proxy=str(caller), sent=text[:100])
                break
            caller = address
            if not is_in(address, self._trusted):
                break
        return caller


def parse_forwarded(text: str) -> Address | None:
    """Returns the address in a part of X-Forwarded-For, which may have brackets and a port (`[2001:db8::1]:443`).
    Returns None if the part is no address.
    """
    if (address := parse_address(text)) is None and (match := HOST.fullmatch(text)) is not None:
        address = parse_address(match["v6"] or match["v4"] or "")
    return address


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def read_header(scope: Scope, name: bytes) -> str:
    return ", ".join(value.decode("latin1").strip() for key, value in scope["headers"] if key == name and value.strip())
