"""Upkeep of the queue of deliveries: finds deliveries that were given up without an event, ends leases of dead senders,
deletes old rows. `workers.deliveries.sender` decides when a delivery or row is too old.
"""

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from domain.endpoints import EndpointKind


class UnpublishedGiveUp(NamedTuple):
    """A delivery that was given up, without an event that records this yet."""

    id: int
    kind: EndpointKind
    endpoint_id: int
    delivery_id: str
    type: str
    attempts: int
    error: str | None


async def fetch_unpublished(connection: AsyncConnection, limit: int) -> list[UnpublishedGiveUp]:
    cursor = await connection.execute(
        "SELECT d.id, e.kind, d.webhook_id, d.delivery_id, d.type, d.attempts, d.last_error FROM webhook_deliveries d"
        " JOIN webhook_endpoints e ON e.id = d.webhook_id WHERE d.state = 'giving_up' ORDER BY d.id LIMIT %s",
        (limit,),
        prepare=True,
    )
    return [UnpublishedGiveUp(*row) for row in await cursor.fetchall()]


async def mark_published(connection: AsyncConnection, give_up: UnpublishedGiveUp) -> None:
    await connection.execute(
        "UPDATE webhook_deliveries SET state = 'given_up' WHERE id = %s AND state = 'giving_up'", (give_up.id,)
    )


async def reclaim_expired(connection: AsyncConnection, worker: str, now: datetime) -> int:
    """Ends the leases of dead senders, so that their deliveries are due again. Returns the number of these deliveries.

    A sender is dead if nobody holds its advisory lock. `worker` is the name of the caller's lock: the caller is alive.
    """
    # Skips locked rows: a sender that seemed dead is completing its attempt after all.
    cursor = await connection.execute(
        "WITH dead AS MATERIALIZED (SELECT name FROM"
        "  (SELECT DISTINCT leased_by AS name FROM webhook_deliveries WHERE leased AND leased_by <> %(worker)s) others"
        "  WHERE pg_try_advisory_xact_lock(hashtextextended(name, 0))),"
        " begun AS (SELECT d.id, d.webhook_id FROM webhook_endpoints e JOIN webhook_deliveries d ON d.webhook_id = e.id"
        "  WHERE d.state = 'pending' AND d.leased AND d.leased_by IN (SELECT name FROM dead)"
        "  FOR UPDATE OF e, d SKIP LOCKED),"
        " probes AS (UPDATE webhook_endpoints SET open_until = %(now)s"
        "  WHERE probing AND id IN (SELECT webhook_id FROM begun))"
        " UPDATE webhook_deliveries d SET leased = false, leased_by = NULL, due_at = %(now)s FROM begun"
        " WHERE d.id = begun.id",
        {"worker": worker, "now": now},
        prepare=True,
    )
    return cursor.rowcount


async def expire(connection: AsyncConnection, now: datetime, oldest: datetime, limit: int) -> int:
    """Gives up deliveries that have been pending since before `oldest` at an endpoint that is inactive or failing.
    Gives up at most `limit` of them, and returns how many.

    If other deliveries with the same ordering key wait for a delivery that is given up, the next of them becomes due.
    """
    cursor = await connection.execute(
        "UPDATE webhook_deliveries SET state = 'giving_up', last_error = coalesce(last_error, 'not tried in time')"
        " WHERE id IN (SELECT d.id FROM webhook_endpoints e JOIN webhook_deliveries d ON d.webhook_id = e.id"
        "  WHERE (e.open_until IS NOT NULL OR NOT e.active) AND d.state = 'pending' AND NOT d.leased AND d.since < %s"
        "  ORDER BY d.id LIMIT %s FOR UPDATE OF e, d) RETURNING webhook_id, lane",
        (oldest, limit),
    )
    ended: list[Any] = await cursor.fetchall()
    await connection.execute(
        "UPDATE webhook_deliveries d SET state = 'pending', due_at = %s, since = %s FROM (SELECT"
        "  (SELECT min(id) FROM webhook_deliveries w WHERE w.webhook_id = l.webhook_id AND w.lane = l.lane"
        "   AND w.state IN ('waiting', 'pending')) AS id"
        "  FROM unnest(%s::bigint[], %s::text[]) l(webhook_id, lane)) next"
        " WHERE d.id = next.id AND d.state = 'waiting'",
        (now, now, [webhook_id for webhook_id, _ in ended], [key for _, key in ended]),
    )
    return len(ended)


async def prune(connection: AsyncConnection, oldest: datetime, limit: int) -> int:
    """Deletes attempts and ended deliveries that are older than `oldest`, at most `limit` of each kind. Returns the
    number of deleted rows.
    """
    deleted = 0
    for table, key, ended in (
        ("webhook_attempts", "attempted_at", "true"),
        ("webhook_deliveries", "since", "state IN ('delivered', 'given_up')"),
    ):
        cursor = await connection.execute(
            f"DELETE FROM {table} WHERE id IN"
            f" (SELECT id FROM {table} WHERE {key} < %s AND {ended} ORDER BY {key} LIMIT %s)".encode(),
            (oldest, limit),
        )
        deleted += cursor.rowcount
    return deleted
