"""The queue of deliveries: stores planned deliveries, leases due ones to senders, and records the outcomes of attempts.

The column `lane` is the ordering key. A delivery has one of these states:

    waiting      an earlier delivery with the same endpoint and ordering key has not ended
    pending      due at `due_at`; while a sender has leased it, `due_at` is the end of the lease. If the sender dies,
                 the lease ends earlier: nobody holds the advisory lock named `leased_by` any more
    delivered    an attempt succeeded
    giving_up    the last attempt failed, and no event records that yet
    given_up     the last attempt failed, and an event records that; a user can request the delivery again

Callers pass all times, so that tests control them. `store.tables.delivery_endpoints` describes the endpoints.
"""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import class_row

from domain.delivery_outcomes import MAX_RETRY_AFTER_S, Outcome
from domain.endpoints import EndpointKind
from store.postgres.queries import fetch_row
from store.tables.delivery_endpoints import lock_endpoints

DELIVERIES_CHANNEL = "webhooks"
"""Channel for notifications that deliveries may have become due. The payload is empty."""


NO_PROJECT = 0
"""Number in place of a project id for endpoints that are notified of all projects. No project has this id. When
projects take turns, these endpoints together count as one more project.
"""


class PlannedDelivery(NamedTuple):
    """A delivery to enqueue."""

    delivery_id: str
    endpoint_id: int
    position: int
    type: str
    item: int
    ordering_key: str | None
    replay: bool


@dataclass(frozen=True)
class LeasedDelivery:
    id: int
    delivery_id: str
    endpoint_id: int
    project: int
    """Id of the endpoint's project; NO_PROJECT for an endpoint of all projects."""
    kind: EndpointKind
    position: int
    type: str
    item: int
    replay: bool
    tries: int
    """Number of earlier attempts. If a user requests the delivery again, the number starts again at 0."""
    url: str | None
    """URL of a webhook. None for a Teams channel, for which `sealed_secret` is None, too."""
    sealed_secret: bytes | None


@dataclass(frozen=True)
class CompletedAttempt:
    leased: LeasedDelivery
    outcome: Outcome
    at: datetime
    state: str
    """The new state of the delivery."""
    due_at: datetime


class CircuitBreaker(NamedTuple):
    """Rules that pause an endpoint after `opens_after` failures in a row. After a pause, one delivery is tried as a
    probe.

    Each failed probe doubles the pause, up to `longest_pause_s`. A receiver that asks for a longer pause gets it.
    """

    opens_after: int
    first_pause_s: int
    longest_pause_s: int


PAUSES = CircuitBreaker(opens_after=10, first_pause_s=60, longest_pause_s=600)
"""Pauses of an endpoint after 10 failed calls in a row: the first takes 1 minute, the longest 10 minutes."""
LONGEST_PAUSE = timedelta(seconds=max(PAUSES.longest_pause_s, MAX_RETRY_AFTER_S) + 60)
"""Longest pause that PAUSES or a receiver can cause, and a minute more for clocks that differ. A longer pause in the
table was not written by this server, and is ignored.
"""


def new_delivery_id() -> str:
    return "d-" + secrets.token_hex(12)


async def notify_due(connection: AsyncConnection) -> None:
    """Notifies the senders that deliveries may be due, when the transaction commits."""
    await connection.execute("SELECT pg_notify(%s, '')", (DELIVERIES_CHANNEL,), prepare=True)


