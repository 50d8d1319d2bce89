"""What is done every so often, once among all workers: one of them leads, the others stand by.

A leader that has lost its lock and does not know it yet may still sweep while the next one begins. So a sweep must do
no harm beside another of its kind; it only would do the same work again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection

from store.postgres.leader_lock import hold_leader_lock
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

LOCK = "testhide schedules"
LOOK_S = 1.0
"""How often a leader looks whether it still is one."""


@dataclass(frozen=True)
class Schedule:
    name: str
    sweep: Callable[[], Awaitable[object]]
    every_s: float
    soon_s: float | None = None
    """From one that did something to the next, which has more to do."""


@dataclass(frozen=True)
class Schedules:
    conninfo: str
    schedules: Sequence[Schedule]

    async def run(self) -> None:
        """For ever."""
        while True:
            async with tolerate_outages("schedules"), hold_leader_lock(self.conninfo, LOCK) as lock:
                log.info("leading schedules")
                await self._lead(lock)
            await asyncio.sleep(LOOK_S)

    async def _lead(self, lock: AsyncConnection) -> None:
        """Until the lock's connection breaks, which raises psycopg.OperationalError."""
        sweeping = [asyncio.create_task(_keep(schedule), name=schedule.name) for schedule in self.schedules]
        try:
            while True:
                await lock.execute("SELECT")
                await asyncio.sleep(LOOK_S)
        finally:
            for task in sweeping:
                task.cancel()
            await asyncio.gather(*sweeping, return_exceptions=True)


async def _keep(schedule: Schedule) -> None:
    while True:
        did = False
        try:
            async with tolerate_outages(schedule.name):
                did = bool(await schedule.sweep())
        except Exception:
            log.exception("a schedule failed", schedule=schedule.name)  # the others go on, and so does it
        await asyncio.sleep(schedule.soon_s if did and schedule.soon_s is not None else schedule.every_s)
