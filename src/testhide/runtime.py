"""Runs the main coroutine of a process: writes logs as JSON, handles signals, and cancels all tasks at the end."""

import asyncio
import signal
import sys
from collections.abc import Coroutine

import structlog

from store.postgres.cancellation import cancel_and_wait


def run(main: Coroutine[None, None, None]) -> None:
    """Run `main` on a new event loop, with logs as JSON. Raises what `main` raises."""
    import uvloop

    _log_as_json()

    async def run_and_clean_up() -> None:
        try:
            await main
        finally:
            # The event loop itself cancels the remaining tasks only once, which may not be enough.
            await cancel_and_wait(*(asyncio.all_tasks() - {asyncio.current_task()}))

    uvloop.run(run_and_clean_up())


async def signalled() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def until_signalled(*works: Coroutine[None, None, None]) -> None:
    """Run endless coroutines until SIGTERM, SIGINT or the first error of one of them. Then cancel all, and raise the
    error if there was one.
    """
    running = [asyncio.create_task(work) for work in works]
    stopping = asyncio.create_task(signalled())
    done, _ = await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await cancel_and_wait(*running, stopping)
    for task in done:
        task.result()


def _log_as_json() -> None:
    """Log to stderr, one JSON object per line. Tracebacks have no local variables, which may contain secrets."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        # Looks stderr up for each line, since the caller of `run` may have replaced it for a while.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
