"""Jobs in Redis run reactions soon; without Redis the sweeps run them."""

import asyncio

import pytest
from redis.asyncio import Redis

from domain.core.events import Event
from domain.jobs import JobDeleted
from store.postgres.cancellation import cancel_and_wait
from store.tables.reactions import Due
from testhide.engines import Engines
from tests.workers.yard import NO_REDIS, Yard, reaction, reads
from workers.reactions.job_queue import JobQueue
from workers.reactions.reaction import Tools
from workers.reactions.reaction_dispatcher import SLOTS


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_deleted_jobs_logs_and_blobs_go(yard: Yard, engines: Engines) -> None:
    async def only_the_other_is_left() -> bool:
        return await yard.left() == {6} and not await yard.due()

    async with yard.running(yard.relay(engines.redis_url)):
        await yard.delete_job(5)
        await yard.until(only_the_other_is_left)


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_redis_that_is_away_is_an_alarm_until_it_answers(yard: Yard, engines: Engines) -> None:
    alarm = ("Redis does not answer (ConnectionError): reactions run up to 0 s later",)
    for url, alarms in ((NO_REDIS, [alarm]), (engines.redis_url, [])):
        async with yard.running(yard.relay(url, sweep_interval_s=0.2)):
            await yard.until(lambda alarms=alarms: reads(yard.alarms, alarms))  # type: ignore[misc]


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
                await yard.until(lambda left=left: reads(yard.left, left))  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_slow_ones_hold_up_no_others_while_there_is_room(yard: Yard, engines: Engines) -> None:
    ended = asyncio.Event()
    quick: set[int] = set()

    async def runs(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        if event.job_id < 100:
            await ended.wait()
        else:
            quick.add(event.job_id)

    async def done() -> set[int]:
        return quick

    jobs = [*range(10, 10 + SLOTS - 1), 100, 101]
    for job_id in jobs:
        await yard.make_job(job_id)
    async with yard.running(yard.relay(engines.redis_url, (reaction("tested", runs),))):
        for job_id in jobs:
            await yard.delete_job(job_id)
        await yard.until(lambda: reads(done, {100, 101}))
        ended.set()
        await yard.until(lambda: reads(yard.due, []))


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_tries_are_queued_while_a_worker_ends(engines: Engines) -> None:
    async def run(due: Due) -> None:
        pass

    jobs = JobQueue("deletions", engines.redis_url, run, slots=1, redis_timeout_s=5)
    for number in range(20):
        working = asyncio.create_task(jobs.work())
        queueing = [asyncio.create_task(jobs.enqueue([Due("tested", number, tries)])) for tries in range(20)]
        await queueing[0]
        await cancel_and_wait(working)
        assert await asyncio.gather(*queueing) == [True] * 20
    await jobs.disconnect()


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_a_wiped_redis_loses_nothing(yard: Yard, engines: Engines) -> None:
    async with (
        Redis.from_url(engines.redis_url) as redis,
        yard.running(yard.relay(engines.redis_url, sweep_interval_s=0.2)),
    ):
        for job_id, left in ((5, {6}), (6, set[int]())):
            await yard.delete_job(job_id)
            await redis.flushall()
            await yard.until(lambda left=left: reads(yard.left, left))  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
async def test_servers_that_share_a_redis_take_no_jobs_of_each_other(engines: Engines) -> None:
    done: list[tuple[str, Due]] = []
    is_held, is_done = asyncio.Event(), asyncio.Event()

    def make_queue(server: str) -> JobQueue:
        async def run(due: Due) -> None:
            is_held.set()
            if server == "that ends":
                await asyncio.Event().wait()
            done.append((server, due))
            is_done.set()

        return JobQueue(f"{server}-deletions", engines.redis_url, run, slots=5, redis_timeout_s=5)

    ending, other, ours = make_queue("that ends"), make_queue("other"), make_queue("own")
    due = Due("tested", 1, 1)
    async with asyncio.timeout(20):
        ended = asyncio.create_task(ending.work())
        assert await ending.enqueue([due])
        await is_held.wait()  # Redis says now that the job is in progress, and goes on saying so after a kill
        working = [asyncio.create_task(queue.work()) for queue in (other, ours)]
        assert await ours.enqueue([due])
        await is_done.wait()
    assert done == [("own", due)]
    await cancel_and_wait(ended, *working)
    for queue in (ending, other, ours):
        await queue.disconnect()
