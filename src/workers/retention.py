"""Deletes old builds: those that are older than the retention of their project allows, and those that exceed the number
of builds which their job may keep.

A deletion is for good, so the retention of a project is compared with the log first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.build_actions import DeleteBuild
from commands.handler import CommandContext, Handler
from domain.core.errors import Rejection
from domain.projects import PROJECT
from projections.retention import ExpiredBuild, find_expired
from store.log.event_log import EventLog
from store.tables.alarms import set_alarm

log = structlog.get_logger()

INTERVAL_S = 600.0
"""Seconds between two sweeps while there is nothing to delete."""
BUSY_INTERVAL_S = 2.0
"""Seconds from a sweep that deleted builds to the next sweep. By then the read model shows these deletions."""
SWEEP_SIZE = 200
"""Largest number of builds that one sweep deletes."""
DIFFERS = (
    "their settings in the read model projects differ from the log; if this lasts, somebody changed it: run"
    " `testhide projections rebuild projects --switch`"
)


@dataclass
class Retention:
    """Periodic deletion of old builds. Two processes may sweep at once: deleting a build twice does no harm."""

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    clock: Callable[[], datetime]
    sweep_size: int = SWEEP_SIZE

    async def sweep(self) -> int:
        """Deletes at most `sweep_size` of the builds that are due. Returns the number of deleted builds."""
        due = await find_expired(self.pool, self.clock(), self.sweep_size)
        differing = await self._find_differing(due)
        message = f"retention deletes nothing in projects {differing}: {DIFFERS}" if differing else None
        await set_alarm(self.pool, "retention", message)
        deleted = 0
        for build in due:
            if build.project_id in differing:
                continue
            try:
                await self.handler.execute(DeleteBuild(build.id, "retention"), CommandContext("system:retention"))
                deleted += 1
            except Rejection as error:
                log.info("build not deleted", build=build.id, detail=error.detail)
        return deleted

    async def _find_differing(self, due: Sequence[ExpiredBuild]) -> list[int]:
        """Returns the ids of the projects whose retention in the read model differs from their retention in the log."""
        found: list[int] = []
        for project_id, days, count in sorted({(b.project_id, b.retention_days, b.retention_builds) for b in due}):
            project = await self.event_log.load_state(PROJECT.at(project_id))
            if project is None or (project.retention_days, project.retention_builds) != (days, count):
                log.error("retention differs from the log", project=project_id)
                found.append(project_id)
        return found
