"""Measures how fast due reactions run, with many slow reactions and some quick ones: `./dev bench reactions`.

Two dispatchers share 500 reactions that take a second each. Meanwhile events are appended whose reaction takes no time
and has a separate queue. Latency is the time from the call that appends an event to the start of its reaction.

Then a dispatcher catches up with the builds of a generated history (bench/history/company.py), whose projects have no
SCM endpoint: its reactions for commit statuses have nothing to do.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from psycopg_pool import AsyncConnectionPool
from tests.support.engines import temporary_engines

from bench.history.write import write_history
from bench.support.report import Report, percentile
from commands.handler import CommandContext, Handler
from commands.jobs import CreateJob, DeleteJob
from commands.projects import CreateProject
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted
from integrations.blobs import open_blobs
from store.clock import utcnow
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, Listener
from store.tables import log_positions, reactions
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.adapters import make_outgoing, source_hosts
from testhide.preparation import migrate
from testhide.processes import core
from testhide.settings import Settings
from workers.reactions.reaction import Reaction, Tools
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS
from workers.reactions.statuses import BuildStates

SLOW, SLOW_S = 500, 1.0
QUICK_INTERVAL_S = 0.05
FIRST_QUICK = 100_000
"""Id of the first job whose `job.created` has a quick reaction."""
END_S = 10.0
"""Seconds after the last run until which all reactions must be marked as done."""
HISTORY_EVENTS = 20_000
STATUSES = [reaction for reaction in REACTIONS if reaction.queue == "statuses"]
CALLER = CommandContext("system:bench")


async def measure(settings: Settings, report: Report) -> None:
    begun: dict[int, float] = {}
    runs: Counter[int] = Counter()
    """Id of a job -> how often a reaction to its creation or deletion ran."""
    slow_ended = set[int]()
    all_ended = asyncio.Event()

    async def slow(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        runs[event.job_id] += 1
        await asyncio.sleep(SLOW_S)
        slow_ended.add(event.job_id)
        if len(slow_ended) == SLOW:
            all_ended.set()

    async def quick(event: Event, tools: Tools) -> None:
        assert isinstance(event, JobCreated)
        runs[event.job_id] += 1
        begun.setdefault(event.job_id, time.perf_counter())

    registered = (
        Reaction("slow", JobDeleted, slow, "deletions", 60),
        Reaction("quick", JobCreated, quick, "mails", 60),
    )
    async with core(settings) as parts:
        handler = Handler(parts.log, utcnow)
        await handler.execute(CreateProject(1, "Bench", 1, (("bench", "slug-1"),), b""), CALLER)
        for job_id in range(1, SLOW + 1):
            await handler.execute(CreateJob(job_id, 1, f"Job {job_id}"), CALLER)
        listener = Listener(parts.conninfo, EVENTS)
        await listener.start()
        blobs = open_blobs(Path(settings.data_dir).as_uri())
        tools = Tools(BuildLogs(parts.pool), SharedCaches(parts.pool), blobs, parts.log, parts.secrets)
        running = [
            asyncio.create_task(
                ReactionDispatcher(parts.pool, parts.log, listener, settings.redis_url, registered, tools).run()
            )
            for _ in range(2)
        ]
        while len(await reactions.fetch_statuses(parts.pool)) < len(registered):
            await asyncio.sleep(0.05)  # between two looks
        appended: dict[int, float] = {}
        start = time.perf_counter()
        await asyncio.gather(*(handler.execute(DeleteJob(job_id), CALLER) for job_id in range(1, SLOW + 1)))
        while not all_ended.is_set():
            job_id = FIRST_QUICK + len(appended)
            appended[job_id] = time.perf_counter()
            await handler.execute(CreateJob(job_id, 1, f"Job {job_id}"), CALLER)
            await asyncio.sleep(QUICK_INTERVAL_S)
        seconds = time.perf_counter() - start
        while len(begun) < len(appended):
            await asyncio.sleep(0.05)  # between two looks
        until = time.perf_counter() + END_S
        while (left := await _count_left(parts.pool)) and time.perf_counter() < until:
            await asyncio.sleep(0.05)  # between two looks
        await cancel_and_wait(*running)
        await listener.close()
    latencies = [begun[job_id] - at for job_id, at in appended.items()]
    report.add(f"{SLOW} slow reactions, all ended after", seconds, "s", at_most=30)
    report.add("quick reactions beside them", len(latencies))
    report.add("latency of a quick one, p50", percentile(latencies, 50) * 1_000, "ms")
    report.add("latency of a quick one, p99", percentile(latencies, 99) * 1_000, "ms", at_most=200)
    report.add("reactions lost", SLOW + len(appended) - len(runs), at_most=0)
    report.add("reactions run twice", runs.total() - len(runs), at_most=0)
    report.add("reactions due or parked at the end", left, at_most=0)


async def measure_idle(settings: Settings, report: Report) -> None:
    """Measures how fast reactions that have nothing to do catch up with the log."""
    async with core(settings) as parts, make_outgoing(settings) as outgoing:
        async with parts.pool.connection() as connection:
            for reaction in STATUSES:
                await log_positions.move_position(connection, reaction.name, await parts.log.read_head())
        written = write_history(
            settings.database_url, parts.secrets, events=HISTORY_EVENTS, results=HISTORY_EVENTS, seed=1
        )
        tools = Tools(
            BuildLogs(parts.pool),
            SharedCaches(parts.pool),
            open_blobs(Path(settings.data_dir).as_uri()),
            parts.log,
            parts.secrets,
            source_hosts=source_hosts(settings, outgoing, parts.secrets),
            build_states=BuildStates(parts.log, parts.pool, _is_reached),
        )
        listener = Listener(parts.conninfo, EVENTS)
        await listener.start()
        begun, cpu = time.perf_counter(), time.process_time()
        dispatcher = ReactionDispatcher(parts.pool, parts.log, listener, settings.redis_url, STATUSES, tools)
        running = asyncio.create_task(dispatcher.run())
        while not await _has_caught_up(parts.pool, written.last):
            await asyncio.sleep(0.05)  # between two looks
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        await cancel_and_wait(running)
        await listener.close()
    events = sum(written.types[reaction.event.name] for reaction in STATUSES)
    report.add("events without anything to do", events, "events")
    report.add("reactions without anything to do", events / seconds, "events/s", at_least=1_000)
    report.add("CPU time of one", cpu / events * 1_000_000, "us")


async def _count_left(pool: AsyncConnectionPool) -> int:
    return sum(status.due + status.parked for status in await reactions.fetch_statuses(pool))


async def _is_reached(position: int) -> bool:
    return True


async def _has_caught_up(pool: AsyncConnectionPool, last: int) -> bool:
    statuses = await reactions.fetch_statuses(pool)
    names = {reaction.name for reaction in STATUSES}
    return all(
        not one.due and (one.position or 0) >= last - log_positions.MIN_SKIP for one in statuses if one.name in names
    )


def main() -> int:
    argparse.ArgumentParser(description="Measure how fast due reactions run, with slow ones beside.").parse_args()
    report = Report("reactions")
    with temporary_engines() as engines, tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            database_url=engines.database_url, redis_url=engines.redis_url, secret_key=b"s" * 32, data_dir=folder
        )
        migrate(settings)
        asyncio.run(measure(settings, report))
        asyncio.run(measure_idle(settings, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
