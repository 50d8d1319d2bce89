"""Makes one try of a due reaction under a lease (`store.tables.reactions.MIN_LEASE_S`), and stores how it ended."""

import asyncio
import dataclasses

import structlog
from psycopg_pool import AsyncConnectionPool

from domain.core.events import readable
from store.log.event_log import EventLog
from store.postgres.cancellation import cancel_and_wait
from store.tables import reactions
from store.tables.reactions import Due, Lease
from workers.loops.outages import tolerate_outages
from workers.reactions.reaction import Reaction, RetryLater, Tools

log = structlog.get_logger()

MAX_ERROR_LENGTH = 1_000
"""Largest number of characters of an error that are stored."""
RENEWAL_INTERVAL_S = 5.0
"""Seconds between two renewals of a lease. A renewal also stores the progress, and finds out if the reaction was
cancelled.
"""
MIN_WAIT_S = 1.0
"""Shortest wait, in seconds, before a reaction is tried again at the request of an outside system (`RetryLater`)."""
MAX_WAIT_S = 3_600.0
"""Longest wait, in seconds, before a reaction is tried again at the request of an outside system (`RetryLater`)."""
MAX_WAITING_S = 86_400.0
"""Age of a due reaction, in seconds, from which a try that ends with `RetryLater` counts as failed. Otherwise an
outside system could ask for more time for ever.
"""


class LeaseLost(Exception):
    """The reaction was cancelled, or another worker has leased it."""


class TryRunner:
    def __init__(self, pool: AsyncConnectionPool, event_log: EventLog, tools: Tools, renewal_interval_s: float) -> None:
        self._pool = pool
        self._log = event_log
        self._tools = tools
        self._renewal_interval_s = renewal_interval_s

    async def run(self, reaction: Reaction, due: Due) -> None:
        """Makes a try of a due reaction. Does nothing if another worker makes this try or has made it."""
        async with tolerate_outages("due reactions"):
            lease = await reactions.lease(self._pool, due, reaction.retries)
            if lease is None:
                return
            if lease.failed >= reaction.retries.tries:
                log.error("reaction parked: its worker died in the last try", **due._asdict())
                await reactions.mark_failed(self._pool, due, None, None)
                return
            try:
                await self._work(reaction, due)
            except LeaseLost:
                log.warning("reaction ended: it was cancelled, or another worker has it", **due._asdict())
            except Exception as error:
                await self._note_failure(reaction, due, lease, error)
            else:
                await reactions.mark_done(self._pool, due)

    async def _note_failure(self, reaction: Reaction, due: Due, lease: Lease, error: Exception) -> None:
        if isinstance(error, RetryLater) and lease.age_s < MAX_WAITING_S:
            seconds = min(max(error.seconds, MIN_WAIT_S), MAX_WAIT_S)
            log.warning("reaction waits", **due._asdict(), reason=str(error), seconds=seconds)
            await reactions.mark_waiting(self._pool, due, str(error)[:MAX_ERROR_LENGTH], seconds)
            return
        text = f"takes more than {reaction.time_limit_s} s" if isinstance(error, TimeoutError) else repr(error)
        failed = lease.failed + 1
        pause_s = None if failed >= reaction.retries.tries else reaction.retries.pause_after(failed)
        log.error("reaction parked" if pause_s is None else "reaction failed", **due._asdict(), error=text)
        await reactions.mark_failed(self._pool, due, text[:MAX_ERROR_LENGTH], pause_s)

    async def _work(self, reaction: Reaction, due: Due) -> None:
        """Runs the reaction and renews its lease meanwhile. Raises LeaseLost if the lease is lost, TimeoutError if the
        reaction takes longer than its time limit, and any error of the reaction.
        """
        progress = WorkProgress()
        working = asyncio.create_task(self._react(reaction, due, progress))
        renewing = asyncio.create_task(self._renew(due, progress))
        try:
            await asyncio.wait((working, renewing), timeout=reaction.time_limit_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if renewing.done():
                return renewing.result()
            raise TimeoutError
        finally:
            await cancel_and_wait(working, renewing)

    async def _react(self, reaction: Reaction, due: Due, progress: "WorkProgress") -> None:
        (recorded,) = readable(await self._log.read_at([due.position]))
        await reaction.run(recorded.event, dataclasses.replace(self._tools, on_progress=progress.report))

    async def _renew(self, due: Due, progress: "WorkProgress") -> None:
        """Renews the lease again and again. Raises LeaseLost when the lease is lost."""
        while True:
            await asyncio.sleep(self._renewal_interval_s)
            async with tolerate_outages("leases of reactions"):
                if not await reactions.renew(self._pool, due, progress.text):
                    raise LeaseLost


class WorkProgress:
    """The latest text that a reaction has reported about its progress."""

    def __init__(self) -> None:
        self.text: str | None = None

    def report(self, text: str) -> None:
        self.text = text
