"""A queue of jobs in Redis (arq). A job runs one try of a due reaction, on whichever worker has room for it.

PostgreSQL stores which reactions are due and which worker runs them. A job only names a try: if another worker has made
this try already, the job does nothing. So jobs may be lost or run twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog
from arq import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from arq.worker import Function, Worker, func
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from store.postgres.cancellation import cancel_and_wait, outlast, wait_for
from store.tables.reactions import Due

log = structlog.get_logger()

JOB = "run_reaction"
WATCH_INTERVAL_S = 0.5
"""Seconds between two looks for jobs that other processes have added. Such a job starts at most this much later."""
BUSY_POLL_INTERVAL_S = 0.05
"""Seconds between two polls by a process that runs jobs of the queue, and may soon have room for others."""
JOB_TIMEOUT_S = 86_400
"""Time limit of arq, in seconds. It is longer than the time limit of every reaction, so it never takes effect."""
RESTART_DELAY_S = 1.0
"""Seconds from the end of arq's worker to the start of the next one."""


class JobQueue:
    """The queue called `name`. A job of the queue calls `run`, which makes a try. This process makes at most `slots`
    tries at the same time.

    Servers may share one Redis, so the name must be one that no other server has.
    """

    def __init__(
        self, name: str, redis_url: str, run: Callable[[Due], Awaitable[None]], *, slots: int, redis_timeout_s: float
    ) -> None:
        self._name, self._url, self._timeout_s = name, redis_url, redis_timeout_s
        self.redis = self._open()
        self._run = run
        self._slots = slots
        self._added = asyncio.Event()

    async def enqueue(self, tries: Iterable[Due]) -> bool:
        """Adds a job for each try that has none. Returns False if Redis does not answer."""
        queue, now = self.redis.default_queue_name, timestamp_ms()
        try:
            # One round trip for all, whereas arq's `enqueue_job` takes four for each.
            async with self.redis.pipeline(transaction=False) as pipe:
                for due in tries:
                    # With the queue, since arq remembers by the id alone which jobs are in progress.
                    job_id = ":".join(map(str, (self._name, *due)))
                    job = serialize_job(JOB, tuple(due), {}, None, now, serializer=msgspec.msgpack.encode)
                    pipe.set(f"{job_key_prefix}{job_id}", job, px=self.redis.expires_extra_ms, nx=True)
                    pipe.zadd(queue, {job_id: now}, nx=True)
                await pipe.execute()
        except (RedisError, OSError):
            return False
        self._added.set()
        return True

    async def work(self) -> None:
        """Runs an arq worker until cancelled. Starts another one whenever it ends, as it does when Redis goes down."""

        async def run(ctx: dict[str, object], reaction: str, position: int, number: int) -> None:
            await self._run(Due(reaction, position, number))

        while True:
            # A worker of arq closes all connections of its client when it ends, also those that are in use.
            redis = self._open()
            worker = PromptWorker(
                self._added,
                [func(run, name=JOB, timeout=JOB_TIMEOUT_S, keep_result=0, max_tries=1)],
                queue_name=redis.default_queue_name,
                redis_pool=redis,
                job_serializer=msgspec.msgpack.encode,
                job_deserializer=msgspec.msgpack.decode,
                max_jobs=self._slots,
                handle_signals=False,
            )
            try:
                await worker.async_run()
            except (RedisError, OSError) as error:
                log.warning("redis is away: reactions run by sweeps", error=str(error))
            finally:
                await outlast(asyncio.create_task(_close(worker, redis)))
            await asyncio.sleep(RESTART_DELAY_S)

    def notify(self) -> None:
        """Lets the worker of this queue look for jobs."""
        self._added.set()

    async def ping(self) -> None:
        """Raises RedisError or OSError if Redis does not answer."""
        await self.redis.ping()

    async def disconnect(self) -> None:
        await self.redis.aclose(close_connection_pool=True)

    def _open(self) -> ArqRedis:
        """Returns a client with connections of its own. It connects when it is first used, and again whenever the
        connection was lost.
        """
        connections = ConnectionPool.from_url(
            self._url, socket_connect_timeout=self._timeout_s, socket_timeout=self._timeout_s
        )
        # The default of arq is pickle, with which somebody who can write to Redis could run code here.
        return ArqRedis(
            connections,
            job_serializer=msgspec.msgpack.encode,
            job_deserializer=msgspec.msgpack.decode,
            default_queue_name=f"testhide:{self._name}",
        )


async def watch(queues: Sequence[JobQueue]) -> None:
    """Notifies the queues while one of them has jobs. Also notifies them while Redis does not answer, so that their
    workers notice the outage. Runs for ever.

    One command looks at all queues. If each worker polled its own, that would take a good part of the CPU time of an
    idle `testhide work`.
    """
    redis = queues[0].redis
    names = [queue.redis.default_queue_name for queue in queues]
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        try:
            is_idle = not await redis.exists(*names)
        except (RedisError, OSError):
            is_idle = False
        if not is_idle:
            for queue in queues:
                queue.notify()


class PromptWorker(Worker):
    """A worker of arq that polls the queue when it is notified, and often while it has jobs under way."""

    def __init__(self, added: asyncio.Event, functions: Sequence[Function], **options: Any) -> None:
        super().__init__(functions, **options)
        self._added = added

    async def main(self) -> None:
        while True:
            self._added.clear()
            await self._poll_iteration()
            if self.tasks:
                await wait_for(self._added, BUSY_POLL_INTERVAL_S)
            else:
                await self._added.wait()


async def _close(worker: Worker, redis: ArqRedis) -> None:
    """Ends the worker's jobs and closes its connections, as far as Redis answers."""
    worker.allow_pick_jobs = False
    await cancel_and_wait(*worker.job_tasks.values())
    # Lets arq record the end of each job: cancelling that would leave connections open.
    await outlast(*worker.tasks.values())
    with contextlib.suppress(RedisError, OSError):
        await worker.close()
    await redis.aclose(close_connection_pool=True)
