"""The history of deliveries: all attempts, and how many succeeded and failed for each endpoint."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from domain.delivery_outcomes import Outcome
from store.postgres.queries import Source, execute, fetch_row, fetch_rows


class DeliveryAttempt(msgspec.Struct, frozen=True):
    id: int
    delivery_id: str
    type: str
    replay: bool
    number: int
    ok: bool
    status_code: int
    error: str
    ms: int
    excerpt: str
    attempted_at: datetime
    state: str | None
    """The state of the delivery now; None for a ping."""
    due_at: datetime | None


class DeliveryStats(msgspec.Struct, frozen=True):
    """Numbers of successful and failed attempts since the endpoint was registered."""

    ok: int = 0
    failed: int = 0


async def record_ping(source: Source, endpoint_id: int, delivery_id: str, outcome: Outcome, now: datetime) -> None:
    """Records an attempt to send a test message, which belongs to no delivery."""
    await execute(
        source,
        "INSERT INTO webhook_attempts"
        " (webhook_id, delivery_id, type, replay, number, ok, status_code, error, ms, excerpt, attempted_at)"
        " VALUES (%s, %s, 'ping', false, 1, %s, %s, %s, %s, %s, %s)",
        (endpoint_id, delivery_id, outcome.ok, outcome.status, outcome.error, outcome.ms, outcome.excerpt, now),
    )


async def read_stats(source: Source, endpoint_ids: Sequence[int]) -> dict[int, DeliveryStats]:
    """Returns endpoint id -> numbers of attempts. The numbers are 0 for an endpoint that the delivery planner does not
    know yet.
    """
    query = "SELECT id, ok, failed FROM webhook_endpoints WHERE id = ANY (%s)"
    found = {
        endpoint_id: DeliveryStats(*counts)
        for endpoint_id, *counts in await fetch_rows(source, query, (list(endpoint_ids),))
    }
    return dict.fromkeys(endpoint_ids, DeliveryStats()) | found


async def read_history(
    source: Source, endpoint_id: int, *, ok: bool | None, before: int | None, limit: int
) -> list[DeliveryAttempt]:
    """Returns up to `limit` attempts of an endpoint, newest first.

    `ok` chooses successful (True), failed (False) or all (None) attempts. `before` chooses attempts with smaller ids;
    None chooses all.
    """
    rows = await fetch_rows(
        source,
        "SELECT a.id, a.delivery_id, a.type, a.replay, a.number, a.ok, a.status_code, a.error, a.ms, a.excerpt,"
        " a.attempted_at, d.state, d.due_at"
        " FROM webhook_attempts a LEFT JOIN webhook_deliveries d ON d.delivery_id = a.delivery_id"
        " WHERE a.webhook_id = %(endpoint)s AND (%(ok)s::bool IS NULL OR a.ok = %(ok)s)"
        " AND (%(before)s::bigint IS NULL OR a.id < %(before)s) ORDER BY a.id DESC LIMIT %(limit)s",
        {"endpoint": endpoint_id, "ok": ok, "before": before, "limit": limit},
    )
    return [DeliveryAttempt(*row) for row in rows]


async def find_delivery_state(source: Source, endpoint_id: int, delivery_id: str) -> tuple[str, int] | None:
    """Returns (state, number of attempts) of a delivery; None if there is no such delivery."""
    query = "SELECT state, attempts FROM webhook_deliveries WHERE webhook_id = %s AND delivery_id = %s"
    row = await fetch_row(source, query, (endpoint_id, delivery_id))
    return None if row is None else (row[0], row[1])
