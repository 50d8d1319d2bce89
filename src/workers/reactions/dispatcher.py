"""From the log to the workers: the relay notes which reactions are due, arq wakes who runs them, the sweeper finds
what was missed.

A due reaction (name and position) is written in the transaction that moves the reaction's own position, so none is
lost and none is noted twice. Redis only carries wake-ups: while it is away or after it was wiped the sweeper still
runs everything, a few seconds later.
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
from store.postgres.notifications import Listener
from store.tables import log_positions, reactions
from store.tables.reactions import MAX_TRIES, Due
from workers.loops.outages import tolerate_outages
from workers.reactions.registry import Reaction, Tools

log = structlog.get_logger()

BATCH_SIZE = 500
"""Events."""
LEASE_SIZE = 20
"""Reactions that one worker leases together."""
SWEEP_INTERVAL_S = 5.0
DEBOUNCE_S = 0.1
"""Between two reads of the log, so that a burst of events costs few."""
WAKE = "run_due_reactions"
WAKE_S = 1.0
"""Redis has so long to take a wake-up; one that hangs must not hold up the log."""
LONGEST_ERROR = 1_000


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
        min_skip: int = log_positions.MIN_SKIP,
    ) -> None:
        self._pool = pool
        self._log = event_log
        # Connects when it is used, and again after every loss.
        self._connections = ConnectionPool.from_url(redis_url, socket_connect_timeout=1)
        self._redis = ArqRedis(self._connections)
        self._reactions = {reaction.name: reaction for reaction in registered}
        self._tools = tools
        self._sweep_interval_s = sweep_interval_s
        self._min_skip = min_skip
        self._cursor = LogCursor(
            event_log,
            listener,
            sorted({reaction.event.name for reaction in registered}),
            poll_interval_s=sweep_interval_s,
            debounce_s=DEBOUNCE_S,
        )
        self._has_positions = False

    async def run(self) -> None:
        """Runs until it is cancelled. Any number of these may run at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._cursor.follow(self._note_due))
                tasks.create_task(self._sweep())
                tasks.create_task(self._work())
        finally:
            await self._connections.disconnect()

    async def run_due(self) -> int:
        """Runs what is due now; answers how many reactions were run."""
        ran = 0
        while leased := await self._lease():
            for due in leased:
                await self._run_one(due)
                ran += 1
        return ran

    async def note_next(self, reaction: Reaction) -> bool:
        """Reads one batch for a reaction; returns whether an event became due."""
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
        with contextlib.suppress(RedisError, OSError):  # the sweeper does without; a TimeoutError is an OSError
            async with asyncio.timeout(WAKE_S):
                await self._redis.enqueue_job(WAKE)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            async with tolerate_outages("due reactions"):
                await self.run_due()

    async def _work(self) -> None:
        """arq's worker, which exits when Redis goes away: it is started again."""

        async def wake(ctx: dict[str, object]) -> None:
            async with tolerate_outages("due reactions"):
                await self.run_due()

        while True:
            worker = Worker([func(wake, name=WAKE)], redis_pool=self._redis, handle_signals=False, max_tries=1)
            try:
                await worker.async_run()
            except (RedisError, OSError) as error:
                log.warning("redis is away, sweeping meanwhile", error=str(error))
            finally:
                with contextlib.suppress(RedisError, OSError):
                    async with asyncio.timeout(WAKE_S):
                        await worker.close()
            await asyncio.sleep(1.0)

    async def _lease(self) -> list[Due]:
        """Only of reactions that this release knows: another one may run beside it."""
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
                await reactions.mark_failed(connection, due, repr(error)[:LONGEST_ERROR])
            return
        async with self._pool.connection() as connection:
            await reactions.mark_done(connection, due)
