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

from store.listen import EVENTS, Listener
from store.log import EventLog
from workers.reactions import Reaction, Tools

log = structlog.get_logger()

BATCH = 500
LEASED_AT_ONCE = 20
SWEEP_S = 5.0
REST_S = 0.1
"""From news to the look at them: many events cost one look."""
FIRST_PAUSE_S = 5
MAX_TRIES = 20
WAKE = "run_due_reactions"


class Relay:
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
        self._news = asyncio.Event()

    async def run(self) -> None:
        """For ever. Any number of these may run at once."""
        with self._listener.subscribed(EVENTS, lambda payload: self._news.set()):
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
        while due := await self._lease():
            for name, position, tries in due:
                await self._run_one(name, position, tries)
                ran += 1
        return ran

    async def _follow(self) -> None:
        for name in self._reactions:
            async with self._pool.connection() as connection:
                await connection.execute(
                    "INSERT INTO reaction_positions SELECT %s, coalesce(max(notification_id), 0) FROM stored_events"
                    " ON CONFLICT DO NOTHING",
                    (name,),
                )
        while True:
            self._news.clear()
            if any([await self._note(reaction) for reaction in self._reactions.values()]):
                await self._wake()
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), SWEEP_S)
                await asyncio.sleep(REST_S)

    async def _note(self, reaction: Reaction) -> bool:
        """Moves a reaction along the log; whether something became due."""
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT position FROM reaction_positions WHERE reaction = %s FOR UPDATE", (reaction.name,)
            )
            row = await cursor.fetchone()
            assert row is not None, "its row was made at the start"
            events = await self._log.read(row[0], BATCH, [reaction.event.name])
            if not events:
                return False
            await connection.cursor().executemany(
                "INSERT INTO due_reactions (reaction, position) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                [(reaction.name, event.position) for event in events],
            )
            await connection.execute(
                "UPDATE reaction_positions SET position = %s WHERE reaction = %s",
                (events[-1].position, reaction.name),
            )
        return True

    async def _wake(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # the sweeper does without
            await self._redis.enqueue_job(WAKE)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.run_due()

    async def _work(self) -> None:
        """arq's worker, which exits when Redis goes away: it is started again."""

        async def wake(ctx: dict[str, object]) -> int:
            return await self.run_due()

        while True:
            worker = Worker([func(wake, name=WAKE)], redis_pool=self._redis, handle_signals=False, max_tries=1)
            try:
                await worker.async_run()
            except (RedisError, OSError) as error:
                log.warning("redis is away, sweeping meanwhile", error=str(error))
            finally:
                with contextlib.suppress(RedisError, OSError):
                    await worker.close()
            await asyncio.sleep(1.0)

    async def _lease(self) -> list[tuple[str, int, int]]:
        """Due reactions, put off so that no one else runs them meanwhile; a crash makes them due again."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "UPDATE due_reactions d SET tries = d.tries + 1,"
                " due_at = now() + make_interval(secs => %s * power(2, least(d.tries, 10)))"
                " FROM (SELECT reaction, position FROM due_reactions WHERE due_at <= now() AND tries < %s"
                "  ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED) l"
                " WHERE d.reaction = l.reaction AND d.position = l.position RETURNING d.reaction, d.position, d.tries",
                (FIRST_PAUSE_S, MAX_TRIES, LEASED_AT_ONCE),
            )
            return await cursor.fetchall()

    async def _run_one(self, name: str, position: int, tries: int) -> None:
        events = await self._log.read(position - 1, 1)
        try:
            await self._reactions[name].run(events[0].event, self._tools)
        except Exception as error:
            # Stays due with a growing pause; after MAX_TRIES it is parked where it is, with its error.
            log.error("reaction failed", reaction=name, position=position, tries=tries, error=repr(error))
            query = "UPDATE due_reactions SET error = %s WHERE reaction = %s AND position = %s"
            await self._execute(query, (repr(error), name, position))
            return
        await self._execute("DELETE FROM due_reactions WHERE reaction = %s AND position = %s", (name, position))

    async def _execute(self, query: str, parameters: tuple[object, ...]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(query.encode(), parameters)
