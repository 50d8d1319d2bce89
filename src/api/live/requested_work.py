"""Requests work that is done elsewhere, on a node or by a worker, and waits for its end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from litestar import Request

from api.http.permissions import User
from api.http.repeated_checks import check_after
from api.http.request_context import RequestContext
from api.live.stream_clients import watching_disconnect
from commands.handler import Command
from store.postgres.cancellation import wait_for
from store.postgres.notifications import AGENT_NOTIFICATIONS

T = TypeVar("T")

POLL_INTERVAL_S = 1.0
"""Seconds between the first two checks whether the work has ended, unless a notification arrives before. The checks are
needed because a notification may be lost.
"""
MAX_POLL_INTERVAL_S = 5.0
"""Longest time in seconds between two checks whether the work has ended. The checks become rarer during a wait, so that
many long waits do not delay other requests.
"""


async def request_work(
    request: Request[User, Any, Any],
    ctx: RequestContext,
    command: Command,
    notification: str,
    find_end: Callable[[], Awaitable[T | None]],
    timeout_s: float,
) -> T | None:
    """Executes the command that requests the work, and waits until the work has ended. Returns the result of
    `find_end`, which returns None while the work goes on. Returns None if the work has not ended after `timeout_s`, or
    if the client closes its connection before.

    `notification` is the payload with which the channel AGENT_NOTIFICATIONS reports the end of the work.
    """

    async def execute_and_wait() -> T | None:
        await ctx(command)
        return await wait_for_work(request, ctx, notification, find_end, timeout_s)

    return await check_after(request, execute_and_wait())


async def wait_for_work(
    request: Request[User, Any, Any],
    ctx: RequestContext,
    notification: str,
    find_end: Callable[[], Awaitable[T | None]],
    timeout_s: float,
) -> T | None:
    """Waits until the work has ended. Returns the result of `find_end`, which returns None while the work goes on.
    Returns None if the work has not ended after `timeout_s`, or if the client closes its connection before. After a
    long wait, checks the user of the request again, but not their access to a project: the handler must check this
    access.

    `notification` is the payload with which the channel AGENT_NOTIFICATIONS reports the end of the work.
    """

    async def wait_for_end() -> T | None:
        ended = asyncio.Event()

        def on_wake(payload: str | None) -> None:
            if payload in (None, notification):
                ended.set()

        with ctx.services.listener.subscribed(AGENT_NOTIFICATIONS, on_wake):
            deadline, pause = asyncio.get_running_loop().time() + timeout_s, POLL_INTERVAL_S
            async with watching_disconnect(request, ended) as is_gone:
                while True:
                    ended.clear()
                    if (end := await find_end()) is not None:
                        return end
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0 or is_gone.is_set():
                        return None
                    await wait_for(ended, min(pause, left))
                    pause = min(1.5 * pause, MAX_POLL_INTERVAL_S)

    return await check_after(request, wait_for_end())
