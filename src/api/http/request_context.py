"""How a request changes and reads: commands with read-your-writes, and connections for queries.

Every write answers with `Testhide-Position`, by default once the read models are there (2 s at most); `Prefer:
respond-async` skips the wait. A read with `Testhide-Min-Position` waits for it. When a wait runs out the answer
carries `Testhide-Projected: false`.
"""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

from litestar import Request
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope
from psycopg import AsyncConnection

from api.http.idempotency import IdempotentRequest
from api.http.permissions import Agent, User
from api.http.services import Services
from commands.handler import Command, CommandContext, Receipt
from domain.core.errors import Invalid
from store.clock import utcnow
from store.log.append import AlreadyDone, IdempotencyKey

POSITION = "Testhide-Position"
MIN_POSITION = "Testhide-Min-Position"
PROJECTED = "Testhide-Projected"
AS_OF = "Testhide-As-Of"


class RequestContext:
    """One request's hands. Injected as `ctx`."""

    def __init__(self, services: Services, request: Request[Any, Any, Any]) -> None:
        self.services = services
        self._request = request

    async def __call__(self, command: Command, actor: str | None = None, once: IdempotencyKey | None = None) -> Receipt:
        """Executes on behalf of the caller and waits until the read models show it. `once` is for a request that may
        come again without a key of its own; raises AlreadyDone where it was carried out before.
        """
        receipt = await self._once(command, dataclasses.replace(self._caller(actor), once=once))
        if receipt.position is not None:
            await self.show(receipt.position, receipt.events[0].position)
        return receipt

    async def _once(self, command: Command, caller: CommandContext) -> Receipt:
        """The first command of a request that may come again notes that it was carried out."""
        repeatable: IdempotentRequest | None = getattr(self._request.state, "repeatable", None)
        if repeatable is None or repeatable.carried_out:
            return await self.services.handler.execute(command, caller)
        once = await repeatable.once(self._request)
        try:
            receipt = await self.services.handler.execute(command, dataclasses.replace(caller, once=once))
        except AlreadyDone:
            await repeatable.must_be_first(self.services, once)
            raise
        repeatable.carried_out = receipt.position is not None
        return receipt

    async def quietly(self, command: Command) -> Receipt:
        """As a call, but neither waits for the read models nor tells the position: for what a read leaves behind."""
        return await self.services.handler.execute(command, self._caller(None))

    async def show(self, position: int, first: int | None = None) -> None:
        """Notes a position for the answer's headers and waits for the events from `first` to it, unless the caller
        asked not to.
        """
        state = self._request.state
        state.position = max(position, getattr(state, "position", 0))
        if "respond-async" not in self._request.headers.get("prefer", ""):
            shown = await self.services.waiter.wait(position, first)
            state.projected = shown and getattr(state, "projected", True)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        async with self.services.pool.connection() as connection:
            yield connection

    @property
    def is_past(self) -> bool:
        """Whether what is read is how it was (`?as_of=`)."""
        return False

    def now(self) -> datetime:
        """The time for which it is read."""
        return utcnow()

    def _caller(self, actor: str | None) -> CommandContext:
        user: User | Agent | None = self._request.scope.get("user")
        correlation_id = self._request.headers.get("x-request-id", "")[:64] or uuid4().hex
        return CommandContext(actor or (user.actor if user is not None else "anonymous"), correlation_id)


def provide_request_context(request: Request[Any, Any, Any]) -> RequestContext:
    return RequestContext(request.app.state.services, request)


async def wait_for_min_position(request: Request[Any, Any, Any]) -> None:
    wanted = request.headers.get(MIN_POSITION)
    if wanted is None:
        return
    if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 18:
        raise Invalid.field(
            MIN_POSITION, "must be a position: a whole number from an earlier answer's Testhide-Position"
        )
    services: Services = request.app.state.services
    request.state.projected = await services.waiter.wait(int(wanted))


async def add_position(message: Message, scope: Scope) -> None:
    """A `before_send` hook: what the request noted goes into the answer's headers."""
    if message["type"] != "http.response.start":
        return
    noted: dict[str, Any] = scope.get("state", {})
    headers = MutableScopeHeaders(message)
    if (position := noted.get("position")) is not None:
        headers[POSITION] = str(position)
    if noted.get("projected") is False:
        headers[PROJECTED] = "false"
    if (as_of := noted.get("as_of")) is not None:
        headers[AS_OF] = str(as_of)
