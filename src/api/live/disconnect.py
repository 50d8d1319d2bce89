"""Who waits for an answer may hang up: nothing ends a request for that, so it has to look."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from litestar import Request


@contextlib.asynccontextmanager
async def hanging_up(request: Request[Any, Any, Any], news: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Set, and `news` with it, when the connection of the caller, whose body has been read, is gone."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        gone.set()
        news.set()

    watching = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watching.cancel()
