"""The HTTP client for URLs that users enter; `integrations.addresses` decides which ones it calls."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import perf_counter
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from integrations.addresses import CallableUrl, Network, must_be_callable, parse_url
from integrations.ports import Answer, Refused, Unanswered

TIMEOUT_S = 10.0
"""The longest call, from the look-up of the name to the last byte that is read."""
CHECK_TIMEOUT_S = 2.0
"""The longest look-up of a name while a user waits for the check of a URL."""
MAX_BODY = 64 * 1024
"""Bytes of an answer's body that are read."""
MAX_LOOKUPS = 32
"""Names that are looked up at once, each on a thread."""
MAX_RETRY_AFTER_DIGITS = 9
"""Digits of a `Retry-After` that are read: longer numbers are decades anyway."""
IDLE_TIMEOUT_S = 4.0
"""How long idle connections are kept: shorter than servers keep them, so that few are closed during a call."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a name. Raises OSError."""


class SystemResolver:
    """Asks the operating system, on separate threads. A name has one look-up at a time, so that names whose servers are
    dead do not take all threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="look-up")
        self._looking: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, name: str) -> list[str]:
        looking = self._looking.get(name)
        if looking is None:
            looking = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, name)
            self._looking[name] = looking
            looking.add_done_callback(lambda future: self._looked_up(name, future))
        return await asyncio.shield(looking)

    def _looked_up(self, name: str, future: "asyncio.Future[list[str]]") -> None:
        del self._looking[name]
        if not future.cancelled():
            future.exception()  # the callers may be cancelled


def _look_up(name: str) -> list[str]:
    if name == "localhost" or name.endswith(".localhost"):
        return ["127.0.0.1"]  # no name server may decide (RFC 6761, 6.3)
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _CheckedResolver(AbstractResolver):
    """Checks the addresses that the connection then uses, so a name cannot change in between."""

    def __init__(self, resolve: Resolve, allowed: Sequence[Network], *, is_https: bool) -> None:
        self._resolve, self._allowed, self._is_https = resolve, allowed, is_https

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host)
        must_be_callable(addresses, self._allowed, is_https=self._is_https)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


class HttpOutgoing:
    """Implements `Outgoing`. An async context manager: its connections end with it."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._allowed = tuple(allowed)
        self._resolve = resolve or SystemResolver()
        self._tls = tls
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> "HttpOutgoing":
        self._sessions = {is_https: self._session(is_https) for is_https in (True, False)}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()

    async def check(self, url: str) -> None:
        wanted = self._target(url)
        if wanted.address is not None:
            addresses: Sequence[str] = (str(wanted.address),)
        else:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    addresses = await self._resolve(wanted.host)
            except (OSError, TimeoutError):
                addresses = ()
        must_be_callable(addresses, self._allowed, is_https=wanted.is_https)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        wanted = self._target(url)
        if wanted.address is not None:  # the resolver is not asked
            must_be_callable((str(wanted.address),), self._allowed, is_https=wanted.is_https)
        began = perf_counter()
        try:
            async with self._sessions[wanted.is_https].post(
                wanted.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                excerpt = await _beginning(answer)
                return Answer(answer.status, excerpt, _ms_since(began), _retry_after_s(answer.headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(self._describe(error), _ms_since(began)) from None

    def _target(self, url: str) -> CallableUrl:
        wanted = parse_url(url)
        if not wanted.is_https and not self._allowed:
            raise Refused("must begin with https://")
        return wanted

    def _session(self, is_https: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._resolve, self._allowed, is_https=is_https),
            use_dns_cache=False,
            limit=0,
            keepalive_timeout=IDLE_TIMEOUT_S,
            ssl=True if self._tls is None else self._tls,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A compressed body may be huge when it is decompressed.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "Testhide"},
            trust_env=False,
        )

    def _describe(self, error: Exception) -> str:
        match error:
            case aiohttp.ClientConnectorDNSError() | socket.gaierror():
                return "the name cannot be looked up"
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
                return "no trusted TLS connection"
            case TimeoutError():
                return f"no answer within {self._timeout_s:g} s"
            case aiohttp.ServerDisconnectedError():
                return "the connection was closed without an answer"
            case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
                return "the answer is no HTTP"
            case OSError(errno=int(number)):
                return os.strerror(number).lower()
            case _:
                return "no connection"


def _ms_since(began: float) -> int:
    return round((perf_counter() - began) * 1000)


def _retry_after_s(headers: Mapping[str, str]) -> int:
    """Returns the pause that `Retry-After` asks for. A date counts from the `Date` of the answer, not by our clock."""
    asked = headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():
        return int(asked[:MAX_RETRY_AFTER_DIGITS])
    try:
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0, round((parsedate_to_datetime(asked) - now).total_seconds()))
    except (ValueError, TypeError, OverflowError):  # no date; one with a time zone, one without; a year of 20 digits
        return 0


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Reads the first bytes of the body as text. The answer counts even if its body never ends."""
    read = bytearray()
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        while len(read) < MAX_BODY and (chunk := await answer.content.read(MAX_BODY - len(read))):
            read += chunk
    if not answer.content.at_eof():
        answer.close()
    return read.decode("utf-8", "replace")
