"""Retention: deletes the builds that their projects no longer keep, a few at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.retention import DeleteBuild
from domain.core.errors import Rejection
from projections import builds

log = structlog.get_logger()

EVERY_S = 600.0
SOON_S = 2.0
"""While there is more to do: the read model shows by then what went."""
AT_ONCE = 200


@dataclass
class Retention:
    """Deleting what is deleted already is refused and harms nothing, so two may sweep at once."""

    pool: AsyncConnectionPool
    handler: Handler
    clock: Callable[[], datetime]

    async def sweep(self) -> int:
        """Deletes what is due now, up to AT_ONCE builds; how many went."""
        async with self.pool.connection() as connection:
            due = await builds.find_expired(connection, self.clock(), AT_ONCE)
        deleted = 0
        for build_id in due:
            try:
                await self.handler.execute(DeleteBuild(build_id, "retention"), CommandContext("system:retention"))
                deleted += 1
            except Rejection as error:
                log.info("not deleted", build=build_id, detail=error.detail)
        return deleted