async def enqueue(connection: AsyncConnection, deliveries: Sequence[PlannedDelivery], now: datetime) -> None:
    """Adds deliveries to the queue, in the given order. Locks their endpoints until the caller's transaction ends."""
    await lock_endpoints(connection, {delivery.endpoint_id for delivery in deliveries})
    queues: set[tuple[int, str]] = set()
    behind = []
    for delivery in deliveries:
        queue = (delivery.endpoint_id, delivery.ordering_key or "")
        behind.append(delivery.ordering_key is not None and queue in queues)
        queues.add(queue)
    await connection.execute(
        "INSERT INTO webhook_deliveries"
        " (delivery_id, webhook_id, position, type, item, lane, replay, state, due_at, since)"
        " SELECT delivery_id, webhook_id, position, type, item, lane, replay,"
        "  CASE WHEN behind OR EXISTS (SELECT FROM webhook_deliveries d WHERE d.webhook_id = n.webhook_id"
        "   AND d.lane = n.lane AND d.state IN ('waiting', 'pending')) THEN 'waiting' ELSE 'pending' END,"
        "  %s, %s FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::text[], %s::bool[],"
        "  %s::bool[]) WITH ORDINALITY"
        "  n(delivery_id, webhook_id, position, type, item, lane, replay, behind, number) ORDER BY number",
        (now, now, *(list(column) for column in zip(*deliveries, strict=True)), behind),
        prepare=True,
    )


_LEASE = b"""
    WITH probing AS (
        UPDATE webhook_endpoints e SET open_until = %(until)s, probing = true
        WHERE e.active AND (e.open_until <= %(now)s OR e.open_until > %(longest)s) AND EXISTS (
            SELECT FROM webhook_deliveries d WHERE d.webhook_id = e.id AND d.state = 'pending' AND d.due_at <= %(now)s)
        RETURNING e.id
    ), ready AS (
        SELECT e.id, coalesce(e.project_id, %(no_project)s::bigint) AS project, coalesce(b.running, 0) AS running,
            CASE WHEN e.open_until IS NULL THEN greatest(0, %(each)s::int - coalesce(b.running, 0))
                WHEN e.id IN (SELECT id FROM probing) THEN 1 ELSE 0 END AS most
        FROM webhook_endpoints e LEFT JOIN unnest(%(busy)s::bigint[], %(running)s::int[]) b(id, running) ON b.id = e.id
        WHERE e.active AND (e.open_until IS NULL OR e.open_until <= %(now)s OR e.open_until > %(longest)s)
    ), turns AS (
        SELECT r.project, coalesce(p.running, 0) AS running, count(*) OVER () AS projects,
            array_agg(r.id ORDER BY r.running, r.id) AS ids, array_agg(r.most ORDER BY r.running, r.id) AS most
        FROM ready r
        LEFT JOIN unnest(%(projects)s::bigint[], %(of_project)s::int[]) p(id, running) ON p.id = r.project
        WHERE r.most > 0 AND EXISTS (
            SELECT FROM webhook_deliveries d WHERE d.webhook_id = r.id AND d.state = 'pending' AND d.due_at <= %(now)s)
        GROUP BY r.project, p.running ORDER BY coalesce(p.running, 0), r.project
    ), picked AS (
        SELECT due.id, turns.project FROM turns CROSS JOIN LATERAL (
            SELECT one.id FROM unnest(turns.ids, turns.most) WITH ORDINALITY e(id, most, number) CROSS JOIN LATERAL (
                SELECT d.id FROM webhook_deliveries d
                WHERE d.webhook_id = e.id AND d.state = 'pending' AND d.due_at <= %(now)s ORDER BY d.due_at, d.id
                LIMIT e.most FOR UPDATE SKIP LOCKED
            ) one
            LIMIT greatest(0, ceil((%(free)s::int - turns.running) / (turns.projects + 1.0)))
        ) due
        LIMIT %(free)s
    )
    UPDATE webhook_deliveries d SET leased = true, leased_by = %(by)s, due_at = %(until)s
    FROM picked, webhook_endpoints e WHERE d.id = picked.id AND e.id = d.webhook_id
    RETURNING d.id, d.delivery_id, d.webhook_id AS endpoint_id, picked.project, e.kind, d.position, d.type, d.item,
        d.replay, d.tries, e.url, e.sealed_secret
"""


