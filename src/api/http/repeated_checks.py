"""Checks callers again in requests that take long: after a body that came slowly, after a wait, and while a response is
sent. Without these checks, callers who have lost their access meanwhile could still complete such a request.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

from litestar.connection import ASGIConnection
from litestar.types import HTTPScope, Receive, ReceiveMessage, Scope

from api.http.authentication import find_caller
from store.postgres.caller_turns import CallerTurns

RECHECK_AFTER_S = 1.0
"""If the body of a request takes more seconds than this to arrive, or the request waits for longer, for example for a
turn, the caller is checked again.
"""
RECHECK_INTERVAL_S = 2.5
"""Seconds between two checks of a caller to whom a response is being sent."""

T = TypeVar("T")
Check = Callable[[], Awaitable[object]]
"""Function that raises an error if the user of a request, with their present access, may not go on with the request."""


def check_after_slow_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that checks the caller again if the end of the body comes later than RECHECK_AFTER_S. If the
    caller has lost their access, `receive` raises Unauthenticated or Forbidden.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def receive_and_check() -> ReceiveMessage:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body") and loop.time() - began > RECHECK_AFTER_S:
            await check_again(ASGIConnection(scope))
        return message

    return receive_and_check


async def check_after(connection: ASGIConnection[Any, Any, Any, Any], wait: Awaitable[T]) -> T:
    """Waits for `wait` and returns its result. Checks the caller again if the wait took longer than RECHECK_AFTER_S."""
    began = asyncio.get_running_loop().time()
    result = await wait
    if asyncio.get_running_loop().time() - began > RECHECK_AFTER_S:
        await check_again(connection)
    return result


@asynccontextmanager
async def take_turn(connection: ASGIConnection[Any, Any, Any, Any], turns: CallerTurns) -> AsyncIterator[None]:
    """Holds a turn for the caller until the block ends. Checks the caller again if they waited for the turn longer than
    RECHECK_AFTER_S.
    """
    async with AsyncExitStack() as stack:
        await check_after(connection, stack.enter_async_context(turns.take(connection.user.actor)))
        yield


async def check_while_sending(
    connection: ASGIConnection[Any, Any, Any, Any], chunks: AsyncIterator[bytes], check: Check
) -> AsyncIterator[bytes]:
    """Yields the chunks of a response. Every RECHECK_INTERVAL_S, checks the caller again and calls `check`. If the
    caller has lost their access, raises an error, which cuts the connection. So the client does not take a part of the
    response for the whole.
    """
    loop = asyncio.get_running_loop()
    checked = loop.time()
    async for chunk in chunks:
        if loop.time() - checked > RECHECK_INTERVAL_S:
            await check_again(connection)
            await check()
            checked = loop.time()
        yield chunk


async def check_again(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Replaces the user of a request by the same user with their present access, and runs the guards of the route.
    Raises Unauthenticated or Forbidden if the user has lost their access. Does nothing for a request without
    credentials.
    """
    if connection.scope.get("user") is not None:
        cast(HTTPScope, connection.scope)["user"] = await find_caller(connection)
        await connection.route_handler.authorize_connection(connection)
