"""Periodic work that one worker process does at a time: the leader, which holds an advisory lock. Other processes wait
for the lock.

A leader may lose its lock without knowing it, and still sweep when the next leader begins. So every sweep must be
harmless when another one runs at the same time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection

from store.postgres.cancellation import cancel_and_wait
from store.postgres.leader_lock import SCHEDULES_LOCK, hold_leader_lock
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

LOCK_CHECK_INTERVAL_S = 1.0
"""Seconds between two checks that the leader still has the lock. A leader that lost the lock waits this long before it
tries to lead again.
"""


@dataclass(frozen=True)
class Schedule:
    name: str
    sweep: Callable[[], Awaitable[object]]
    """The work of one round. Returns a true value if it found work to do."""
    interval_s: float
    busy_interval_s: float | None = None
    """Seconds from a sweep that found work to the next, since there may be more work; None for the usual interval."""


@dataclass(frozen=True)
class Schedules:
    conninfo: str
    schedules: Sequence[Schedule]
    lock_check_interval_s: float = LOCK_CHECK_INTERVAL_S

    async def run(self) -> None:
        """Runs the schedules while this process leads, and waits to lead otherwise. Runs until cancelled."""
        while True:
            async with tolerate_outages("schedules"), hold_leader_lock(self.conninfo, SCHEDULES_LOCK) as lock:
                log.info("leading schedules")
                await self._lead(lock)
            await asyncio.sleep(self.lock_check_interval_s)

    async def _lead(self, lock: AsyncConnection) -> None:
        """Runs the schedules until the connection that holds the lock breaks. Raises psycopg.OperationalError then."""
        tasks = [asyncio.create_task(_run(schedule), name=schedule.name) for schedule in self.schedules]
        try:
            while True:
                await lock.execute("SELECT")
                await asyncio.sleep(self.lock_check_interval_s)
        finally:
            await cancel_and_wait(*tasks)


async def _run(schedule: Schedule) -> None:
    while True:
        found_work = False
        try:
            async with tolerate_outages(schedule.name):
                found_work = bool(await schedule.sweep())
        except Exception:
            log.exception("a schedule failed", schedule=schedule.name)  # this schedule goes on, as the others do
        busy_interval_s = schedule.busy_interval_s if found_work else None
        await asyncio.sleep(schedule.interval_s if busy_interval_s is None else busy_interval_s)
