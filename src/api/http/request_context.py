"""Executes a request's commands with read-your-writes, and lends it a connection for its queries.

A response carries `Testhide-Position`. For a write it is the position of its last event, or the last position of the
log when there was nothing to do. It is sent once the read models have reached that position, at the latest after the
limit in `projections.engine.read_your_writes`; `Prefer: respond-async` skips the wait. Every other response shows at
least the events up to its position. A request with `Testhide-Min-Position` waits in the same way before it reads. When
a wait times out, the response carries `Testhide-Projected: false`.
"""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from litestar import Request
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope
from psycopg import AsyncConnection

from api.http.idempotency import IdempotentRequest
from api.http.permissions import Agent, Needs, User
from api.http.services import Services
from commands.handler import Command, CommandContext, Receipt
from domain.core.errors import Invalid, NotFound
from store.clock import utcnow
from store.log.append import AlreadyDone, IdempotencyKey
from store.log.event_log import EventLog
from store.postgres.queries import Source

POSITION = "Testhide-Position"
MIN_POSITION = "Testhide-Min-Position"
PROJECTED = "Testhide-Projected"
AS_OF = "Testhide-As-Of"


class OfProject(Protocol):
    @property
    def project_id(self) -> int: ...


R = TypeVar("R")
P = TypeVar("P", bound=OfProject)
Find = Callable[[Source, int], Awaitable[R | None]]
"""Finds the row with an id in a read model."""


