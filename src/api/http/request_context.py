"""Executes the commands of a request with read-your-writes, and provides a connection for its queries.

Every response has the header `Testhide-Position`:

- After a write, it is the position of the write's last event, or the end of the log if there was nothing to do. The
  server waits until the read models have reached this position, and then sends the response. With
  `Prefer: respond-async`, it does not wait.
- After a read, it is a position up to which the response shows all events. If the request has the header
  `Testhide-Min-Position`, the server waits for the position in this header before it reads.

Each wait has the time limit in `projections.engine.read_your_writes`. After a wait that reached its limit, the response
has `Testhide-Projected: false`.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from litestar import Request
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope
from psycopg import AsyncConnection

from api.http.idempotency import IdempotentRequest
from api.http.permissions import Agent, Level, Needs, User
from api.http.response_headers import REQUEST_ID
from api.http.services import Services
from commands.handler import Command, CommandContext, Receipt
from domain.core.errors import Invalid, NotFound, StreamDamaged, Unavailable
from domain.projects import PROJECT
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
"""Function that returns the row with an id from a read model, or None."""


class RequestContext:
    """Context of a request, through which a handler executes commands and runs queries. Litestar injects it as `ctx`.

    If `at` is set, the tables of `connection` contain the state at that time, and commands cannot be executed.
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
        """Executes a command for the caller, and waits until the read models show its events.

        `once` identifies work that a client may request again without an `Idempotency-Key`, such as an upload. Raises
        AlreadyDone if an earlier request with this `once` has done the work.
        """
        receipt = await self._execute(command, self._caller(actor, once))
        if receipt.position is not None:
            await self.wait_until_shown(receipt.position, receipt.events[0].position)
        else:
            await self.wait_until_all_shown()
        return receipt

    async def execute_unseen(
        self, command: Command, actor: str | None = None, once: IdempotencyKey | None = None
    ) -> Receipt:
        """Executes a command whose events no caller will look for, such as the record of a read. Does not wait for the
        read models, and adds no position to the response. Raises AlreadyDone if an earlier request with the same `once`
        has executed the command.
        """
        return await self._execute(command, self._caller(actor, once))

    async def prepare(self, command: Command) -> Receipt:
        """Executes a command that must come before the main command of the request. Does not wait for the read models.
        The `Idempotency-Key` is not registered with this command, so a repeated request executes it again.
        """
        return await self.services.handler.execute(command, self._caller())

    async def wait_until_shown(self, position: int, first: int | None = None) -> None:
        """Adds `position` to the response's headers. Then waits until the read models show the events from `first` to
        `position`, unless the caller sent `Prefer: respond-async`.
        """
        state = self._state
        state["position"] = max(position, state.get("position", 0))
        if "respond-async" not in self.request.headers.get("prefer", ""):
            shown = await self.services.waiter.wait(position, first)
            state["projected"] = shown and state.get("projected", True)

    async def wait_until_all_shown(self) -> None:
        """Adds the position of the end of the log to the response's headers. Then waits until the read models show all
        events up to this position.

        Call this after a write that had nothing to do. Perhaps a simultaneous request did the same, and the next GET
        must show the events of that request.
        """
        await self.wait_until_shown(await self.services.log.read_head())

    async def wait_for_head(self) -> bool:
        """Waits until the read models show all events that are in the log now. Returns False if the wait timed out, if
        the newest of these events is parked, or if a read model is broken.
        """
        return await self.services.waiter.wait(await self.services.log.read_head())

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Yields a connection for queries. Nested blocks share one connection, so that a request never holds two.

        Do not execute commands or wait for read models inside the block: both take another connection from the same
        pool. If enough requests did so at once, each would hold a connection and wait for another one for ever.
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
        """The event log. Inside a `reading` block it uses the connection of that block."""
        log = self.services.log
        return log if self._connection is None else log.on(self._connection)

    @property
    def source(self) -> Source:
        """Source for a query: the connection of an open `reading` block, otherwise the pool. A handler with several
        queries should open a `reading` block for all of them.
        """
        return self._connection or self.services.pool

    @property
    def user(self) -> User:
        """The user who calls."""
        user: User = self.request.user
        return user

    @property
    def node_id(self) -> int:
        """Id of the node whose agent calls."""
        return self.agent.node_id

    @property
    def agent(self) -> Agent:
        """The agent who calls. Only handlers for agents may use this."""
        agent: Agent = self.request.user
        return agent

    async def find(self, find: Find[R], name: str, row_id: int) -> R:
        """Returns the row that `find` reads for an id. Raises NotFound if there is no such row, and Unavailable if the
        row is missing while the read models are behind the log. `name` is the kind of row in the error message, such as
        "pipeline template".
        """
        row = await self.find_row(lambda source: find(source, row_id))
        if row is None:
            raise NotFound(f"There is no {name} {row_id}.")
        return row

    async def find_row(self, find: Callable[[Source], Awaitable[R | None]]) -> R | None:
        """Returns the row that `find` reads, or None if there is none. Raises Unavailable if the row is missing while
        the read models are behind the log.
        """
        row = await find(self.source)
        if row is None and not self.is_historical:
            await self.services.wait_for_missing(self._connection)
            row = await find(self.source)
        return row

    @property
    def needs(self) -> Needs:
        """Requirements that the called route declares."""
        needs: Needs = self._state["needs"]
        return needs

    async def must_access(self, project_id: int, what: str | None = None, level: Level | None = None) -> None:
        """Raises NotFound if the user cannot see the project. Raises Forbidden if the user's access is lower than
        `level`, by default the level of the route. `what` names the requested object in the message; None if it is the
        project itself.

        Raises Unavailable instead of NotFound if the user is a member, but the read models do not show the membership
        yet.
        """
        if self.user.is_stranger(project_id) and not self.is_historical:
            with contextlib.suppress(StreamDamaged):
                project = await self.log.load_state(PROJECT.at(project_id))
                if project is not None and not project.deleted and self.user.user_id in project.members:
                    raise Unavailable("Your access is not shown yet: the read models are behind the log. Try again.")
        self.user.must_access(level or self.needs.level, project_id, what)

    async def find_visible(self, find: Find[P], name: str, row_id: int) -> P:
        """Returns the row that `find` reads for an id. Raises NotFound if there is no such row, or if the user cannot
        see the row's project. Raises Forbidden if the user's access to the project is lower than the route requires.
        `name` is the kind of row in error messages, such as "pipeline template".
        """
        row = await self.find(find, name, row_id)
        await self.must_access(row.project_id, f"{name} {row_id}")
        return row

    @property
    def is_historical(self) -> bool:
        """Whether the handler reads a past state, because of `?as_of=`."""
        return self._at is not None

    @property
    def effective_time(self) -> datetime:
        """Time of the state that the handler reads: that of `?as_of=`, otherwise now."""
        return self._at or utcnow()

    async def _execute(self, command: Command, caller: CommandContext) -> Receipt:
        """Executes a command. The first command of a request with an `Idempotency-Key` also registers the key."""
        assert self._connection is None, "a command would take a second connection"
        idempotent: IdempotentRequest | None = self._state.get("idempotent")
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

    def _caller(self, actor: str | None = None, once: IdempotencyKey | None = None) -> CommandContext:
        user: User | Agent | None = self.request.scope.get("user")
        by = actor or (user.actor if user is not None else "anonymous")
        return CommandContext(by, self._state[REQUEST_ID], once=once)

    @property
    def _state(self) -> dict[str, Any]:
        """State of the request, from the ASGI scope: `Request.state` would make an object with a lock at each use."""
        return self.request.scope["state"]


def provide_request_context(request: Request[Any, Any, Any]) -> RequestContext:
    return RequestContext(request.app.state.services, request)


async def wait_for_min_position(request: Request[Any, Any, Any]) -> None:
    """Waits until the read models have reached the position in `Testhide-Min-Position`. Then adds the position that
    they have reached to the response's headers. Raises Invalid if the request's header is no position.

    For a caller without credentials, the function neither waits nor adds the position: the wait would show this caller
    whether others write events.
    """
    services: Services = request.app.state.services
    is_known = request.scope.get("user") is not None
    wanted = request.headers.get(MIN_POSITION)
    if wanted is not None:
        if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 18:
            raise Invalid.field(
                MIN_POSITION, "must be a position: a whole number from an earlier answer's Testhide-Position"
            )
        if is_known:
            position, waiter = int(wanted), services.waiter
            is_in_log = position <= waiter.position or position <= await services.log.read_head()
            request.scope["state"]["projected"] = await waiter.wait(position, is_in_log=is_in_log)
    if is_known:
        request.scope["state"]["shown"] = services.waiter.position


async def add_position(message: Message, scope: Scope) -> None:
    """Sets the position headers of a response from the request's state. Litestar calls this before it sends a response
    (`before_send`).
    """
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
