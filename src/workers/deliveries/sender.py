"""Sends deliveries: leases due deliveries, sends them, and records the outcomes.

Each delivery is sent at least once, and deliveries with the same ordering key are sent in order. When a sender dies,
its leases end as soon as its advisory lock is free. When a sender hangs, its leases expire. Only a limited number of
deliveries to one endpoint are under way at once, so a slow endpoint does not delay others. The slow endpoints of one
project do not delay other projects either: a project gets no further delivery once it has as many under way as the
process has free slots left. An endpoint that fails many times in a row is paused, and then tried with a single delivery
(`store.tables.deliveries.CircuitBreaker`).
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import uuid4

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from commands.endpoints import GiveUpDelivery, RecordEndpointHealth
from commands.handler import Command, CommandContext, Handler
from domain.core.errors import Rejection
from domain.delivery_outcomes import Outcome
from domain.endpoints import EndpointKind
from store.postgres.batch_loader import BatchLoader
from store.postgres.cancellation import Tasks, wait_for
from store.postgres.leader_lock import hold_leader_lock
from store.postgres.notifications import Listener
from store.tables import deliveries, delivery_endpoints, delivery_upkeep
from store.tables.deliveries import DELIVERIES_CHANNEL, CompletedAttempt, LeasedDelivery
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
"""Seconds of delay after each failed attempt, some 28 hours in total. If the attempt after the last delay fails, the
delivery is given up.
"""
RETRY_JITTER = 0.1
"""Largest share of a delay that is added to the delay at random, so that retries do not come all at once."""
MAX_AGE = timedelta(hours=36)
"""Age at which a delivery that could not be tried is given up. Other deliveries have ended by then: their delays take
33 hours, with the longest jitter and the longest pauses that a receiver may ask for.
"""
RETENTION = timedelta(days=30)
"""Age at which attempts and ended deliveries are deleted."""
LEASE_S = 60
"""Seconds for which a delivery is leased. This is longer than an attempt, which takes 10 s at most."""
MAX_PER_ENDPOINT = 16
"""Largest number of deliveries from one process to one endpoint that are under way at once, so that a receiver is not
overrun.
"""
MAX_IN_FLIGHT = 1_000
"""Largest number of deliveries from one process that are under way at once. Each of them holds a connection and a
message.
"""
POLL_INTERVAL_S = 1.0
"""Longest time in seconds between two queries for due deliveries: no notification announces a due retry."""
DEBOUNCE_S = 0.005
"""Seconds to wait after a notification, so that one query finds many due deliveries."""
UPKEEP_INTERVAL_S = 60.0
"""Seconds between two deletions of old attempts and deliveries. Also the longest time until an event that could not be
recorded is tried again.
"""
UPKEEP_BATCH_SIZE = 1_000
"""Largest number of rows that one statement changes or deletes, so that no statement holds locks for long."""
CALLER = CommandContext("system:deliveries")


class EndpointSender(Protocol):
    """Sends deliveries to endpoints of one kind."""

    async def send(self, leased: LeasedDelivery) -> Outcome:
        """Makes one attempt to send the delivery. Returns its outcome, even if it failed. Raises if the message cannot
        be built.
        """
        ...


@dataclass
class DeliverySender:
    conninfo: str
    pool: AsyncConnectionPool
    handler: Handler
    senders: Mapping[EndpointKind, EndpointSender]
    listener: Listener
    clock: Callable[[], datetime]
    _lock: str | None = None
    """Name of the advisory lock by which this process shows that it is alive; None while it does not hold the lock."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _unpublished: asyncio.Event = field(default_factory=asyncio.Event)
    _in_flight: Counter[int] = field(default_factory=Counter)
    """Endpoint id -> number of deliveries that are under way."""
    _full: set[int] = field(default_factory=set)
    """Ids of the endpoints that reached MAX_PER_ENDPOINT at the last query. They may have more due deliveries."""
    _of_project: Counter[int] = field(default_factory=Counter)
    """Project id -> number of deliveries that are under way."""
    _full_projects: set[int] = field(default_factory=set)
    """Ids of the projects that had, after the last query, at least as many deliveries under way as the process had free
    slots left. They may have more due deliveries.
    """

    def __post_init__(self) -> None:
        self._complete = BatchLoader(self.pool, deliveries.complete_attempts)

    async def run(self) -> None:
        """Sends deliveries until cancelled. Any number of senders may run."""
        with self.listener.subscribed(DELIVERIES_CHANNEL, lambda payload: self._changed.set()):
            tasks = Tasks()
            tasks.start(self._hold_locks(), self._send(tasks), self._publish(), self._maintain())
            await tasks.run()

    async def run_due(self) -> int:
        """Sends deliveries until none is due, and then records events about them. Returns the number of attempts."""
        attempts = 0
        while leased := await self._lease():
            await asyncio.gather(*(self._deliver(one) for one in leased))
            attempts += len(leased)
        await self.publish()
        return attempts

    async def _hold_locks(self) -> None:
        """Holds an advisory lock, by which others see that this sender is alive. Meanwhile ends the leases of dead
        senders.
        """
        while True:
            async with tolerate_outages("the lock of a sender"):
                await self._hold_lock(f"deliveries-{uuid4().hex}")
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _hold_lock(self, name: str) -> None:
        async with hold_leader_lock(self.conninfo, name) as connection:
            self._lock = name
            self._changed.set()
            try:
                while True:
                    if await delivery_upkeep.reclaim_expired(connection, name, self.clock()):
                        self._changed.set()
                    await asyncio.sleep(POLL_INTERVAL_S)
            finally:
                self._lock = None

    async def _send(self, tasks: Tasks) -> None:
        while True:
            self._changed.clear()
            if self._lock is not None:
                async with tolerate_outages("leasing deliveries"):
                    for leased in await self._lease():
                        tasks.start(self._deliver_one(leased))
            if await wait_for(self._changed, POLL_INTERVAL_S):
                await asyncio.sleep(DEBOUNCE_S)

    async def _lease(self) -> list[LeasedDelivery]:
        now, in_flight, of_project = self.clock(), +self._in_flight, +self._of_project
        free = MAX_IN_FLIGHT - in_flight.total()
        async with self.pool.connection() as connection:
            leased = await deliveries.lease(
                connection,
                now,
                now + timedelta(seconds=LEASE_S),
                dict(in_flight),
                dict(of_project),
                by=self._lock,
                each=MAX_PER_ENDPOINT,
                free=free,
            )
        added = Counter(one.endpoint_id for one in leased)
        self._in_flight += added
        self._full = {endpoint_id for endpoint_id, count in (in_flight + added).items() if count >= MAX_PER_ENDPOINT}
        added_of_project = Counter(one.project for one in leased)
        self._of_project += added_of_project
        if deliveries.is_cut(added_of_project, of_project, free):
            self._changed.set()
        free -= len(leased)
        self._full_projects = {project for project, count in (of_project + added_of_project).items() if count >= free}
        return leased

    async def _deliver_one(self, leased: LeasedDelivery) -> None:
        async with tolerate_outages("a delivery"):
            await self._deliver(leased)

    async def _deliver(self, leased: LeasedDelivery) -> None:
        try:
            outcome = await self._attempt(leased)
            others_due = await self._complete(_next_step(leased, outcome, self.clock()))
        finally:
            self._in_flight[leased.endpoint_id] -= 1
            self._of_project[leased.project] -= 1
        if others_due or leased.endpoint_id in self._full or leased.project in self._full_projects:
            self._changed.set()
        if others_due or not outcome.ok:
            self._unpublished.set()

    async def _attempt(self, leased: LeasedDelivery) -> Outcome:
        try:
            return await self.senders[leased.kind].send(leased)
        except psycopg.OperationalError:
            raise
        except Exception as error:
            # One message that cannot be built must not stop the others.
            log.error("message not built", delivery=leased.delivery_id, position=leased.position, error=repr(error))
            return Outcome(False, 0, f"the message cannot be made: {type(error).__name__}", 0)

    async def _publish(self) -> None:
        while True:
            self._unpublished.clear()
            async with tolerate_outages("events about deliveries"):
                await self.publish()
            await wait_for(self._unpublished, UPKEEP_INTERVAL_S)

    async def publish(self) -> None:
        """Records events that are still missing: about deliveries that were given up, and about endpoints that began to
        fail or recovered.
        """
        async with self.pool.connection() as connection:
            health_changes = await delivery_endpoints.fetch_health_changes(connection)
            give_ups = await delivery_upkeep.fetch_unpublished(connection, UPKEEP_BATCH_SIZE)
        for change in health_changes:
            await self._execute(RecordEndpointHealth(change.kind, change.endpoint_id, change.error))
            async with self.pool.connection() as connection:
                await delivery_endpoints.mark_health_published(
                    connection, change.endpoint_id, failing=change.error is not None
                )
        for item in give_ups:
            await self._execute(
                GiveUpDelivery(
                    item.kind, item.endpoint_id, item.delivery_id, item.type, item.attempts, item.error or ""
                )
            )
            async with self.pool.connection() as connection:
                await delivery_upkeep.mark_published(connection, item)

    async def _execute(self, command: Command) -> None:
        with contextlib.suppress(Rejection):  # the endpoint was deleted meanwhile
            await self.handler.execute(command, CALLER)

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_INTERVAL_S)
            async with tolerate_outages("the upkeep of deliveries"):
                await self.maintain()

    async def maintain(self) -> None:
        """Gives up deliveries that have waited too long, and deletes old history."""
        now = self.clock()
        async with self.pool.connection() as connection:
            async with connection.transaction():
                expired = await delivery_upkeep.expire(connection, now, now - MAX_AGE, UPKEEP_BATCH_SIZE)
            await delivery_upkeep.prune(connection, now - RETENTION, UPKEEP_BATCH_SIZE)
        if expired:
            self._unpublished.set()


def _next_step(leased: LeasedDelivery, outcome: Outcome, now: datetime) -> CompletedAttempt:
    """Returns the completed attempt, with the next state of its delivery: delivered, pending again, or giving up."""
    if outcome.ok:
        return CompletedAttempt(leased, outcome, now, "delivered", now)
    if leased.tries >= len(RETRY_DELAYS_S):
        return CompletedAttempt(leased, outcome, now, "giving_up", now)
    jitter = 1 + RETRY_JITTER * random.random()  # noqa: S311 - no secret
    delay_s = max(RETRY_DELAYS_S[leased.tries], outcome.retry_after_s) * jitter
    return CompletedAttempt(leased, outcome, now, "pending", now + timedelta(seconds=delay_s))
