"""Schedules run in one of all workers, whatever becomes of it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import psycopg

from store.postgres.cancellation import cancel_and_wait
from store.postgres.leader_lock import Leader, fetch_leaders, hold_leader_lock
from testhide.processes import Core
from workers.loops.periodic import Schedule, Schedules

NOW_AND_THEN_S = 0.02


class Counted:
    """A schedule that counts how often it ran, by worker."""

    def __init__(self) -> None:
        self.swept: list[int] = []
        self.changed = asyncio.Condition()

    def of(self, worker: int) -> Schedule:
        async def sweep() -> None:
            async with self.changed:
                self.swept.append(worker)
                self.changed.notify_all()

        return Schedule("counted", sweep, NOW_AND_THEN_S)

    async def wait_for(self, worker: int, times: int = 3) -> None:
        """That it runs so many times more."""
        wanted = self.swept.count(worker) + times
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.swept.count(worker) >= wanted)


@contextlib.asynccontextmanager
async def running(parts: Core, *schedules: Schedule) -> AsyncIterator[None]:
    task = asyncio.create_task(Schedules(parts.conninfo, schedules, lock_check_interval_s=0.05).run())
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def test_one_of_many_runs_them_and_the_next_follows(parts: Core) -> None:
    counted = Counted()
    async with running(parts, counted.of(1)):
        await counted.wait_for(1)
        next_one = asyncio.create_task(Schedules(parts.conninfo, [counted.of(2)]).run())
        await counted.wait_for(1, times=30)
        assert set(counted.swept) == {1}
    await counted.wait_for(2)
    assert counted.swept == sorted(counted.swept)
    await cancel_and_wait(next_one)


async def test_one_that_fails_holds_up_no_other(parts: Core) -> None:
    counted, fails = Counted(), 0

    async def fail() -> None:
        nonlocal fails
        fails += 1
        raise (ValueError if fails % 2 else psycopg.OperationalError)

    async with running(parts, Schedule("failing", fail, NOW_AND_THEN_S), counted.of(1)):
        await counted.wait_for(1, times=20)
    assert fails > 2


async def test_who_has_more_to_do_does_not_wait(parts: Core) -> None:
    left = [3, 2, 1, 0]
    over = asyncio.Event()

    async def sweep() -> int:
        if len(left) == 1:
            over.set()
        return left.pop(0)

    async with running(parts, Schedule("long", sweep, 3600, NOW_AND_THEN_S)), asyncio.timeout(20):
        await over.wait()


async def test_a_leader_that_loses_its_connection_leads_again(parts: Core) -> None:
    counted = Counted()
    async with running(parts, counted.of(1)):
        await counted.wait_for(1)
        async with parts.pool.connection() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
                " AND pid <> pg_backend_pid()"
            )
        await counted.wait_for(1, times=10)


async def test_standbys_hold_no_snapshot(parts: Core) -> None:
    """It would keep every vacuum from taking away what was deleted."""
    counted = Counted()
    async with running(parts, counted.of(1)):
        await counted.wait_for(1)
        async with running(parts, counted.of(2)), parts.pool.connection() as connection:
            await counted.wait_for(1, times=30)
            holds = (
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL"
                " AND pid <> pg_backend_pid()"
            )
            async with asyncio.timeout(10):
                # One that waits would hold it all the time; one that just asks, for a moment.
                while await (await connection.execute(holds)).fetchall():
                    continue


async def test_how_long_a_leader_has_done_nothing(parts: Core) -> None:
    async with parts.pool.connection() as connection:

        async def leaders() -> dict[str, Leader]:
            await connection.execute("SELECT pg_sleep(0.2)")
            return await fetch_leaders(connection, ["leader of the tests", "nobody's"])

        assert await leaders() == {}
        async with hold_leader_lock(parts.conninfo, "leader of the tests") as lock:
            ((name, (idle_s, process)),) = (await leaders()).items()
            assert (name, idle_s >= 0.2) == ("leader of the tests", True)
            assert process == f"testhide process {os.getpid()} on {socket.gethostname()}"[:63]
            await lock.execute("SELECT")
            assert (await leaders())[name].idle_s < idle_s + 0.2
