"""Says which quarantined tests need it no longer: their time is over, or they have recovered."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from commands.quarantine import SayExpired, SayHealthy
from domain.core.errors import Rejection
from projections import quarantine

log = structlog.get_logger()

EVERY_S = 30.0
AT_ONCE = 1_000
CALLER = CommandContext("system:quarantine")


@dataclass
class QuarantineWatch:
    """What was said already is not said again, so two may sweep at once."""

    pool: AsyncConnectionPool
    handler: Handler
    clock: Callable[[], datetime]

    async def sweep(self) -> int:
        """Says what is news, of up to AT_ONCE entries; how many events that took."""
        said = 0
        for command in await self._news():
            try:
                said += len((await self.handler.execute(command, CALLER)).events)
            except Rejection as error:
                log.info("not said", command=repr(command), detail=error.detail)
        return said

    async def _news(self) -> list[Command]:
        now = self.clock()
        async with self.pool.connection() as connection:
            expired = await quarantine.find_jobs_with_expired(connection, now, AT_ONCE)
            recovered = await quarantine.find_recovered(connection, now, AT_ONCE)
        return [
            *(SayExpired(job_id, now) for job_id in expired),
            *(
                SayHealthy(job_id, {entry.quarantine_id: entry.failures for entry in entries}, now)
                for job_id, entries in groupby(recovered, lambda entry: entry.job_id)
            ),
        ]
