"""Names of hosts whose name servers do not answer."""

import asyncio
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from integrations import outgoing
from integrations.outgoing import MAX_LOOKUPS, MAX_OF_DOMAIN, MAX_SLOW_LOOKUPS, SystemResolver

pytestmark = pytest.mark.anyio


@pytest.fixture(name="begun")
def _begun(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names that were looked up. Those of `silent.test` have no answer before the end of the test."""
    begun, end = Counter[str](), threading.Event()

    def answer(name: str, *_: Any, **__: Any) -> Any:
        begun[name] += 1
        if name.endswith("silent.test"):
            end.wait(20)
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    yield begun
    end.set()


async def test_silent_name_servers_hold_up_no_other_domain(begun: Counter[str]) -> None:
    resolve = SystemResolver()
    silent = [asyncio.ensure_future(resolve(f"h{n}.silent.test")) for n in range(3 * MAX_LOOKUPS)]
    async with asyncio.timeout(10):
        assert await resolve("hooks.example.com") == ["93.184.216.34"]
    assert len(begun) <= MAX_OF_DOMAIN + MAX_SLOW_LOOKUPS + 1
    for one in silent:
        one.cancel()


async def test_a_domain_that_was_slow_waits_behind_others_that_were(
    begun: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "SLOW_S", -1.0)  # every look-up is slow
    monkeypatch.setattr(outgoing, "MAX_OF_DOMAIN", 0)
    resolve = SystemResolver()
    silent = [asyncio.ensure_future(resolve(f"h{n}.silent.test")) for n in range(MAX_SLOW_LOOKUPS)]
    while len(begun) < MAX_SLOW_LOOKUPS:
        await asyncio.sleep(0.01)  # between two looks
    monkeypatch.setattr(outgoing, "MAX_OF_DOMAIN", 1)
    async with asyncio.timeout(10):
        assert await resolve("a.example.com")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolve("b.example.com"), 0.1)
        assert await resolve("a.example.org")
    for one in silent:
        one.cancel()
