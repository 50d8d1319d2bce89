"""What has to follow from how deliveries went: events to be said, deliveries of workers that are gone or that come too
late, and forgetting.
"""

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from domain.deliveries import Kind


class Unsaid(NamedTuple):
    """A delivery that was given up, which no event says yet."""

    id: int
    kind: Kind
    endpoint_id: int
    delivery_id: str
    type: str
    attempts: int
    error: str | None


async def unsaid(connection: AsyncConnection, limit: int) -> list[Unsaid]:
    cursor = await connection.execute(
        "SELECT d.id, e.kind, d.webhook_id, d.delivery_id, d.type, d.attempts, d.last_error FROM webhook_deliveries d"
        " JOIN webhook_endpoints e ON e.id = d.webhook_id WHERE d.state = 'giving_up' ORDER BY d.id LIMIT %s",
        (limit,),
        prepare=True,
    )
    return [Unsaid(*row) for row in await cursor.fetchall()]


async def said(connection: AsyncConnection, item: Unsaid) -> None:
    await connection.execute(
        "UPDATE webhook_deliveries SET state = 'given_up' WHERE id = %s AND state = 'giving_up'", (item.id,)
    )


async def changed_health(connection: AsyncConnection) -> list[tuple[Kind, int, str | None]]:
    """Endpoints that fail or recovered, which no event says yet; with the error of those that fail."""
    cursor = await connection.execute(
        "SELECT kind, id, CASE WHEN open_until IS NULL THEN NULL ELSE coalesce(last_error, '') END"
        " FROM webhook_endpoints WHERE said_failing <> (open_until IS NOT NULL)",
        prepare=True,
    )
    return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]


async def health_said(connection: AsyncConnection, endpoint_id: int, *, failing: bool) -> None:
    await connection.execute("UPDATE webhook_endpoints SET said_failing = %s WHERE id = %s", (failing, endpoint_id))


async def take_back(connection: AsyncConnection, worker: str, now: datetime) -> int:
    """Makes due what other workers than this had begun which are gone: their locks are free. How many that were."""
    # Whoever ends such an attempt all the same is not waited for: it holds the endpoint first, then the delivery.
    cursor = await connection.execute(
        "WITH gone AS MATERIALIZED (SELECT name FROM"
        "  (SELECT DISTINCT leased_by AS name FROM webhook_deliveries WHERE leased AND leased_by <> %(worker)s) others"
        "  WHERE pg_try_advisory_xact_lock(hashtextextended(name, 0))),"
        " begun AS (SELECT d.id, d.webhook_id FROM webhook_endpoints e JOIN webhook_deliveries d ON d.webhook_id = e.id"
        "  WHERE d.state = 'pending' AND d.leased AND d.leased_by IN (SELECT name FROM gone)"
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
    """Gives up what could not be tried since `oldest`, its endpoint being off or failing; answers how many that were.

    Those that waited for it take its place.
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
        (now, now, [webhook_id for webhook_id, _ in ended], [lane for _, lane in ended]),
    )
    return len(ended)


async def prune(connection: AsyncConnection, oldest: datetime, limit: int) -> int:
    """Forgets what ended before `oldest`; how many rows went."""
    gone = 0
    for table, key, ended in (
        ("webhook_attempts", "attempted_at", "true"),
        ("webhook_deliveries", "since", "state IN ('delivered', 'given_up')"),
    ):
        cursor = await connection.execute(
            f"DELETE FROM {table} WHERE id IN"
            f" (SELECT id FROM {table} WHERE {key} < %s AND {ended} ORDER BY {key} LIMIT %s)".encode(),
            (oldest, limit),
        )
        gone += cursor.rowcount
    return gone
