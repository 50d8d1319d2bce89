"""Checks callers again in requests that take long: after a body that came slowly, after a wait, and while a response is
sent. Without these checks, the caller could end such a request after they have lost their access.
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
"""Seconds after which the caller is checked again: from the beginning of a request to the end of its body, or from the
beginning to the end of a wait.
"""
RECHECK_INTERVAL_S = 2.5
"""Seconds between two checks of a caller to whom a response is being sent."""

T = TypeVar("T")
Check = Callable[[], Awaitable[object]]
"""Function that raises an error if the present user of a request may not go on with it."""


def check_after_slow_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that checks the caller again when the end of the body comes later than RECHECK_AFTER_S. Then
    it raises Unauthenticated or Forbidden if they have lost their access.
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
    """Returns what `wait` returns. Checks the caller again if this took longer than RECHECK_AFTER_S."""
    began = asyncio.get_running_loop().time()
    result = await wait
    if asyncio.get_running_loop().time() - began > RECHECK_AFTER_S:
        await check_again(connection)
    return result


@asynccontextmanager
async def take_turn(connection: ASGIConnection[Any, Any, Any, Any], turns: CallerTurns) -> AsyncIterator[None]:
    """Takes a turn for the caller until the block ends. Checks them again if they waited for it longer than
    RECHECK_AFTER_S.
    """
    async with AsyncExitStack() as stack:
        await check_after(connection, stack.enter_async_context(turns.take(connection.user.actor)))
        yield


async def check_while_sending(
    connection: ASGIConnection[Any, Any, Any, Any], chunks: AsyncIterator[bytes], check: Check
) -> AsyncIterator[bytes]:
    """Yields the chunks of a response. Checks the caller again every RECHECK_INTERVAL_S, also by `check`. If the caller
    has lost their access, raises an error, which cuts the connection, so that the client does not take a part for the
    whole.
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
    """Replaces the user of a request by the same user with their present access, and runs the guards of its route. Does
    nothing for a request without credentials.
    """
    if connection.scope.get("user") is not None:
        cast(HTTPScope, connection.scope)["user"] = await find_caller(connection)
        await connection.route_handler.authorize_connection(connection)