async def lease(
    connection: AsyncConnection,
    now: datetime,
    until: datetime,
    running: dict[int, int],
    of_project: dict[int, int],
    *,
    by: str | None,
    each: int,
    free: int,
) -> list[LeasedDelivery]:
    """Leases at most `free` due deliveries to a sender.

    The sender may have at most `each` deliveries to one endpoint, including those it is working on. `free` is divided
    into equal shares: one for each project with due deliveries, and one that stays unused. A project gets at most its
    share, and nothing if the sender is working on `free` or more deliveries of this project. Projects with the fewest
    deliveries under way come first. Call again while `is_cut` says that there may be more.

    `running` maps an endpoint id to the number of deliveries to this endpoint that the sender is working on.
    `of_project` maps a project id to the number of this project's deliveries that the sender is working on. A lease
    ends at `until`, or earlier when nobody holds the advisory lock named `by`.
    """
    async with connection.cursor(row_factory=class_row(LeasedDelivery)) as cursor:
        await cursor.execute(
            _LEASE,
            {"now": now, "until": until, "longest": now + LONGEST_PAUSE, "by": by, "each": each, "free": free}
            | {"busy": list(running), "running": list(running.values())}
            | {"no_project": NO_PROJECT, "projects": list(of_project), "of_project": list(of_project.values())},
            prepare=True,
        )
        return sorted(await cursor.fetchall(), key=lambda leased: leased.id)


def is_cut(leased: Counter[int], of_project: Mapping[int, int], free: int) -> bool:
    """Returns whether a call of `lease` may have left due deliveries of a project, because the project got its whole
    share. `leased` maps each project to the number of its deliveries that the call leased. `of_project` and `free` are
    the arguments of the call.
    """
    shares = len(leased) + 1
    return any(count >= (free - of_project.get(project, 0)) // shares for project, count in leased.items())


async def fetch_overdue(connection: AsyncConnection, now: datetime) -> tuple[int, float] | None:
    """Returns the endpoint id of the delivery that has been due longest, and the seconds for which it has been due.
    Returns None if no delivery is due.

    Ignores deliveries to inactive or paused endpoints.
    """
    row = await fetch_row(
        connection,
        "SELECT e.id, extract(epoch FROM %(now)s - due.due_at)::float8 FROM webhook_endpoints e CROSS JOIN LATERAL ("
        "  SELECT due_at FROM webhook_deliveries d WHERE d.webhook_id = e.id AND d.state = 'pending'"
        "  ORDER BY due_at LIMIT 1) due"
        " WHERE e.active AND (e.open_until IS NULL OR e.open_until <= %(now)s OR e.open_until > %(longest)s)"
        " AND due.due_at <= %(now)s"
        " ORDER BY due.due_at LIMIT 1",
        {"now": now, "longest": now + LONGEST_PAUSE},
    )
    return None if row is None else (row[0], row[1])


async def complete_attempts(connection: AsyncConnection, completed: Sequence[CompletedAttempt]) -> list[bool]:
    """Records the outcomes of attempts. Returns a bool for each attempt, in the given order: True if the outcome made
    other deliveries of the endpoint due.
    """
    # Everybody who locks several endpoints does so in this order.
    order = sorted(range(len(completed)), key=lambda at: (completed[at].leased.endpoint_id, completed[at].leased.id))
    rows = [
        (one.leased.id, one.leased.endpoint_id, one.at, *msgspec.structs.astuple(one.outcome), one.state, one.due_at)
        for one in (completed[at] for at in order)
    ]
    cursor = await connection.execute(
        "SELECT end_webhook_attempt(id, webhook, at, ok, status, error, ms, excerpt, state, due_at, asked, %s, %s, %s)"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::bool[], %s::int[], %s::text[], %s::int[],"
        "  %s::text[], %s::int[], %s::text[], %s::timestamptz[])"
        "  e(id, webhook, at, ok, status, error, ms, excerpt, asked, state, due_at)",
        (*PAUSES, *(list(column) for column in zip(*rows, strict=True))),
        prepare=True,
    )
    others_due = dict(zip(order, [bool(more) for (more,) in await cursor.fetchall()], strict=True))
    return [others_due[at] for at in range(len(completed))]
