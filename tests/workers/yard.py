"""Jobs with logs and artifacts, whose deletions cause reactions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commands.handler import CommandContext, Handler
from commands.jobs import CreateJob, DeleteJob
from domain.artifacts import blob_key
from domain.jobs import JobDeleted
from integrations.blobs import open_blobs
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, Listener
from store.tables.build_logs import BuildLogs, Line
from store.tables.reactions import DEFAULT_RETRIES, RetryPolicy
from store.tables.shared_caches import SharedCaches
from testhide.processes import Core
from workers.reactions.reaction import Queue, Reaction, Tools
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS

Run = Callable[[Any, Tools], Awaitable[None]]

ANN = CommandContext("user:1")
NO_REDIS = "redis://127.0.0.1:1"


class Yard:
    """Jobs with a build log and a blob each."""

    def __init__(self, parts: Core, folder: Path) -> None:
        self.parts = parts
        self.handler = Handler(parts.log, lambda: datetime(2026, 5, 20, tzinfo=UTC))
        self.tools = Tools(
            BuildLogs(parts.pool), SharedCaches(parts.pool), open_blobs(folder.as_uri()), parts.log, parts.secrets
        )
        self.listener = Listener(parts.conninfo, EVENTS)
        self.folder = folder
        self.jobs: list[int] = []

    async def make_job(self, job_id: int, project_id: int = 1) -> None:
        await self.handler.execute(CreateJob(job_id, project_id, "Smoke"), ANN)
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

    async def note(self, relay: ReactionDispatcher, *job_ids: int) -> None:
        """Deletes the jobs, and notes what is due from that."""
        async with self.parts.pool.connection() as connection:
            for name in relay._reactions:
                await connection.execute("INSERT INTO reaction_positions VALUES (%s, 0)", (name,))
        for job_id in job_ids:
            await self.delete_job(job_id)
        for registered in relay._reactions.values():
            assert await relay.note_next(registered)
            assert not await relay.note_next(registered), "each event once"

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
        await self.until(self.follows)
        yield
        await cancel_and_wait(task)
        await self.listener.close()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0.02)  # between two looks at what no notification tells

    async def follows(self) -> bool:
        return bool(await self._query("SELECT FROM reaction_positions"))

    async def _query(self, text: str) -> Sequence[tuple[Any, ...]]:
        async with self.parts.pool.connection() as connection:
            return await (await connection.execute(text.encode())).fetchall()


def reaction(
    name: str, run: Run, queue: Queue = "deletions", time_limit_s: float = 60, retries: RetryPolicy = DEFAULT_RETRIES
) -> Reaction:
    return Reaction(name, JobDeleted, run, queue, time_limit_s, retries)


async def reads(look: Callable[[], Awaitable[object]], wanted: object) -> bool:
    return await look() == wanted


async def run_due(dispatcher: ReactionDispatcher) -> int:
    """Makes tries until none is due. Returns their number."""
    made = 0
    while started := await dispatcher.sweep():
        await asyncio.wait(started)
        made += len(started)
    return made
