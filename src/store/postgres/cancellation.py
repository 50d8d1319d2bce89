"""Waits and cancels without `asyncio.wait_for`, which loses cancellations before Python 3.12.

`asyncio.wait_for` swallows a cancellation that arrives in the same turn of the event loop as the result. psycopg waits
by `asyncio.wait_for`, so a task that uses the database may have to be cancelled more than once.
"""

import asyncio
from typing import Any

RETRY_INTERVAL_S = 0.2
"""Time after which a task that still runs is cancelled again."""


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks again and again until all of them have ended. Drops their results and errors."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=RETRY_INTERVAL_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as retrieved, else asyncio logs it


async def wait_for(event: asyncio.Event, timeout_s: float) -> bool:
    """Waits until the event is set. Returns False when that takes longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
