"""The HTTP client for URLs that users enter. `integrations.addresses` decides which URLs may be called."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from cachetools import TTLCache

from integrations.addresses import CallableUrl, Network, is_address, is_localhost, must_be_callable, parse_url
from integrations.ports import HttpAnswer, PostAnswer, Refused, Unanswered

if TYPE_CHECKING:
    from integrations.outgoing_calls import OutgoingCalls

TIMEOUT_S = 10.0
"""Longest time in seconds of a call of a webhook, a source code host or Jira, from the look-up of the name to the last
byte that is read.
"""
CHECK_TIMEOUT_S = 2.0
"""Longest time in seconds to look up a name while a user waits for the check of a URL."""
MAX_LOOKUPS = 32
"""Largest number of names that are looked up at the same time, each on a thread."""
MAX_OF_DOMAIN = 4
"""Largest number of look-ups for one domain that may occupy the MAX_LOOKUPS threads at the same time."""
MAX_SLOW_LOOKUPS = 8
"""Number of additional threads. They look up names of domains that were slow lately or have MAX_OF_DOMAIN look-ups
under way.
"""
SLOW_S = 2.0
"""Seconds after which a look-up of a name counts as slow."""
SLOW_FOR_S = 600.0
"""Seconds for which a domain counts as slow after a slow look-up."""
SLOW_DOMAINS = 10_000
"""Largest number of slow domains that are remembered."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Function that returns the addresses of a name. Raises OSError."""


class SystemResolver:
    """Looks up names with the operating system, on separate threads.

    If name servers do not answer, a look-up occupies its thread for about 20 s. To keep such look-ups from occupying
    all threads, each name has at most one look-up at a time, and each domain (`example.com`) at most MAX_OF_DOMAIN.
    Further look-ups of a domain, and all look-ups of domains that were slow lately, share a few separate threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="look-up")
        self._few_threads = ThreadPoolExecutor(MAX_SLOW_LOOKUPS, thread_name_prefix="slow-look-up")
        self._looking: dict[str, asyncio.Future[list[str]]] = {}
        self._of_domain: Counter[str] = Counter()
        """Domain -> number of look-ups of its names that are under way on `_threads`."""
        self._slow: TTLCache[str, bool, float] = TTLCache(SLOW_DOMAINS, SLOW_FOR_S, monotonic)
        """Domains that were slow lately."""

    async def __call__(self, name: str) -> list[str]:
        looking = self._looking.get(name)
        if looking is None:
            looking = self._looking[name] = asyncio.ensure_future(self._start(name))
            looking.add_done_callback(lambda future: self._looked_up(name, future))
        return await asyncio.shield(looking)

    async def _start(self, name: str) -> list[str]:
        domain = ".".join(name.split(".")[-2:])
        loop = asyncio.get_running_loop()
        if domain in self._slow or self._of_domain[domain] >= MAX_OF_DOMAIN:
            return await loop.run_in_executor(self._few_threads, _look_up, name)
        self._of_domain[domain] += 1
        began: list[float] = []
        try:
            return await loop.run_in_executor(self._threads, _look_up, name, began)
        finally:
            if began and monotonic() - began[0] > SLOW_S:
                self._slow[domain] = True
            self._of_domain[domain] -= 1
            if not self._of_domain[domain]:
                del self._of_domain[domain]

    def _looked_up(self, name: str, future: "asyncio.Future[list[str]]") -> None:
        del self._looking[name]
        if not future.cancelled():
            future.exception()  # reads the error, which asyncio would log if all callers were cancelled


def _look_up(name: str, began: list[float] | None = None) -> list[str]:
    """Returns the addresses of a name. Appends to `began` the time at which the look-up began, after the wait for a
    free thread.
    """
    if began is not None:
        began.append(monotonic())
    if is_localhost(name):
        return ["127.0.0.1"]  # no name server may decide (RFC 6761, 6.3)
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class HttpOutgoing:
    """Implements `Outgoing`. An async context manager, which closes its connections at the end of the block.

    Addresses in the networks `for_admins` can be called only if the URL contains the address itself or `localhost`, and
    only admins may enter such a URL. A URL with another host name that leads to these networks is refused, since the
    owner of a name can make it lead to another address at any time.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        for_admins: Sequence[Network] = (),
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._allowed = tuple(allowed)
        self._for_admins = tuple(for_admins)
        self._resolve = resolve or SystemResolver()
        self._tls = tls
        self._calls: OutgoingCalls | None = None

    async def __aenter__(self) -> "HttpOutgoing":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._calls is not None:
            await self._calls.close()

    async def check(self, url: str, *, is_admin: bool) -> None:
        wanted = self._target(url)
        if wanted.address is not None:
            addresses: Sequence[str] = (str(wanted.address),)
        else:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    addresses = await self._resolve(wanted.host)
            except (OSError, TimeoutError):
                addresses = ()
        allowed = self._allowed_for(wanted.host) if is_admin else self._allowed
        must_be_callable(addresses, allowed, is_https=wanted.is_https)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostAnswer:
        wanted, calls = self._prepare(url)
        return await calls.post(wanted, body, headers)

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        wanted, calls = self._prepare(url)
        return await calls.fetch(wanted, max_bytes)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", max_bytes: int
    ) -> HttpAnswer:
        wanted, calls = self._prepare(url)
        return await calls.request(method, wanted, headers, body, max_bytes)

    async def find_addresses(self, url: str) -> Sequence[str]:
        wanted = self._target(url)
        if wanted.address is not None:
            addresses: Sequence[str] = (str(wanted.address),)
        else:
            try:
                async with asyncio.timeout(self._timeout_s):
                    addresses = await self._resolve(wanted.host)
            except (OSError, TimeoutError):
                raise Unanswered("the name cannot be looked up", 0) from None
        must_be_callable(addresses, self._allowed_for(wanted.host), is_https=wanted.is_https)
        return addresses

    def _prepare(self, url: str) -> tuple[CallableUrl, "OutgoingCalls"]:
        wanted = self._target(url)
        if wanted.address is not None:  # aiohttp asks the resolver only about names
            allowed = self._allowed_for(wanted.host)
            must_be_callable((str(wanted.address),), allowed, is_https=wanted.is_https)
        if self._calls is None:
            # Imported with the first call: the library takes 7 MB, and many processes never make a call.
            from integrations.outgoing_calls import OutgoingCalls

            self._calls = OutgoingCalls(self._resolve, self._allowed_for, self._tls, self._timeout_s)
        return wanted, self._calls

    def _target(self, url: str) -> CallableUrl:
        wanted = parse_url(url)
        if not wanted.is_https and not self._allowed_for(wanted.host):
            raise Refused("must begin with https://")
        return wanted

    def _allowed_for(self, host: str) -> Sequence[Network]:
        """Returns the networks, besides public ones, in which a host may be called."""
        if is_localhost(host) or is_address(host):
            return self._allowed + self._for_admins
        return self._allowed
