"""The end of tasks that wait for the database."""

import asyncio
from typing import Any

AGAIN_S = 0.2


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancels them, and waits until they have ended; how is no matter.

    Once may not be enough: psycopg waits by `asyncio.wait_for`, which swallows a cancellation that comes together with
    what it waits for (before Python 3.12).
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # nobody else asks for it
