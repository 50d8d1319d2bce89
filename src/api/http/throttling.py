"""Signing in is slowed down for an account that is guessed at, and for an address that guesses."""

import contextlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from litestar import Request

from api.http.services import Services
from domain.core.errors import TooManyRequests, Unauthenticated
from store.tables.login_failures import LoginFailures


@contextlib.asynccontextmanager
async def throttled(request: Request[Any, Any, Any], services: Services, account: str) -> AsyncIterator[None]:
    """Around the proof of who one is. Raises TooManyRequests before it after too many failures; an account that
    nobody has is counted like any other, so this does not tell which exist.
    """
    failures = LoginFailures(services.pool)
    own = services.secrets.claim("login-account", account)
    subjects = [own]
    if (address := _address(request)) is not None:
        subjects.append(services.secrets.claim("login-address", str(address)))
    if wait_s := await failures.fetch_wait_s(subjects):
        raise TooManyRequests(f"Signing in failed too often; try again in {wait_s} s.", wait_s)
    try:
        yield
    except Unauthenticated:
        await failures.record(subjects)
        raise
    await failures.clear(own)


def _address(request: Request[Any, Any, Any]) -> IPv4Address | IPv6Address | None:
    """Who calls. A call from this machine may be a proxy's, which appends whom it speaks for; else it names nobody:
    counting would lock out everyone behind it.
    """
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2]
    client = _parsed(request.client.host if request.client is not None else "")
    if client is None or client.is_loopback:
        client = _parsed(forwarded.strip())
    return None if client is None or client.is_loopback else client


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
