"""How a process of the server runs: what it logs, until when, and that nothing of it is left in the end."""

import asyncio
import signal
from collections.abc import Coroutine

import structlog

from store.postgres.cancellation import cancel_and_wait


def run(main: Coroutine[None, None, None]) -> None:
    """Raises what `main` raises."""
    import uvloop

    _log_as_json()

    async def whole() -> None:
        try:
            await main
        finally:
            # Of those that are left the event loop asks only once to end.
            await cancel_and_wait(*(asyncio.all_tasks() - {asyncio.current_task()}))

    uvloop.run(whole())


async def signalled() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def until_signalled(work: Coroutine[None, None, None]) -> None:
    """Runs for ever; returns on a signal, raises what the work raises."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(signalled())
    done, _ = await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if working in done:
        working.result()
    await cancel_and_wait(working)


def _log_as_json() -> None:
    """One JSON object a line; of exceptions the trace, never the local variables, which may hold secrets."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        cache_logger_on_first_use=True,
    )
