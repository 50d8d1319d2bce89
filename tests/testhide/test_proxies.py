"""What a reverse proxy says about callers, if it is trusted."""

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest
from structlog.testing import capture_logs

from testhide.proxies import TrustedProxies

PROXY = "10.0.0.1"


def callers(*forwarded: str, peer: str = PROXY, proto: str = "") -> list[tuple[str, str]]:
    """The address and the scheme of each request."""
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    async def send_all() -> None:
        proxied: Any = TrustedProxies(app, [ip_network("10.0.0.0/8"), ip_network("::1/128")])
        for value in forwarded:
            headers = [(b"x-forwarded-for", value.encode()), (b"x-forwarded-proto", proto.encode())]
            scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": headers}
            await proxied(scope, None, None)

    asyncio.run(send_all())
    return seen


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.78", "203.0.113.78"),
        ("203.0.113.78:51234", "203.0.113.78"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:203.0.113.78", "203.0.113.78"),
        ("192.0.2.9, 203.0.113.78", "203.0.113.78"),
        ("192.0.2.9, 203.0.113.78:1, 10.0.0.2:80", "203.0.113.78"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("unknown", PROXY),
        ("203.0.113.78, _hidden, 10.0.0.2", "10.0.0.2"),
        ("[2001:db8::1", PROXY),
        ("203.0.113.78:80:80", PROXY),
        ("", PROXY),
    ],
)
def test_the_last_address_that_is_no_proxy(forwarded: str, address: str) -> None:
    assert callers(forwarded) == [(address, "http")]


def test_others_than_proxies_are_not_believed() -> None:
    assert callers("203.0.113.78", peer="192.0.2.1", proto="https") == [("192.0.2.1", "http")]
    assert callers("203.0.113.78", peer="::ffff:10.0.0.1", proto="https") == [("203.0.113.78", "https")]


def test_what_is_no_address_is_logged_once() -> None:
    with capture_logs() as logs:
        callers("unknown", "_hidden")
    assert [(line["proxy"], line["sent"]) for line in logs] == [(PROXY, "unknown")]
