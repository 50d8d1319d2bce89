"""Reactions: noted with the log's position, run at least once, with and without Redis."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier
from redis.asyncio import Redis
from structlog.testing import capture_logs

from commands.handler import CommandContext, Handler
from commands.jobs import CreateJob, DeleteJob
from commands.projects import CreateProject
from domain.artifacts import blob_key
from domain.core.events import Event
from domain.jobs import JobDeleted
from integrations.blobs import open_blobs
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, Listener
from store.tables import reactions as due_reactions
from store.tables.build_logs import BuildLogs, Line
from store.tables.reactions import MAX_TRIES, ReactionStatus
from testhide.engines import Engines
from testhide.processes import Core
from tests.support.builders import Shop
from tests.support.damage import damaged
from tests.support.server import Server
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS, Reaction, Tools

ANN = CommandContext("user:1")
LOGGED_OUTAGES = {f"{loop}: waiting for the database" for loop in ("reactions", "due reactions")}
NO_REDIS = "redis://127.0.0.1:1"
FAR = 10**9


class Yard:
    """Jobs with a build log and a blob each."""

    def __init__(self, parts: Core, folder: Path) -> None:
        self.parts = parts
        self.handler = Handler(parts.log, lambda: datetime(2026, 5, 20, tzinfo=UTC))
        self.tools = Tools(BuildLogs(parts.pool), open_blobs(folder.as_uri()), parts.log, parts.secrets)
        self.listener = Listener(parts.conninfo, EVENTS)
        self.folder = folder
        self.jobs: list[int] = []

    async def make_job(self, job_id: int) -> None:
        await self.handler.execute(CreateJob(job_id, 1, "Smoke"), ANN)
        self.jobs.append(job_id)
        await self.tools.build_logs.append(job_id, job_id * 10, 1, 0, [Line(0, "said")])
        blob = self.folder / blob_key(job_id, 1, 1)
        blob.parent.mkdir(parents=True)
        blob.write_text("<testsuite/>")

    async def delete_job(self, job_id: int) -> None:
        await self.handler.execute(DeleteJob(job_id), ANN)

    async def left(self) -> set[int]:
        """Jobs that still have a log or a blob."""
        cursor = await self._query("SELECT DISTINCT job_id FROM build_log_chunks")
        blobs = {job_id for job_id in self.jobs if (self.folder / blob_key(job_id, 1, 1)).exists()}
        return blobs | {job_id for (job_id,) in cursor}

    async def due(self) -> Sequence[tuple[object, ...]]:
        return await self._query("SELECT reaction, tries, error FROM due_reactions ORDER BY position")

    async def alarms(self) -> Sequence[tuple[object, ...]]:
        return await self._query("SELECT message FROM alarms")

    async def deletions(self) -> list[int]:
        return [recorded.position for recorded in await self.parts.log.read(0, 1_000, [JobDeleted.name])]

    async def slowest(self) -> int:
        """Up to where all reactions have looked through the log."""
        ((position,),) = await self._query("SELECT min(position) FROM reaction_positions")
        return int(position)

    async def make_due(self) -> None:
        async with self.parts.pool.connection() as connection:
            await connection.execute("UPDATE due_reactions SET due_at = now()")

    def relay(
        self, redis_url: str = NO_REDIS, reactions: Sequence[Reaction] = REACTIONS, **options: Any
    ) -> ReactionDispatcher:
        return ReactionDispatcher(
            self.parts.pool, self.parts.log, self.listener, redis_url, reactions, self.tools, **options
        )

    @contextlib.asynccontextmanager
    async def running(self, relay: ReactionDispatcher) -> AsyncIterator[None]:
        """Until the block is left; it follows the log from its beginning on."""
        await self.listener.start()
        task = asyncio.create_task(relay.run())
        await self.until(self._follows)
        yield
        await cancel_and_wait(task)
        await self.listener.close()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0.02)  # between two looks at what no notification tells

    async def _follows(self) -> bool:
        return bool(await self._query("SELECT FROM reaction_positions"))

    async def _query(self, text: str) -> Sequence[tuple[Any, ...]]:
        async with self.parts.pool.connection() as connection:
            return await (await connection.execute(text.encode())).fetchall()


@pytest.fixture
async def yard(parts: Core, tmp_path: Path) -> Yard:
    yard = Yard(parts, tmp_path)
    await yard.handler.execute(CreateProject(1, "Web", 1, (("web", "slug-1"),), b""), ANN)
    for job_id in (5, 6):
        await yard.make_job(job_id)
    return yard


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_deleted_jobs_logs_and_blobs_go(yard: Yard, engines: Engines) -> None:
    async def only_the_other_is_left() -> bool:
        return await yard.left() == {6} and not await yard.due()

    async with yard.running(yard.relay(engines.redis_url)):
        await yard.delete_job(5)
        await yard.until(only_the_other_is_left)


async def test_without_redis_the_sweeper_does_it(yard: Yard) -> None:
    async def only_the_other_is_left() -> bool:
        return await yard.left() == {6} and not await yard.due()

    async with yard.running(yard.relay(sweep_interval_s=0.2)):
        await yard.delete_job(5)
        await yard.until(only_the_other_is_left)


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_redis_that_is_away_is_an_alarm_until_it_answers(yard: Yard, engines: Engines) -> None:
    alarm = ("Redis does not answer (ConnectionError): reactions run up to 0 s later",)
    for url, alarms in ((NO_REDIS, [alarm]), (engines.redis_url, [])):
        async with yard.running(yard.relay(url, sweep_interval_s=0.2)):
            await yard.until(lambda alarms=alarms: _is(yard.alarms, alarms))  # type: ignore[misc]


async def test_a_new_reaction_starts_now(yard: Yard) -> None:
    """A replay of the past deletes nothing."""
    await yard.delete_job(5)
    relay = yard.relay(sweep_interval_s=0.2)
    async with yard.running(relay):
        await yard.delete_job(6)
        await yard.until(lambda: _is(yard.left, {5}))


async def test_what_happens_seldom_is_not_looked_for_from_where_it_last_was(yard: Yard) -> None:
    async with yard.running(yard.relay(sweep_interval_s=0.2, min_skip=5)):
        begun = await yard.slowest()
        for job_id in range(10, 17):
            await yard.make_job(job_id)

        async def have_passed() -> bool:
            return await yard.slowest() > begun

        await yard.until(have_passed)
        await yard.delete_job(10)
        await yard.until(lambda: _is(yard.left, {5, 6, *range(11, 17)}))


async def _is(look: Callable[[], Awaitable[object]], wanted: object) -> bool:
    return await look() == wanted


async def test_what_fails_is_tried_again_and_says_why(yard: Yard) -> None:
    calls: list[int] = []

    async def fails_at_first(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        calls.append(event.job_id)
        if calls.count(5) == 1 and event.job_id == 5:
            raise OSError("the disk is full")

    relay = yard.relay(reactions=(Reaction("tested", JobDeleted, fails_at_first),))
    await _note(yard, relay, 5, 6)
    assert await relay.run_due() == 2
    assert await yard.due() == [("tested", 1, "OSError('the disk is full')")]
    assert await relay.run_due() == 0, "not before its pause is over"
    await yard.make_due()
    assert await relay.run_due() == 1
    assert await yard.due() == []
    assert (sorted(calls), calls[-1]) == ([5, 5, 6], 5)


async def test_an_event_that_cannot_be_read_waits_as_what_fails_does(yard: Yard) -> None:
    calls: list[int] = []

    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        calls.append(event.job_id)

    relay = yard.relay(reactions=(Reaction("tested", JobDeleted, runs),))
    await _note(yard, relay, 5, 6)
    position = (await yard.deletions())[0]
    with damaged(yard.parts.conninfo, position):
        assert await relay.run_due() == 2
        ((_, _, error),) = await yard.due()
        assert f"job-5 cannot be used: its event at position {position} cannot be read" in str(error)
    await yard.make_due()
    assert await relay.run_due() == 1
    assert calls == [6, 5]


async def test_who_dies_while_it_runs_leaves_it_due(yard: Yard) -> None:
    async def dies(event: Event, tools: Tools) -> None:
        raise asyncio.CancelledError

    await _note(yard, yard.relay(reactions=(Reaction("tested", JobDeleted, dies),)), 5)
    with pytest.raises(asyncio.CancelledError):
        await yard.relay(reactions=(Reaction("tested", JobDeleted, dies),)).run_due()
    await yard.make_due()
    ran: list[Event] = []

    async def runs(event: Event, tools: Tools) -> None:
        ran.append(event)

    assert await yard.relay(reactions=(Reaction("tested", JobDeleted, runs),)).run_due() == 1
    assert [type(event) for event in ran] == [JobDeleted]


async def test_several_workers_share_what_is_due(yard: Yard) -> None:
    ran: list[int] = []

    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        ran.append(event.job_id)
        await asyncio.sleep(0)

    for job_id in range(10, 40):
        await yard.make_job(job_id)
    reactions = (Reaction("tested", JobDeleted, runs),)
    await _note(yard, yard.relay(reactions=reactions), *range(10, 40))
    await asyncio.gather(*(yard.relay(reactions=reactions).run_due() for _ in range(3)))
    assert sorted(ran) == list(range(10, 40))


async def test_it_is_parked_after_many_tries(yard: Yard) -> None:
    async def fails(event: Event, tools: Tools) -> None:
        raise ValueError

    relay = yard.relay(reactions=(Reaction("tested", JobDeleted, fails),))
    await _note(yard, relay, 5)
    for _ in range(MAX_TRIES + 3):
        await yard.make_due()
        await relay.run_due()
    assert await yard.due() == [("tested", MAX_TRIES, "ValueError()")]


async def test_what_is_parked_is_shown_and_tried_again(yard: Yard) -> None:
    working = False

    async def fails(event: Event, tools: Tools) -> None:
        if not working:
            raise OSError("no route to the blobs")

    relay = yard.relay(reactions=(Reaction("tested", JobDeleted, fails),))
    await _note(yard, relay, 5, 6)
    async with yard.parts.pool.connection() as connection:
        assert not await due_reactions.has_parked(connection)
        for _ in range(MAX_TRIES):
            await yard.make_due()
            await relay.run_due()
        assert await due_reactions.has_parked(connection)
        errors = [f"position {position}: OSError('no route to the blobs')" for position in await yard.deletions()]
        status = ReactionStatus("tested", await yard.parts.log.read_head(), 0, 2, errors)
        assert await due_reactions.fetch_statuses(connection) == [status]
        working = True
        assert await due_reactions.retry_parked(connection, "other") == 0
        assert await due_reactions.retry_parked(connection, "tested") == 2
        assert await relay.run_due() == 2
        assert not await due_reactions.has_parked(connection)


async def test_what_another_release_reacts_to_is_left_to_it(yard: Yard) -> None:
    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)

    await _note(yard, yard.relay(reactions=(Reaction("newer", JobDeleted, runs),)), 5)
    assert await yard.relay().run_due() == 0
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
        await yard.until(lambda: _is(yard.left, {6}))


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_redis_that_hangs_holds_nothing_up(yard: Yard) -> None:

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as hanging:
        url = f"redis://127.0.0.1:{hanging.sockets[0].getsockname()[1]}"
        async with yard.running(yard.relay(url, sweep_interval_s=0.2, redis_timeout_s=0.2)):
            for job_id, left in ((5, {6}), (6, set[int]())):
                await yard.delete_job(job_id)
                await yard.until(lambda left=left: _is(yard.left, left))  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_wiped_redis_loses_nothing(yard: Yard, engines: Engines) -> None:
    async with (
        Redis.from_url(engines.redis_url) as redis,
        yard.running(yard.relay(engines.redis_url, sweep_interval_s=0.2)),
    ):
        for job_id, left in ((5, {6}), (6, set[int]())):
            await yard.delete_job(job_id)
            await redis.flushall()
            await yard.until(lambda left=left: _is(yard.left, left))  # type: ignore[misc]


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


async def _note(yard: Yard, relay: ReactionDispatcher, *job_ids: int) -> None:
    """Deletes the jobs, and notes what is due from that."""
    async with yard.parts.pool.connection() as connection:
        for name in relay._reactions:
            await connection.execute("INSERT INTO reaction_positions VALUES (%s, 0)", (name,))
    for job_id in job_ids:
        await yard.delete_job(job_id)
    for reaction in relay._reactions.values():
        assert await relay.note_next(reaction)
        assert not await relay.note_next(reaction), "each event once"


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
            deadline = time.monotonic() + 30
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
