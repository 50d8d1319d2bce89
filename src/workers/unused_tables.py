"""Drops tables of read models that nothing keeps up to date and that still contain deleted data.

A deletion reaches the live tables with its event. Retired tables, staging tables that nobody builds, and tables of an
older release do not get that event, so they would keep the deleted data. All these tables can be built again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.events import Recorded
from domain.registry import EVENTS
from projections.engine.model import Projection
from projections.engine.schemas import LIVE, RETIRED, SCHEMAS, STAGING, Schema, fetch_schema_positions
from projections.rebuild.drop import drop_unused
from store.log.event_log import EventLog
from store.tables.alarms import set_alarm

log = structlog.get_logger()

INTERVAL_S = 10.0
"""Seconds between two sweeps."""
RETENTION = MappingProxyType({RETIRED: timedelta(0), STAGING: timedelta(hours=1), LIVE: timedelta(days=1)})
"""Schema -> how long its tables are kept after a deletion that they lack. An operator may be about to compare staging
tables or to switch to them, and processes of an older release may still read its tables during an upgrade.
"""
ERASING = [name for name, event in EVENTS.items() if event.destroys_key]


@dataclass
class UnusedTables:
    pool: AsyncConnectionPool
    event_log: EventLog
    projections: Sequence[Projection]
    clock: Callable[[], datetime]
    _read: dict[int, int] = field(default_factory=dict)
    """Position -> a later position up to which an earlier search found no deletion."""

    async def sweep(self) -> None:
        """Drops the tables that lack a deletion which is older than RETENTION. Sets an alarm about tables that cannot
        be dropped because they are in use, and ends the alarm when there are none.
        """
        in_use: list[str] = []
        async with self.pool.connection() as connection:
            for schema in SCHEMAS:
                for (name, version), position in (await fetch_schema_positions(connection, schema)).items():
                    if self._is_needed(schema, name, version):
                        continue
                    deletion = await self._find_deletion(position)
                    if deletion is None or deletion.event.at + RETENTION[schema] > self.clock():
                        continue
                    if not await _drop(connection, schema, name, version, deletion.position):
                        in_use.append(f"{name} version {version} ({schema})")
        await set_alarm(self.pool, "unused tables", _describe(in_use) if in_use else None)

    def _is_needed(self, schema: Schema, name: str, version: int) -> bool:
        """Returns whether these are live tables of this release or of a newer release."""
        versions = {projection.name: projection.version for projection in self.projections}
        return schema == LIVE and (name not in versions or version >= versions[name])

    async def _find_deletion(self, position: int) -> Recorded | None:
        """Returns the first event after `position` that erases data; None if there is none."""
        batch = await self.event_log.read_batch(self._read.get(position, position), 1, ERASING)
        if batch.events:
            return batch.events[0]
        self._read[position] = batch.position
        return None


async def _drop(connection: AsyncConnection, schema: Schema, name: str, version: int, deletion: int) -> bool:
    """Drops the tables. Does nothing if a process still applies events to them, since this process will also apply the
    deletion. Returns False if a query uses the tables, so that they cannot be dropped.
    """
    try:
        if await drop_unused(connection, schema, name, version, deletion):
            log.info("tables without a deletion dropped", projection=name, version=version, schema=schema)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _describe(in_use: Sequence[str]) -> str:
    return (
        f"tables that a deletion must reach are kept in use by long queries: {', '.join(in_use)}; they are dropped as"
        " soon as these end"
    )
