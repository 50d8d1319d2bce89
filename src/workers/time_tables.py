"""Starts the builds of jobs with time tables when their time has come."""

import asyncio
import hashlib
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import structlog
from cronsim import CronSimError
from psycopg_pool import AsyncConnectionPool

from commands.builds import start_build
from commands.handler import CommandContext, Handler
from commands.time_tables import find_latest, find_next
from commands.triggers import StartScheduledBuild
from domain.core.errors import Rejection
from domain.triggers import BuildTrigger, CronTrigger
from projections import triggers
from projections.triggers import TriggerRow
from store.crypto.secrets import Secrets
from store.log.ids import Ids

log = structlog.get_logger()

INTERVAL_S = 5.0
"""Seconds between two checks of the time tables. A build starts at most this much later."""
CALLER = CommandContext("system:schedule")


NEVER = datetime.max.replace(tzinfo=UTC)


class TableTimes(NamedTuple):
    latest: datetime | None
    """Newest time of the time table that has passed; None if none has passed yet."""
    until: datetime
    """Next time of the time table. Once this time has passed, it is the new `latest`."""


@dataclass
class TimeTableClock:
    """Periodic start of scheduled builds. After an outage only the last missed time of each time table starts a build.
    Two processes may sweep at once: a claim makes sure that each time starts only one build.
    """

    pool: AsyncConnectionPool
    handler: Handler
    ids: Ids
    secrets: Secrets
    clock: Callable[[], datetime]
    _handled: dict[tuple[int, CronTrigger], datetime] = field(default_factory=dict)
    """(Job id, time table) -> newest time that this process has handled."""
    _times: dict[tuple[int, CronTrigger], TableTimes] = field(default_factory=dict)
    """(Job id, time table) -> computed times. They are cached because computing them can take several milliseconds."""

    async def sweep(self) -> int:
        """Starts the builds that are due. Returns the number of builds that it started."""
        minute = self.clock().astimezone(UTC).replace(second=0, microsecond=0)
        handled: dict[tuple[int, CronTrigger], datetime] = {}
        times: dict[tuple[int, CronTrigger], TableTimes] = {}
        started = 0
        for job in await triggers.fetch_scheduled(self.pool):
            await asyncio.sleep(0)  # lets other tasks run
            for time_table in job.settings.cron:
                key = job.job_id, time_table
                try:
                    found = self._times.get(key)
                    if found is None or found.until <= minute:
                        found = TableTimes(find_latest(time_table, minute), find_next(time_table, minute) or NEVER)
                    times[key] = found
                except (CronSimError, zoneinfo.ZoneInfoNotFoundError) as error:
                    log.error("a time table cannot be read", job=job.job_id, error=str(error))
                    continue
                latest = found.latest
                if latest is None or latest <= job.scheduled_since:
                    continue
                if self._handled.get(key) != latest:
                    started += await self._start(job, time_table, latest)
                handled[key] = latest
        self._handled, self._times = handled, times
        return started

    async def _start(self, job: TriggerRow, time_table: CronTrigger, at: datetime) -> bool:
        # A claim ignores case, but names of branches do not: so the claim is made for a hash of the name.
        named = f"{job.job_id} {time_table.expression} {time_table.timezone} {time_table.branch or ''} {at.isoformat()}"
        command = StartScheduledBuild(
            await self.ids.draw("builds"),
            job.job_id,
            time_table.branch,
            trigger=BuildTrigger("schedule", scheduled_at=at),
            claim=self.secrets.claim("schedule", hashlib.sha256(named.encode()).hexdigest()),
            time_table=time_table,
            scheduled_at=at,
        )
        try:
            started = await start_build(partial(self.handler.execute, caller=CALLER), self.ids, command)
            return bool(started.events)
        except Rejection as error:
            log.warning("a time table cannot start a build", job=job.job_id, detail=error.detail)
            return False
