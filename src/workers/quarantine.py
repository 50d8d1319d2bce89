"""Records that entries of quarantines expired, or that their tests have recovered."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from commands.quarantine import RecordExpiry, RecordRecovery
from domain.core.errors import Rejection
from projections import quarantine

log = structlog.get_logger()

INTERVAL_S = 30.0
"""Seconds between two sweeps. The event about an expired entry comes at most this much later; the entry itself has no
effect from the moment of its expiry.
"""
SWEEP_SIZE = 1_000
"""Largest number of jobs with expired entries, and of recovered entries, that one sweep handles."""
CALLER = CommandContext("system:quarantine")


@dataclass
class QuarantineWatch:
    """Periodic search for entries that have expired or recovered. Two processes may sweep at once, since the commands
    record nothing twice.
    """

    pool: AsyncConnectionPool
    handler: Handler
    clock: Callable[[], datetime]

    async def sweep(self) -> int:
        """Records which entries have newly expired or recovered. Returns the number of recorded events."""
        recorded = 0
        for command in await self._due_commands():
            try:
                recorded += len((await self.handler.execute(command, CALLER)).events)
            except Rejection as error:
                log.info("not recorded", command=repr(command), detail=error.detail)
        return recorded

    async def _due_commands(self) -> list[Command]:
        now = self.clock()
        async with self.pool.connection() as connection:
            expired = await quarantine.find_jobs_with_expired(connection, now, SWEEP_SIZE)
            recovered = await quarantine.find_recovered(connection, now, SWEEP_SIZE)
        return [
            *(RecordExpiry(job_id, now) for job_id in expired),
            *(
                RecordRecovery(job_id, {entry.quarantine_id: entry.failures for entry in entries}, now)
                for job_id, entries in groupby(recovered, lambda entry: entry.job_id)
            ),
        ]
