"""Reactions: noted with the log's position, run at least once, with and without Redis."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier
from structlog.testing import capture_logs

from domain.core.errors import StreamDamaged
from domain.core.events import Event, Recorded
from domain.jobs import JobDeleted
from store.migrations.lost_tables import make_again
from store.tables.log_positions import HELD, find_beyond
from store.tables.reactions import MIN_LEASE_S
from tests.support.builders import Shop
from tests.support.damage import damaged
from tests.support.server import Server
from tests.workers.yard import Yard, reaction, reads, run_due
from workers.reactions.reaction import Tools

LOGGED_OUTAGES = {f"{loop}: waiting for the database" for loop in ("reactions", "due reactions")}
FAR = 10**9


async def ignore(event: Event, tools: Tools) -> None:
    pass


async def test_without_redis_the_sweeper_does_it(yard: Yard) -> None:
    async def only_the_other_is_left() -> bool:
        return await yard.left() == {6} and not await yard.due()

    async with yard.running(yard.relay(sweep_interval_s=0.2)):
        await yard.delete_job(5)
        await yard.until(only_the_other_is_left)


async def test_what_is_due_runs_when_a_worker_starts(yard: Yard) -> None:
    async def is_noted() -> bool:
        return bool(await yard.due())

    async with yard.running(yard.relay(sweep_interval_s=1_000)):
        await yard.delete_job(5)
        await yard.until(is_noted)
    async with yard.running(yard.relay(sweep_interval_s=1_000)):
        await yard.until(lambda: reads(yard.left, {6}))


async def test_a_new_reaction_starts_now(yard: Yard) -> None:
    """A replay of the past deletes nothing."""
    await yard.delete_job(5)
    relay = yard.relay(sweep_interval_s=0.2)
    async with yard.running(relay):
        await yard.delete_job(6)
        await yard.until(lambda: reads(yard.left, {5}))


async def test_what_happens_seldom_is_not_looked_for_from_where_it_last_was(yard: Yard) -> None:
    async with yard.running(yard.relay(sweep_interval_s=0.2, min_skip=5)):
        begun = await yard.slowest()
        for job_id in range(10, 17):
            await yard.make_job(job_id)

        async def have_passed() -> bool:
            return await yard.slowest() > begun

        await yard.until(have_passed)
        await yard.delete_job(10)
        await yard.until(lambda: reads(yard.left, {5, 6, *range(11, 17)}))


async def test_a_reaction_beyond_the_log_stands_still_when_the_log_has_grown_past_it(yard: Yard) -> None:
    async with yard.running(yard.relay(sweep_interval_s=0.2)):
        beyond = await yard.parts.log.read_head() + 1
        async with yard.parts.pool.connection() as connection:
            await connection.execute("UPDATE reaction_positions SET position = %s", (beyond,))
        await yard.until(lambda: reads(yard.slowest, HELD))
        for job_id in (5, 6):
            await yard.delete_job(job_id)
    async with yard.parts.pool.connection() as connection:
        assert set((await find_beyond(connection)).values()) == {"its position was beyond the end of the log"}
    assert await yard.left() == {5, 6}


async def test_reactions_go_on_once_their_lost_table_is_made_again(yard: Yard) -> None:
    async with yard.running(yard.relay(sweep_interval_s=0.2)):
        async with yard.parts.pool.connection() as connection, connection.transaction():
            await connection.execute("DROP TABLE reaction_positions")
            await make_again(connection)
        await yard.until(yard.follows)
        await yard.delete_job(5)
        await yard.until(lambda: reads(yard.left, {6}))


async def test_what_fails_is_tried_again_and_says_why(yard: Yard) -> None:
    calls: list[int] = []

    async def fails_at_first(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        calls.append(event.job_id)
        if calls.count(5) == 1 and event.job_id == 5:
            raise OSError("the disk is full")

    relay = yard.relay(reactions=(reaction("tested", fails_at_first),))
    await yard.note(relay, 5, 6)
    assert await run_due(relay) == 2
    assert await yard.due() == [("tested", 1, "OSError('the disk is full')")]
    assert await run_due(relay) == 0, "not before its pause is over"
    await yard.make_due()
    assert await run_due(relay) == 1
    assert await yard.due() == []
    assert (sorted(calls), calls[-1]) == ([5, 5, 6], 5)


async def test_an_event_that_cannot_be_read_waits_as_what_fails_does(yard: Yard) -> None:
    calls: list[int] = []

    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        calls.append(event.job_id)

    relay = yard.relay(reactions=(reaction("tested", runs),))
    await yard.note(relay, 5, 6)
    position = (await yard.deletions())[0]
    with damaged(yard.parts.conninfo, position):
        assert await run_due(relay) == 2
        ((_, _, error),) = await yard.due()
        assert f"job-5 cannot be used: its event at position {position} cannot be read" in str(error)
    await yard.make_due()
    assert await run_due(relay) == 1
    assert calls == [6, 5]


async def test_an_event_for_which_nothing_is_to_do_is_never_due(yard: Yard) -> None:
    async def select(events: Sequence[Recorded], tools: Tools) -> list[Recorded]:
        return [recorded for recorded in events if recorded.stream != "job-5"]

    relay = yard.relay(reactions=(dataclasses.replace(reaction("tested", ignore), select=select),))
    await yard.note(relay, 5, 6)
    assert await yard.due() == [("tested", 0, None)]


async def test_all_events_are_due_when_none_can_be_selected(yard: Yard) -> None:
    async def select(events: Sequence[Recorded], tools: Tools) -> list[Recorded]:
        raise StreamDamaged("project-1 cannot be used")

    relay = yard.relay(reactions=(dataclasses.replace(reaction("tested", ignore), select=select),))
    await yard.note(relay, 5, 6)
    assert await yard.due() == [("tested", 0, None)] * 2


async def test_who_dies_while_it_runs_leaves_it_due(yard: Yard) -> None:
    async def dies(event: Event, tools: Tools) -> None:
        raise asyncio.CancelledError

    await yard.note(yard.relay(reactions=(reaction("tested", dies),)), 5)
    assert await run_due(yard.relay(reactions=(reaction("tested", dies),))) == 1
    assert await yard.due() == [("tested", 1, None)]
    await yard.make_due()
    ran: list[Event] = []

    async def runs(event: Event, tools: Tools) -> None:
        ran.append(event)

    assert await run_due(yard.relay(reactions=(reaction("tested", runs),))) == 1
    assert [type(event) for event in ran] == [JobDeleted]


async def test_several_workers_share_what_is_due(yard: Yard) -> None:
    ran: list[int] = []

    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        ran.append(event.job_id)
        await asyncio.sleep(0)

    for job_id in range(10, 40):
        await yard.make_job(job_id)
    reactions = (reaction("tested", runs),)
    await yard.note(yard.relay(reactions=reactions), *range(10, 40))
    await asyncio.gather(*(run_due(yard.relay(reactions=reactions)) for _ in range(3)))
    assert sorted(ran) == list(range(10, 40))


async def test_what_another_release_reacts_to_is_left_to_it(yard: Yard) -> None:
    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)

    await yard.note(yard.relay(reactions=(reaction("newer", runs),)), 5)
    assert await run_due(yard.relay()) == 0
    assert await yard.due() == [("newer", 0, None)]


async def test_it_outlives_the_databases_connections(yard: Yard) -> None:
    relay = yard.relay(sweep_interval_s=0.05)
    async with yard.running(relay):
        with capture_logs() as reported:
            async with away(yard.parts.conninfo):
                relay._cursor.notify()
                async with asyncio.timeout(20):
                    while not {line["event"] for line in reported} >= LOGGED_OUTAGES:
                        await asyncio.sleep(0.02)  # between two looks
        await yard.delete_job(5)
        await yard.until(lambda: reads(yard.left, {6}))


@contextlib.asynccontextmanager
async def away(conninfo: str) -> AsyncIterator[None]:
    """The database, for as long as the block runs: all connections to it break, and none is made."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    allow = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    elsewhere = make_conninfo(conninfo, dbname="postgres")
    async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as connection:
        await connection.execute(allow.format(Identifier(name), SQL("false")))
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            yield
        finally:
            await connection.execute(allow.format(Identifier(name), SQL("true")))


def test_a_killed_worker_is_made_up_for(server: Server) -> None:
    """`work` dies at once after jobs were deleted, again and again: in the end nothing of them is left."""
    shop = Shop(server)
    jobs = [shop.new_job() for _ in range(4)]
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:

        def left() -> int:
            query = "SELECT count(*) FROM build_log_chunks WHERE job_id = ANY (%s)"
            row = connection.execute(query, (jobs,)).fetchone()
            assert row is not None
            return int(row[0])

        def wait(done: Callable[[], bool]) -> None:
            deadline = time.monotonic() + MIN_LEASE_S + 30  # a worker may die with a lease
            while not done():
                assert time.monotonic() < deadline
                time.sleep(0.05)  # between two looks

        for job in jobs:
            connection.execute("INSERT INTO build_log_chunks VALUES (%s, 1, 0, 1, '', %s, '', 0)", (FAR + job, job))
        server.start("work")
        wait(lambda: connection.execute("SELECT FROM reaction_positions").fetchone() is not None)
        try:
            for job in jobs:
                shop.admin.delete(f"/api/v3/jobs/{job}").raise_for_status()
                server.kill("work")
                server.start("work")
            wait(lambda: left() == 0)
        finally:
            server.kill("work")