class RequestContext:
    """Gives a handler its commands and queries. Injected as `ctx`.

    With `at`, the tables of the connection hold the state of that time, and no command can be executed.
    """

    def __init__(
        self,
        services: Services,
        request: Request[Any, Any, Any],
        connection: AsyncConnection | None = None,
        at: datetime | None = None,
    ) -> None:
        self.services = services
        self.request = request
        self._connection = connection
        self._at = at

    async def __call__(self, command: Command, actor: str | None = None, once: IdempotencyKey | None = None) -> Receipt:
        """Executes a command for the caller and waits until the read models show its events.

        `once` identifies work that a client may send again without an `Idempotency-Key`; raises AlreadyDone when an
        earlier request has carried it out.
        """
        receipt = await self._execute(command, dataclasses.replace(self._caller(actor), once=once))
        if receipt.position is not None:
            await self.wait_until_shown(receipt.position, receipt.events[0].position)
        else:
            # What left nothing to do may have happened a moment ago: the next GET has to show it, too.
            await self.wait_until_shown(await self.services.log.read_head())
        return receipt

    async def execute_unseen(self, command: Command) -> Receipt:
        """Executes a command without waiting for the read models and without a position in the response: for events
        that record a read.
        """
        return await self._execute(command, self._caller(None))

    async def wait_until_shown(self, position: int, first: int | None = None) -> None:
        """Adds a position to the response's headers and, unless the caller sent `Prefer: respond-async`, waits until
        the read models show the events from `first` to it.
        """
        state = self.request.state
        state.position = max(position, getattr(state, "position", 0))
        if "respond-async" not in self.request.headers.get("prefer", ""):
            shown = await self.services.waiter.wait(position, first)
            state.projected = shown and getattr(state, "projected", True)

    async def wait_for_head(self) -> bool:
        """Waits until the read models show all that is in the log now; returns False when that takes too long."""
        return await self.services.waiter.wait(await self.services.log.read_head())

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lends a connection for queries; a block inside another one shares it, so that a request takes one.

        Execute no command and wait for nothing inside the block: both take connections of the same pool, and requests
        that each hold one and want another one would wait for each other.
        """
        if self._connection is not None:
            yield self._connection
            return
        async with self.services.pool.connection() as self._connection:
            try:
                yield self._connection
            finally:
                self._connection = None

    @property
    def log(self) -> EventLog:
        """The event log; inside of `reading` on the same connection."""
        log = self.services.log
        return log if self._connection is None else log.on(self._connection)

    @property
    def source(self) -> Source:
        """The source of a handler's only query; those with several share the connection of `reading`."""
        return self._connection or self.services.pool

    @property
    def user(self) -> User:
        """The user who calls."""
        user: User = self.request.user
        return user

    @property
    def node_id(self) -> int:
        """The node whose agent calls."""
        agent: Agent = self.request.user
        return agent.node_id

    async def find(self, find: Find[R], name: str, row_id: int) -> R:
        """Returns the row with an id. Raises NotFound, with the name of what it is, if there is none."""
        row = await find(self.source, row_id)
        if row is None:
            raise NotFound(f"There is no {name} {row_id}.")
        return row

    @property
    def needs(self) -> Needs:
        """Requirements on the caller that the route declares."""
        needs: Needs = self.request.state.needs
        return needs

    def must(self, project_id: int, what: str | None = None) -> None:
        """Raises NotFound for a project that the user cannot see, Forbidden for one where their access is less than the
        route needs. `what` is what they asked for, if not for the project itself.
        """
        self.user.must(self.needs.level, project_id, what)

    async def find_visible(self, find: Find[P], name: str, row_id: int) -> P:
        """Returns the row with an id. Raises NotFound for one of a project that the user cannot see, Forbidden where
        their access to the project is less than the route needs.
        """
        row = await self.find(find, name, row_id)
        self.must(row.project_id, f"{name} {row_id}")
        return row

    @property
    def is_historical(self) -> bool:
        """Whether the handler reads a past state (`?as_of=`)."""
        return self._at is not None

    @property
    def effective_time(self) -> datetime:
        """The time whose state the handler reads."""
        return self._at or utcnow()

    async def _execute(self, command: Command, caller: CommandContext) -> Receipt:
        """Registers the `Idempotency-Key` of the request, if it has one, with its first command."""
        assert self._connection is None, "a command would take a second connection"
        idempotent: IdempotentRequest | None = getattr(self.request.state, "idempotent", None)
        if idempotent is None or idempotent.is_carried_out:
            return await self.services.handler.execute(command, caller)
        once = await idempotent.register(self.request)
        try:
            receipt = await self.services.handler.execute(command, dataclasses.replace(caller, once=once))
        except AlreadyDone:
            await idempotent.refuse_repeated(self.services, once)
            raise
        idempotent.is_carried_out = receipt.position is not None
        return receipt

    def _caller(self, actor: str | None) -> CommandContext:
        user: User | Agent | None = self.request.scope.get("user")
        correlation_id = self.request.headers.get("x-request-id", "")[:64] or uuid4().hex
        return CommandContext(actor or (user.actor if user is not None else "anonymous"), correlation_id)


def provide_request_context(request: Request[Any, Any, Any]) -> RequestContext:
    return RequestContext(request.app.state.services, request)


async def wait_for_min_position(request: Request[Any, Any, Any]) -> None:
    """Waits for the position in `Testhide-Min-Position` and notes the one that the read models have reached. Raises
    Invalid for a header that is no position.
    """
    services: Services = request.app.state.services
    wanted = request.headers.get(MIN_POSITION)
    if wanted is not None:
        if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 18:
            raise Invalid.field(
                MIN_POSITION, "must be a position: a whole number from an earlier answer's Testhide-Position"
            )
        request.state.projected = await services.waiter.wait(int(wanted))
    request.state.shown = services.waiter.position


async def add_position(message: Message, scope: Scope) -> None:
    """Sets the headers about positions that the request has collected in its state. A `before_send` hook."""
    if message["type"] != "http.response.start":
        return
    state: dict[str, Any] = scope.get("state", {})
    headers = MutableScopeHeaders(message)
    if (position := state.get("position", state.get("shown"))) is not None:
        headers.setdefault(POSITION, str(position))  # a stored response has the position of the first one
    if state.get("projected") is False:
        headers[PROJECTED] = "false"
    if (as_of := state.get("as_of")) is not None:
        headers[AS_OF] = str(as_of)
