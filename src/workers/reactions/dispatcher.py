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
from store.log.event_log import EventLog
from store.postgres.notifications import Listener, wait_for
from store.tables import reactions as due_reactions
from store.tables.reactions import FAR, MAX_TRIES, Due
from workers.loops.outages import patient
from workers.reactions.registry import Reaction, Tools

log = structlog.get_logger()

BATCH = 500
LEASED_AT_ONCE = 20
SWEEP_S = 5.0
REST_S = 0.1
"""From news to the look at them: many events cost one look."""
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
        reactions: Sequence[Reaction],
        tools: Tools,
    ) -> None:
        self._pool = pool
        self._log = event_log
        self._listener = listener
        # Connects when it is used, and again after every loss.
        self._connections = ConnectionPool.from_url(redis_url, socket_connect_timeout=1)
        self._redis = ArqRedis(self._connections)
        self._reactions = {reaction.name: reaction for reaction in reactions}
        self._tools = tools
        self._names = {reaction.event.name for reaction in reactions}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """For ever. Any number of these may run at once."""
        with self._listener.woken(self._news, self._names):
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow())
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

    async def _follow(self) -> None:
        begun = False
        while True:
            self._news.clear()
            async with patient("reactions"):
                if not begun:
                    async with self._pool.connection() as connection:
                        await due_reactions.begin(connection, list(self._reactions))
                    begun = True
                if any([await self._note(reaction) for reaction in self._reactions.values()]):
                    await self._wake()
                    continue
            if await wait_for(self._news, SWEEP_S):
                await asyncio.sleep(REST_S)

    async def _note(self, reaction: Reaction) -> bool:
        """Moves a reaction along the log; whether something became due."""
        head = await self._log.head()
        async with self._pool.connection() as connection, connection.transaction():
            reached = await due_reactions.reached(connection, reaction.name)
            events = await self._log.read(reached, BATCH, [reaction.event.name])
            if events:
                await due_reactions.note(connection, reaction.name, [event.position for event in events])
            elif head - reached > FAR:
                await due_reactions.move(connection, reaction.name, head)
        return bool(events)

    async def _wake(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # the sweeper does without; a TimeoutError is an OSError
            async with asyncio.timeout(WAKE_S):
                await self._redis.enqueue_job(WAKE)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            async with patient("due reactions"):
                await self.run_due()

    async def _work(self) -> None:
        """arq's worker, which exits when Redis goes away: it is started again."""

        async def wake(ctx: dict[str, object]) -> None:
            async with patient("due reactions"):
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
            return await due_reactions.lease(connection, list(self._reactions), LEASED_AT_ONCE)

    async def _run_one(self, due: Due) -> None:
        try:
            (recorded,) = readable(await self._log.at([due.position]))
            await self._reactions[due.reaction].run(recorded.event, self._tools)
        except Exception as error:
            parked = due.tries >= MAX_TRIES
            log.error("reaction parked" if parked else "reaction failed", **due._asdict(), error=repr(error))
            async with self._pool.connection() as connection:
                await due_reactions.failed(connection, due, repr(error)[:LONGEST_ERROR])
            return
        async with self._pool.connection() as connection:
            await due_reactions.done(connection, due)
