"""Runs reactions to events: follows the log, stores which reactions are due, and runs each of them as a separate job.

Each kind of reaction has a position in the log, up to which events were read for it. The transaction that moves this
position also stores the due reactions. So no due reaction is lost, and none is stored twice. Jobs in Redis tell the
workers what to run. If Redis is down or has lost jobs, a periodic sweep runs the due reactions a few seconds later.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from psycopg_pool import AsyncConnectionPool
from redis.exceptions import RedisError

from domain.core.events import Recorded
from domain.reactions import REACTION
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.cancellation import Tasks, cancel_and_wait
from store.postgres.notifications import Listener
from store.tables import log_positions, reactions
from store.tables.alarms import set_alarm
from store.tables.reactions import Due
from workers.loops.outages import tolerate_outages
from workers.reactions.job_queue import JobQueue, watch
from workers.reactions.reaction import QUEUES, QUEUES_WITH_TURNS, Queue, Reaction, Tools
from workers.reactions.tries import RENEWAL_INTERVAL_S, TryRunner
from workers.reactions.turns import Turns, choose_first

log = structlog.get_logger()

ALARM = "redis"
BATCH_SIZE = 500
"""Number of events that are read at once."""
SLOTS = 20
"""Largest number of reactions of one queue that run in a process at the same time."""
STATUS_SLOTS = 60
"""Largest number of reactions for commit statuses that run in a process at the same time. It exceeds SLOTS because a
slow host may occupy 10 slots (`host_calls`), and other hosts must still get some.
"""
SWEEP_INTERVAL_S = 5.0
"""Seconds between two sweeps. If Redis does not answer, a reaction runs at most this much later."""
SWEEP_SIZE = 500
"""Largest number of due reactions of one queue that a sweep handles."""
OVERDUE_S = 30.0
"""Seconds after which a sweep runs a due reaction itself, although the reaction has a job: the worker that took the job
may have died.
"""
DEBOUNCE_S = 0.1
"""Shortest time in seconds between two reads of the log, so that a burst of events costs few reads."""
REDIS_TIMEOUT_S = 1.0
"""Timeout of calls to Redis in seconds, so that a Redis that hangs does not delay reading the log."""


class Noted(NamedTuple):
    """A batch of events that was read for a reaction."""

    due: list[Due]
    """Tries to queue now."""
    is_full: bool
    """Whether another batch may follow."""


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
        overdue_s: float = OVERDUE_S,
        redis_timeout_s: float = REDIS_TIMEOUT_S,
        renewal_interval_s: float = RENEWAL_INTERVAL_S,
        min_skip: int = log_positions.MIN_SKIP,
    ) -> None:
        self._pool = pool
        self._log = event_log
        self._reactions = {reaction.name: reaction for reaction in registered}
        self._tools = tools
        self._tries = TryRunner(pool, event_log, tools, renewal_interval_s)
        self._sweep_interval_s = sweep_interval_s
        self._overdue_s = overdue_s
        self._min_skip = min_skip
        self._queues: dict[Queue, JobQueue] = {
            queue: JobQueue(
                tools.secrets.claim("reactions", queue),
                redis_url,
                self._run_as_job,
                slots=_slots(queue),
                redis_timeout_s=redis_timeout_s,
            )
            for queue in QUEUES
        }
        self._running = {queue: set[asyncio.Task[None]]() for queue in QUEUES}
        self._turns = {queue: Turns() for queue in QUEUES_WITH_TURNS}
        self._cursor = LogCursor(
            event_log,
            listener,
            sorted({reaction.event.name for reaction in registered}),
            poll_interval_s=sweep_interval_s,
            debounce_s=DEBOUNCE_S,
        )
        self._alarm: str | None = ""
        """Message of the alarm that this process has set; None after it has ended the alarm; empty before it has done
        either.
        """

    async def run(self) -> None:
        """Finds and runs due reactions until cancelled. Any number of dispatchers may run."""
        tasks = Tasks()
        tasks.start(self._cursor.follow(self._note_due), self._keep_sweeping())
        tasks.start(*(queue.work() for queue in self._queues.values()), watch(list(self._queues.values())))
        try:
            await tasks.run()
        finally:
            await cancel_and_wait(*(task for running in self._running.values() for task in running))
            for queue in self._queues.values():
                await queue.disconnect()

    async def sweep(self) -> list[asyncio.Task[None]]:
        """Adds a job to the queues for each due reaction. Starts overdue reactions in this process, without waiting for
        their jobs; if Redis does not answer, starts all due reactions. Starts at most as many as there are free slots.
        Returns the tasks that it started.
        """
        started: list[asyncio.Task[None]] = []
        # One statement for all queues, which are empty most of the time.
        has_due = await reactions.find_names_of_due(self._pool)
        for queue, jobs in self._queues.items():
            names = [name for name in self._list_names(queue) if name in has_due]
            if not names:
                continue
            due = await reactions.fetch_due(self._pool, names, SWEEP_SIZE)
            if due and await jobs.enqueue(due):
                due = await reactions.fetch_due(self._pool, names, SWEEP_SIZE, late_s=self._overdue_s)
            room = max(0, _slots(queue) - len(self._running[queue]))
            started += [self._start(one) for one in due[:room]]
        return started

    async def note_next(self, reaction: Reaction) -> Noted | None:
        """Reads the next batch of events after the reaction's position, and stores for each event that the reaction is
        due. Leaves out events for which the reaction has nothing to do, and events for which an operator has cancelled
        the reaction. Returns None if there is no event after the position.
        """
        async with self._pool.connection() as connection, connection.transaction():
            position = await log_positions.lock_position(connection, reaction.name)
            if position is None:
                return None  # the table was lost, and has just been made again
            batch = await self._log.read_batch(position, BATCH_SIZE, [reaction.event.name])
            found = await self._select(reaction, batch.events)
            if found:
                cancelled = await self._log.load_state(REACTION.at(reaction.name))
                found = {position: project_id for position, project_id in found.items() if position not in cancelled}
                await reactions.add_due(connection, reaction.name, found)
            if batch.events:
                await log_positions.move_position(connection, reaction.name, batch.position)
        due = [Due(reaction.name, position, 1) for position in choose_first(found)]
        return Noted(due, batch.is_full) if batch.events else None

    async def _select(self, reaction: Reaction, events: Sequence[Recorded]) -> dict[int, int | None]:
        """Returns position -> project, for the events for which the reaction has something to do. The project is None
        if the reaction takes no turns. If these events cannot be selected, for example because a project's stream is
        damaged, returns the positions of all events; then the tries report the error.
        """
        if reaction.select is not None and events:
            try:
                events = await reaction.select(events, self._tools)
            except Exception as error:
                log.warning("all events are reacted to", reaction=reaction.name, error=repr(error))
        takes_turns = reaction.queue in self._turns
        return {one.position: getattr(one.event, "project_id", None) if takes_turns else None for one in events}

    async def _note_due(self) -> None:
        async with tolerate_outages("reactions"):
            async with self._pool.connection() as connection:
                await log_positions.ensure_positions(connection, list(self._reactions), at_head=True)
                await log_positions.hold_beyond(connection, list(self._reactions))
            events = {reaction.name: reaction.event.name for reaction in self._reactions.values()}
            names = await log_positions.find_behind(self._pool, events, self._min_skip)
            behind = [self._reactions[name] for name in names]
            while behind:
                behind = [reaction for reaction in behind if await self._note(reaction)]

    async def _note(self, reaction: Reaction) -> bool:
        """Stores and queues the reactions that the next batch of events makes due. Returns whether another batch may
        follow.
        """
        noted = await self.note_next(reaction)
        if noted is None:
            return False
        if noted.due:
            await self._queues[reaction.queue].enqueue(noted.due)
        return noted.is_full

    async def _keep_sweeping(self) -> None:
        while True:
            async with tolerate_outages("due reactions"):
                await self.sweep()
                await self._check_redis()
            await asyncio.sleep(self._sweep_interval_s)

    async def _check_redis(self) -> None:
        """Sets an alarm if Redis does not answer. Ends the alarm if Redis answers."""
        message = None
        try:
            await self._queues[QUEUES[0]].ping()  # all queues are in one Redis
        except (RedisError, OSError) as error:
            late_s = self._sweep_interval_s
            message = f"Redis does not answer ({type(error).__name__}): reactions run up to {late_s:.0f} s later"
        if message != self._alarm:
            await set_alarm(self._pool, ALARM, message)
            self._alarm = message

    async def _run_as_job(self, due: Due) -> None:
        if due.reaction in self._reactions:  # another release, which may run at the same time, has other reactions
            # If Redis goes away, arq cancels its jobs. The reaction goes on.
            await asyncio.shield(self._start(due))

    def _start(self, due: Due) -> asyncio.Task[None]:
        reaction = self._reactions[due.reaction]
        running = self._running[reaction.queue]
        turns = self._turns.get(reaction.queue)
        task = asyncio.create_task(self._tries.run(reaction, due) if turns is None else self._take_turn(turns, due))
        running.add(task)
        task.add_done_callback(running.discard)
        return task

    async def _take_turn(self, turns: Turns, due: Due) -> None:
        """Makes a try of a reaction, and then queues the next tries for the same project. Does nothing if all turns of
        the project are taken: the try stays due, and is queued when a turn ends.
        """
        reaction = self._reactions[due.reaction]
        async with tolerate_outages("due reactions"):
            project_id = await reactions.find_project(self._pool, due)
            if project_id is None:
                await self._tries.run(reaction, due)
                return
            with turns.take(project_id) as is_taken:
                if not is_taken:
                    return
                await self._tries.run(reaction, due)
            upcoming = await reactions.fetch_next_of_project(self._pool, self._list_names(reaction.queue), project_id)
            if upcoming and not await self._queues[reaction.queue].enqueue(upcoming):
                for one in upcoming:
                    self._start(one)

    def _list_names(self, queue: Queue) -> list[str]:
        """Returns the names of the reactions in a queue."""
        return [reaction.name for reaction in self._reactions.values() if reaction.queue == queue]


def _slots(queue: Queue) -> int:
    return STATUS_SLOTS if queue == "statuses" else SLOTS
