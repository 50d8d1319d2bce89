"""Starts builds for the changes that repositories report, and ends queued builds of older changes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.build_actions import SupersedeBuild
from commands.changes import start_builds
from commands.handler import CommandContext, Handler
from commands.scm import find_project_repository
from domain.changes import ChangeReceived
from domain.core.errors import Unavailable
from projections import builds, triggers
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.log.ids import Ids

log = structlog.get_logger()


@dataclass(frozen=True)
class ChangeEvaluator:
    """Evaluates a change of a repository: starts the builds of those jobs of its project that the change triggers.
    Evaluating the same change again starts no second build.
    """

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    ids: Ids
    secrets: Secrets
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""

    async def evaluate(self, received: ChangeReceived) -> None:
        (recorded,) = (await self.event_log.load([received.stream]))[received.stream]
        await self._wait(recorded.position)  # triggers that were set before the change count
        repository = await find_project_repository(self.event_log, received.project_id)
        jobs = await triggers.find_started_jobs(self.pool, received.project_id, received.change, repository)
        caller = CommandContext(received.actor, received.correlation_id)
        started = await start_builds(
            self.handler, self.ids, self.secrets, received, [job.job_id for job in jobs], repository, caller
        )
        for job_id, why in started.refused.items():
            log.warning("a change cannot start a build", change=received.change_id, job=job_id, detail=why)
        superseding = [job.job_id for job in jobs if job.settings.cancel_superseded and job.job_id in started.build_ids]
        if superseding:
            # If two processes start builds of one branch at once, the one that appends later finds both builds.
            await self._wait(await self.event_log.read_head())
            for build in await builds.find_superseded(self.pool, superseding):
                await self.handler.execute(SupersedeBuild(build.build_id, build.change_id), caller)

    async def _wait(self, position: int) -> None:
        """Waits until the read models have reached a position. Raises Unavailable."""
        if not await self.wait_reached(position):
            raise Unavailable("The read models are behind the log.")
