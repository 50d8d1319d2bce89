"""Delivers: leases what is due, sends it, notes how it went.

At least once: what a process had begun that dies is due again, as soon as the lock is free that it held while it lived;
the end of the lease is for those that hang. In order within a lane; an endpoint has so many under way at once and no
more, so a slow one holds up nobody else. One that fails many times in a row is left alone for a while, then tried with
one delivery; when that arrives all that waited follows.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import uuid4

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from commands.teams import GiveCardUp, NoteChannelHealth
from commands.webhooks import GiveDeliveryUp, NoteWebhookHealth
from domain.core.errors import Rejection
from domain.deliveries import Kind, Outcome
from store.postgres.batch_loader import BatchLoader
from store.postgres.leader_lock import hold_leader_lock
from store.postgres.notifications import Listener, wait_for
from store.tables import deliveries, delivery_upkeep
from store.tables.deliveries import WEBHOOKS, Ended, Leased
from workers.loops.outages import patient

log = structlog.get_logger()

RETRY_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
"""From a failed attempt to the next; after the last one it is given up."""
JITTER = 0.1
"""A pause is longer by up to this part of it."""
TOO_LATE = timedelta(hours=30)
"""What could not be tried for so long is given up."""
KEPT = timedelta(days=30)
"""History and ended deliveries."""
LEASE_S = 60
"""Longer than any attempt takes."""
EACH = 16
"""Under way at once to one endpoint, by one process."""
AT_ONCE = 1_000
LOOK_AGAIN_S = 1.0
REST_S = 0.005
"""From news to the look at them: many deliveries cost one look."""
UPKEEP_S = 60.0
UPKEEP_ROWS = 1_000
CALLER = CommandContext("system:deliveries")


class Sender(Protocol):
    """Sends to the endpoints of one kind."""

    async def send(self, leased: Leased) -> Outcome:
        """One attempt, whose failure is an outcome. Raises what keeps the message from being made."""
        ...


class Notices(NamedTuple):
    """What is said of endpoints of one kind."""

    health: type[NoteWebhookHealth | NoteChannelHealth]
    given_up: type[GiveDeliveryUp | GiveCardUp]


NOTICES: Mapping[Kind, Notices] = {
    "webhook": Notices(NoteWebhookHealth, GiveDeliveryUp),
    "teams": Notices(NoteChannelHealth, GiveCardUp),
}


class Deliveries:
    def __init__(
        self,
        conninfo: str,
        pool: AsyncConnectionPool,
        handler: Handler,
        senders: Mapping[Kind, Sender],
        listener: Listener,
        clock: Callable[[], datetime],
    ) -> None:
        self._conninfo = conninfo
        self._pool = pool
        self._handler = handler
        self._senders = senders
        self._listener = listener
        self._clock = clock
        self._ending = BatchLoader(pool, deliveries.end)
        self._worker: str | None = None
        """The name of the lock that shows others that this process lives, a new one for each connection."""
        self._news = asyncio.Event()
        self._to_say = asyncio.Event()
        self._running: Counter[int] = Counter()
        """How many are under way, by endpoint."""
        self._full: set[int] = set()
        """Endpoints that may have more due than could be leased."""

    async def run(self) -> None:
        """For ever. Any number of these may run at once."""
        with self._listener.subscribed(WEBHOOKS, lambda payload: self._news.set()):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._live())
                tasks.create_task(self._send(tasks))
                tasks.create_task(self._say())
                tasks.create_task(self._keep_up())

    async def run_due(self) -> int:
        """Delivers what is due now, and what becomes due by that; how many attempts that took."""
        attempts = 0
        while leased := await self._lease():
            await asyncio.gather(*(self._deliver(one) for one in leased))
            attempts += len(leased)
        await self.say()
        return attempts

    async def _live(self) -> None:
        """Shows others that this process lives, and looks whether they do."""
        while True:
            async with patient("the lock of deliveries"):
                await self._hold(f"deliveries-{uuid4().hex}")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _hold(self, worker: str) -> None:
        async with hold_leader_lock(self._conninfo, worker) as lock:
            self._worker = worker
            self._news.set()
            try:
                while True:
                    if await delivery_upkeep.take_back(lock, worker, self._clock()):
                        self._news.set()
                    await asyncio.sleep(LOOK_AGAIN_S)
            finally:
                self._worker = None

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._news.clear()
            if self._worker is not None:
                async with patient("deliveries"):
                    for leased in await self._lease():
                        tasks.create_task(self._deliver_patiently(leased))
            if await wait_for(self._news, LOOK_AGAIN_S):
                await asyncio.sleep(REST_S)

    async def _lease(self) -> list[Leased]:
        now, running = self._clock(), +self._running
        async with self._pool.connection() as connection:
            leased = await deliveries.lease(
                connection,
                now,
                now + timedelta(seconds=LEASE_S),
                dict(running),
                by=self._worker,
                each=EACH,
                limit=AT_ONCE - running.total(),
            )
        more = Counter(one.endpoint_id for one in leased)
        self._running += more
        self._full = {endpoint_id for endpoint_id, count in (running + more).items() if count >= EACH}
        return leased

    async def _deliver_patiently(self, leased: Leased) -> None:
        async with patient("a delivery"):
            await self._deliver(leased)

    async def _deliver(self, leased: Leased) -> None:
        try:
            outcome = await self._attempt(leased)
            more = await self._ending(_ended(leased, outcome, self._clock()))
        finally:
            self._running[leased.endpoint_id] -= 1
        if more or leased.endpoint_id in self._full:
            self._news.set()
        if more or not outcome.ok:
            self._to_say.set()

    async def _attempt(self, leased: Leased) -> Outcome:
        try:
            return await self._senders[leased.kind].send(leased)
        except psycopg.OperationalError:
            raise
        except Exception as error:
            # One message that cannot be made must not keep the others from being sent.
            log.error("message not made", delivery=leased.delivery_id, position=leased.position, error=repr(error))
            return Outcome(False, 0, f"the message cannot be made: {type(error).__name__}", 0)

    async def _say(self) -> None:
        while True:
            self._to_say.clear()
            async with patient("notices of deliveries"):
                await self.say()
            await wait_for(self._to_say, UPKEEP_S)

    async def say(self) -> None:
        """Events of what was given up, and of endpoints that fail or answer again."""
        async with self._pool.connection() as connection:
            changed = await delivery_upkeep.changed_health(connection)
            given_up = await delivery_upkeep.unsaid(connection, UPKEEP_ROWS)
        for kind, endpoint_id, error in changed:
            await self._execute(NOTICES[kind].health(endpoint_id, error))
            async with self._pool.connection() as connection:
                await delivery_upkeep.health_said(connection, endpoint_id, failing=error is not None)
        for item in given_up:
            say = NOTICES[item.kind].given_up
            await self._execute(say(item.endpoint_id, item.delivery_id, item.type, item.attempts, item.error or ""))
            async with self._pool.connection() as connection:
                await delivery_upkeep.said(connection, item)

    async def _execute(self, command: Command) -> None:
        with contextlib.suppress(Rejection):  # the endpoint was deleted meanwhile
            await self._handler.execute(command, CALLER)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            async with patient("the upkeep of deliveries"):
                await self.keep_up()

    async def keep_up(self) -> None:
        """Gives up what is too late, forgets what is too old."""
        now = self._clock()
        async with self._pool.connection() as connection:
            async with connection.transaction():
                expired = await delivery_upkeep.expire(connection, now, now - TOO_LATE, UPKEEP_ROWS)
            await delivery_upkeep.prune(connection, now - KEPT, UPKEEP_ROWS)
        if expired:
            self._to_say.set()


def _ended(leased: Leased, outcome: Outcome, now: datetime) -> Ended:
    if outcome.ok:
        return Ended(leased, outcome, now, "delivered", now)
    if leased.tries >= len(RETRY_S):
        return Ended(leased, outcome, now, "giving_up", now)
    pause = max(RETRY_S[leased.tries], outcome.retry_after_s) * (1 + JITTER * random.random())  # noqa: S311 - spreads load
    return Ended(leased, outcome, now, "pending", now + timedelta(seconds=pause))
