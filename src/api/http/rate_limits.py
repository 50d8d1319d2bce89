"""Limits how many requests a minute a caller may send. A caller is a token or, without a token, a network address.

Each caller has a token bucket on Redis, which all processes share. It contains the requests that the caller may still
send. A process takes several requests from a bucket at once, and lets as many requests through before it asks Redis
again. While Redis does not answer, nobody is limited.

Requests of agents, requests about the server's health, and requests without credentials from this machine are not
counted. A signed message (a hook) counts for the address of its sender, in a separate bucket, until its signature is
verified. Then it counts only for its project, since a source code host sends the hooks of all its users from few
addresses.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Send

from api.http.networks import find_network
from api.http.permissions import Agent, User
from api.http.response_headers import RATE_LIMIT
from domain.core.errors import TooManyRequests
from integrations.ports import TokenBuckets
from store.crypto.secrets import Secrets

NOT_COUNTED = {"counted": False}
"""Value of `opt` for handlers whose requests are not counted."""
SIGNED = "signed"
"""Key in `opt` of a handler for signed messages, which calls `RateLimits.count_verified`."""
SIGNED_FACTOR = 10
"""Limit of an address for messages with wrong signatures, as a multiple of its limit for other requests without
credentials. The multiple is high because all users of a source code host share the addresses of the host, and none of
them should be able to use up the limit for all.
"""
MAX_REMEMBERED = 50_000
"""Largest number of callers whose `Allowance` a process keeps in memory."""
SHARE = 100
"""Divisor of a caller's limit: a process takes one hundredth of the limit from the bucket at a time, for example 60 of
6,000 requests.
"""
EMPTY_BUCKET_PAUSE_S = 0.2
"""Seconds for which a process refuses the requests of a caller whose bucket was empty, before it asks Redis again."""

Caller = tuple[str, int | str]
"""Identity of a caller: the kind of caller, and its id or address."""


@dataclass(slots=True)
class Allowance:
    """Requests that a process has taken from a caller's bucket and not let through yet."""

    requests: int = 0
    left: int = 0
    """Number of requests in the bucket after the process last took some."""
    closed_until: float = 0.0
    is_counted: bool = True
    """Whether requests are counted; false while Redis does not answer."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimits:
    def __init__(self, buckets: TokenBuckets, secrets: Secrets, per_token: int, per_address: int) -> None:
        self._buckets = buckets
        self._secrets = secrets
        self._per_token = per_token
        self._per_address = per_address
        self._allowances: LRUCache[Caller, Allowance] = LRUCache(MAX_REMEMBERED)

    async def count(self, connection: ASGIConnection[Any, Any, Any, Any], user: User | Agent | None) -> None:
        """Counts a request for its caller. `user` is None if the request has no valid credentials. Raises
        TooManyRequests if the caller has no requests left.
        """
        handler = connection.scope.get("route_handler")  # None if no operation has the path and method
        if isinstance(user, Agent) or (handler is not None and not handler.opt.get("counted", True)):
            return
        if user is not None:
            caller: Caller = ("token", user.token_id or 0)
            if user.session_id is not None:
                caller = ("session", user.session_id)
            await self._count(connection, caller, self._per_token, "a token")
        elif (network := find_network(connection)) is not None:
            if handler is not None and handler.opt.get(SIGNED):
                limit = SIGNED_FACTOR * self._per_address
                await self._count(connection, (SIGNED, str(network)), limit, "an address for wrong signatures")
            else:
                caller = ("address", str(network))
                await self._count(connection, caller, self._per_address, "an address without credentials")

    async def count_verified(self, connection: ASGIConnection[Any, Any, Any, Any], project_id: int) -> None:
        """Counts a signed message for its project and no longer for its address, since the signature is verified.
        Raises TooManyRequests if the project has no requests left.
        """
        allowance = self._allowances.get((SIGNED, str(find_network(connection))))
        if allowance is not None and allowance.is_counted:
            allowance.requests += 1
        await self._count(connection, ("project", project_id), self._per_token, "the hooks of a project")

    async def _count(
        self, connection: ASGIConnection[Any, Any, Any, Any], caller: Caller, limit: int, whose: str
    ) -> None:
        if limit == 0:
            return
        allowance = self._allowances.get(caller)
        if allowance is None:
            allowance = self._allowances[caller] = Allowance()
        if allowance.requests < 1:
            async with allowance.lock:
                await self._refill(allowance, caller, limit)
        if not allowance.is_counted:
            return
        is_refused = allowance.requests < 1
        allowance.requests -= not is_refused
        remaining = allowance.requests + allowance.left
        connection.scope["state"][RATE_LIMIT] = [
            (b"ratelimit-policy", b"%d;w=60" % limit),
            (b"ratelimit-limit", b"%d" % limit),
            (b"ratelimit-remaining", b"%d" % remaining),
            (b"ratelimit-reset", b"%d" % math.ceil((limit - remaining) * 60 / limit)),
        ]
        if is_refused:
            raise TooManyRequests(
                f"More than {limit:,} requests a minute, which is the limit of {whose}.", max(1, math.ceil(60 / limit))
            )

    async def _refill(self, allowance: Allowance, caller: Caller, limit: int) -> None:
        if allowance.requests > 0 or time.monotonic() < allowance.closed_until:
            return
        kind, identity = caller
        key = self._secrets.claim(f"requests-{kind}", str(identity))
        taken = await self._buckets.take(key, limit, max(1, limit // SHARE))
        allowance.is_counted = taken is not None
        if taken is not None:
            allowance.requests, allowance.left = taken.requests, taken.left
            allowance.closed_until = 0.0 if taken.requests else time.monotonic() + EMPTY_BUCKET_PAUSE_S


def count_unrouted(router: ASGIApp) -> ASGIApp:
    """Returns an application that wraps the router and also counts requests whose path and method have no operation.
    These count as requests without credentials, since nothing checks their credentials.
    """

    async def counted(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await router(scope, receive, send)
        except HTTPException:
            if "route_handler" not in scope:
                await scope["app"].state.services.rate_limits.count(ASGIConnection(scope), None)
            raise

    return counted
