"""Runs reactions to events: follows the log, stores which reactions are due, and runs them.

Each reaction has a position in the log. The transaction that moves it also stores the due reactions, so none is lost or
stored twice. A job in Redis (arq) only wakes the workers. If Redis is down or has lost its data, a periodic sweep runs
the due reactions a few seconds later.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog
from arq import ArqRedis
from arq.worker import Worker, func
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from domain.core.events import readable
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.cancellation import Tasks
from store.postgres.notifications import Listener
from store.tables import log_positions, reactions
from store.tables.alarms import set_alarm
from store.tables.reactions import MAX_TRIES, Due
from workers.loops.outages import tolerate_outages
from workers.reactions.registry import Reaction, Tools

log = structlog.get_logger()

ALARM = "redis"
BATCH_SIZE = 500
"""Events read at once."""
LEASE_SIZE = 20
"""Reactions that one worker leases at once, so that others have some to run too."""
SWEEP_INTERVAL_S = 5.0
"""Time between sweeps: a reaction runs this much later at most when Redis is away."""
DEBOUNCE_S = 0.1
"""Shortest time between two reads of the log, so that a burst of events costs few reads."""
WAKE_JOB = "run_due_reactions"
REDIS_TIMEOUT_S = 1.0
"""Timeout of calls to Redis, so that a Redis that hangs does not delay reading the log."""
RESTART_DELAY_S = 1.0
"""Time between the end of arq's worker and its next start."""
MAX_ERROR_LENGTH = 1_000
"""Characters of an error that are stored."""


class ReactionDispatcher:
    def __init__(
        self,
        pool: AsyncConnectionPool,
        event_log: EventLog,
        listener: Listener,
        redis_url: str,
        registered: Sequence[Reaction],
        tools: Tools,
        *,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        redis_timeout_s: float = REDIS_TIMEOUT_S,
        min_skip: int = log_positions.MIN_SKIP,
    ) -> None:
        self._pool = pool
        self._log = event_log
        # Connects on use, and again after every loss.
        self._connections = ConnectionPool.from_url(redis_url, socket_connect_timeout=1)
        self._redis = ArqRedis(self._connections)
        self._reactions = {reaction.name: reaction for reaction in registered}
        self._tools = tools
        self._sweep_interval_s = sweep_interval_s
        self._redis_timeout_s = redis_timeout_s
        self._min_skip = min_skip
        self._cursor = LogCursor(
            event_log,
            listener,
            sorted({reaction.event.name for reaction in registered}),
            poll_interval_s=sweep_interval_s,
            debounce_s=DEBOUNCE_S,
        )
        self._has_positions = False
        self._alarm: str | None = ""
        """The alarm that this process set last; None when it ended the alarm, empty before it did either."""

    async def run(self) -> None:
        """Finds and runs due reactions until cancelled. Any number of dispatchers may run."""
        tasks = Tasks()
        tasks.start(self._cursor.follow(self._note_due), self._sweep(), self._work())
        try:
            await tasks.run()
        finally:
            await self._connections.disconnect()

    async def run_due(self) -> int:
        """Runs reactions until none is due. Returns the number of those that ran, including those that failed."""
        ran = 0
        while leased := await self._lease():
            # At once, so that a mail server that does not answer holds up no other reaction beyond its lease.
            await asyncio.gather(*map(self._run_one, leased))
            ran += len(leased)
        return ran

    async def note_next(self, reaction: Reaction) -> bool:
        """Reads the log from the reaction's position on, and stores that the reaction is due for each event found.
        Returns False if it found none.
        """
        async with self._pool.connection() as connection, connection.transaction():
            position = await log_positions.lock_position(connection, reaction.name)
            assert position is not None, "ensured before"
            batch = await self._log.read_batch(position, BATCH_SIZE, [reaction.event.name])
            if batch.events:
                await reactions.add_due(connection, reaction.name, [event.position for event in batch.events])
            if batch.events or batch.position - position > self._min_skip:
                await log_positions.move_position(connection, reaction.name, batch.position)
        return bool(batch.events)

    async def _note_due(self) -> None:
        async with tolerate_outages("reactions"):
            if not self._has_positions:
                async with self._pool.connection() as connection:
                    await log_positions.ensure_positions(connection, list(self._reactions), at_head=True)
                self._has_positions = True
            while any([await self.note_next(reaction) for reaction in self._reactions.values()]):
                await self._wake()

    async def _wake(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # the sweep runs them later; a TimeoutError is an OSError
            async with asyncio.timeout(self._redis_timeout_s):
                await self._redis.enqueue_job(WAKE_JOB)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            async with tolerate_outages("due reactions"):
                await self.run_due()
                await self._check_redis()

    async def _check_redis(self) -> None:
        """Sets an alarm if Redis does not answer. Ends the alarm if Redis answers."""
        message = None
        try:
            async with asyncio.timeout(self._redis_timeout_s):
                await self._redis.ping()
        except (RedisError, OSError) as error:
            late_s = self._sweep_interval_s
            message = f"Redis does not answer ({type(error).__name__}): reactions run up to {late_s:.0f} s later"
        if message != self._alarm:
            await set_alarm(self._pool, ALARM, message)
            self._alarm = message

    async def _work(self) -> None:
        """Runs an arq worker, which wakes this process. Starts another one whenever it ends, as it does when Redis goes
        down.
        """

        async def wake(ctx: dict[str, object]) -> None:
            async with tolerate_outages("due reactions"):
                await self.run_due()

        while True:
            worker = Worker([func(wake, name=WAKE_JOB)], redis_pool=self._redis, handle_signals=False, max_tries=1)
            try:
                await worker.async_run()
            except (RedisError, OSError) as error:
                log.warning("redis is away: reactions run by sweeps", error=str(error))
            finally:
                with contextlib.suppress(RedisError, OSError):
                    async with asyncio.timeout(self._redis_timeout_s):
                        await worker.close()
            await asyncio.sleep(RESTART_DELAY_S)

    async def _lease(self) -> list[Due]:
        """Leases the next due reactions. Skips reactions that only another release has, which may run at the same
        time.
        """
        async with self._pool.connection() as connection:
            return await reactions.lease_due(connection, list(self._reactions), LEASE_SIZE)

    async def _run_one(self, due: Due) -> None:
        try:
            (recorded,) = readable(await self._log.read_at([due.position]))
            await self._reactions[due.reaction].run(recorded.event, self._tools)
        except Exception as error:
            parked = due.tries >= MAX_TRIES
            log.error("reaction parked" if parked else "reaction failed", **due._asdict(), error=repr(error))
            async with self._pool.connection() as connection:
                await reactions.mark_failed(connection, due, repr(error)[:MAX_ERROR_LENGTH])
            return
        async with self._pool.connection() as connection:
            await reactions.mark_done(connection, due)
