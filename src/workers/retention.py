"""Deletes old builds: those that are older than the retention of their project allows, or that are beyond the number of
builds which a job may keep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.build_actions import DeleteBuild
from commands.handler import CommandContext, Handler
from domain.core.errors import Rejection
from projections import builds

log = structlog.get_logger()

INTERVAL_S = 600.0
BUSY_INTERVAL_S = 2.0
"""Time after a sweep that deleted builds until the next one: by then the read model shows these deletions."""
SWEEP_SIZE = 200
"""Builds that one sweep deletes at most."""


@dataclass
class Retention:
    """Periodic deletion of builds. Two processes may sweep at once: a build that is deleted already is not deleted
    again.
    """

    pool: AsyncConnectionPool
    handler: Handler
    clock: Callable[[], datetime]
    sweep_size: int = SWEEP_SIZE

    async def sweep(self) -> int:
        """Deletes at most `sweep_size` of the builds that are due. Returns the number of deleted builds."""
        due = await builds.find_expired(self.pool, self.clock(), self.sweep_size)
        deleted = 0
        for build_id in due:
            try:
                await self.handler.execute(DeleteBuild(build_id, "retention"), CommandContext("system:retention"))
                deleted += 1
            except Rejection as error:
                log.info("build not deleted", build=build_id, detail=error.detail)
        return deleted
