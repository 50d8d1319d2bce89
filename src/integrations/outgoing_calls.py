"""Makes the calls of `integrations.outgoing` with aiohttp, and checks the address that each connection uses."""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import perf_counter

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from integrations.addresses import CallableUrl, Network, must_be_callable
from integrations.outgoing import Resolve
from integrations.ports import HttpAnswer, PostAnswer, Unanswered

MAX_RESPONSE_BYTES = 64 * 1024
"""Largest number of bytes of an answer's body that are read."""
MAX_RETRY_AFTER_DIGITS = 9
"""Largest number of digits of a `Retry-After` that are read. Nine digits of seconds are decades already."""
IDLE_TIMEOUT_S = 4.0
"""Seconds for which an idle connection is kept. Servers keep it longer, so they seldom close a connection just when a
call begins.
"""

AllowedFor = Callable[[str], Sequence[Network]]
"""Function that returns the networks, besides public ones, in which a host may be called."""


class CheckedResolver(AbstractResolver):
    """Looks up a name and checks its addresses. The connection uses the checked addresses, without another look-up."""

    def __init__(self, resolve: Resolve, allowed_for: AllowedFor, *, is_https: bool) -> None:
        self._resolve, self._allowed_for, self._is_https = resolve, allowed_for, is_https

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host)
        must_be_callable(addresses, self._allowed_for(host), is_https=self._is_https)
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


class OutgoingCalls:
    """Calls URLs that are already parsed. Checks the addresses to which a host name leads. If a URL contains an address
    instead of a name, the caller has checked it.
    """

    def __init__(self, resolve: Resolve, allowed_for: AllowedFor, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._sessions = {
            is_https: _session(is_https, resolve, allowed_for, tls, timeout_s) for is_https in (True, False)
        }

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def post(self, wanted: CallableUrl, body: bytes, headers: Mapping[str, str]) -> PostAnswer:
        """Posts the body and returns the answer, whatever its status is. Follows no redirect. Raises Refused if the URL
        leads to an address that may not be called, and Unanswered if no answer comes in time.
        """
        began = perf_counter()
        try:
            async with self._sessions[wanted.is_https].post(
                wanted.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                excerpt = await _beginning(answer)
                return PostAnswer(answer.status, excerpt, _ms_since(began), _retry_after_s(answer.headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(self._describe(error), _ms_since(began)) from None

    async def fetch(self, wanted: CallableUrl, max_bytes: int) -> bytes:
        """Sends a GET and returns the whole body of the answer. Raises Refused if the URL leads to an address that may
        not be called. Raises Unanswered if no answer comes in time, if its status is not 200, or if its body is larger
        than `max_bytes`.
        """
        began = perf_counter()
        answer = await self.request("GET", wanted, {}, b"", max_bytes)
        if answer.status != HTTPStatus.OK:
            why = f"it answers with status {answer.status}" + (
                ", and redirects are not followed" if 300 <= answer.status < 400 else ""
            )
            raise Unanswered(why, _ms_since(began))
        return answer.body

    async def request(
        self, method: str, wanted: CallableUrl, headers: Mapping[str, str], body: bytes, max_bytes: int
    ) -> HttpAnswer:
        """Sends a request and returns the whole answer, whatever its status is. Follows no redirect. Raises Refused if
        the URL leads to an address that may not be called, and Unanswered if no answer comes in time or its body is
        larger than `max_bytes`.
        """
        began, read = perf_counter(), bytearray()
        try:
            async with self._sessions[wanted.is_https].request(
                method, wanted.url, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                await _read(answer, read, max_bytes + 1)
        except TimeoutError as error:
            raise Unanswered(self._describe(error), _ms_since(began), is_timeout=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(self._describe(error), _ms_since(began)) from None
        if len(read) > max_bytes:
            raise Unanswered(f"it answers with more than {max_bytes:,} bytes", _ms_since(began))
        named = {name.lower(): value for name, value in answer.headers.items()}
        return HttpAnswer(answer.status, named, bytes(read), _retry_after_s(answer.headers))

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


def _session(
    is_https: bool, resolve: Resolve, allowed_for: AllowedFor, tls: ssl.SSLContext | None, timeout_s: float
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=CheckedResolver(resolve, allowed_for, is_https=is_https),
        use_dns_cache=False,
        limit=0,
        keepalive_timeout=IDLE_TIMEOUT_S,
        ssl=True if tls is None else tls,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        # A compressed body may be huge when it is decompressed.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "Testhide"},
        trust_env=False,
    )


def _ms_since(began: float) -> int:
    return round((perf_counter() - began) * 1000)


def _retry_after_s(headers: Mapping[str, str]) -> int:
    """Returns the number of seconds that the header `Retry-After` asks to wait; 0 without a readable header.

    If `Retry-After` is a date, counts the seconds from the header `Date` of the answer, since the clocks of server and
    client may differ. Without `Date`, counts them from the present time.
    """
    asked = headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():
        return int(asked[:MAX_RETRY_AFTER_DIGITS])
    try:
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0, round((parsedate_to_datetime(asked) - now).total_seconds()))
    except (ValueError, TypeError, OverflowError):  # no date; dates with and without a time zone; a year of 20 digits
        return 0


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Returns the beginning of the answer's body as text. Ignores errors while reading, since the status counts even if
    the body never ends.
    """
    read = bytearray()
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        await _read(answer, read, MAX_RESPONSE_BYTES)
    return read.decode("utf-8", "replace")


async def _read(answer: aiohttp.ClientResponse, into: bytearray, max_bytes: int) -> None:
    """Reads up to `max_bytes` of the body into `into`. If the body is larger, the connection is not used again."""
    try:
        while len(into) < max_bytes and (chunk := await answer.content.read(max_bytes - len(into))):
            into += chunk
    finally:
        if not answer.content.at_eof():
            answer.close()
