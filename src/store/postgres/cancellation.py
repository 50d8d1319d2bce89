"""Waits and cancels without `asyncio.wait_for`, which loses some cancellations in Python versions before 3.12.

In these versions, it swallows a cancellation that arrives in the same turn of the event loop as the result. Since
psycopg calls `asyncio.wait_for`, a task that uses the database may have to be cancelled more than once.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

RETRY_INTERVAL_S = 0.2
"""Seconds between two cancellations of a task that still runs."""


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks, repeatedly if necessary, until all of them have ended. Drops their results and errors. If the
    caller is cancelled meanwhile, still waits for all tasks.
    """
    await _outlast(tasks, cancel_every_s=RETRY_INTERVAL_S)


async def outlast(*tasks: asyncio.Task[Any]) -> None:
    """Waits until the tasks have ended, even if the caller is cancelled meanwhile. Drops their results and errors."""
    await _outlast(tasks, cancel_every_s=None)


async def _outlast(tasks: Sequence[asyncio.Task[Any]], cancel_every_s: float | None) -> None:
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        if cancel_every_s is not None:
            for task in running:
                task.cancel()
        try:
            await asyncio.wait(running, timeout=cancel_every_s)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as retrieved, else asyncio logs it
    if cancelled is not None:
        raise cancelled


class Tasks:
    """Tasks that end together, like those of an asyncio.TaskGroup. A TaskGroup cancels each task only once, so it waits
    for ever for a task that lost the cancellation.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, *works: Coroutine[Any, Any, None]) -> None:
        for work in works:
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._end)

    async def run(self) -> None:
        """Waits until a task fails or the caller is cancelled. Then cancels all tasks and waits until they have ended.
        Raises the error of the failed task.
        """
        try:
            await self._failed
        finally:
            while self._tasks:  # a task that has lost its cancellation may start others
                await cancel_and_wait(*self._tasks)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)


async def wait_for(event: asyncio.Event, timeout_s: float) -> bool:
    """Waits until the event is set. Returns True if it is set within `timeout_s` seconds, else False."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
