"""How deliveries of webhooks went: every attempt, and totals."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.deliveries import Outcome


class Attempt(msgspec.Struct, frozen=True):
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
    """Of the delivery now; None for a ping."""
    due_at: datetime | None


class Stats(msgspec.Struct, frozen=True):
    ok: int = 0
    failed: int = 0


async def note_ping(
    connection: AsyncConnection, webhook_id: int, delivery_id: str, outcome: Outcome, now: datetime
) -> None:
    """An attempt that belongs to no delivery."""
    await connection.execute(
        "INSERT INTO webhook_attempts"
        " (webhook_id, delivery_id, type, replay, number, ok, status_code, error, ms, excerpt, attempted_at)"
        " VALUES (%s, %s, 'ping', false, 1, %s, %s, %s, %s, %s, %s)",
        (webhook_id, delivery_id, outcome.ok, outcome.status, outcome.error, outcome.ms, outcome.excerpt, now),
    )


async def stats(connection: AsyncConnection, webhook_ids: Sequence[int]) -> dict[int, Stats]:
    cursor = await connection.execute(
        "SELECT id, ok, failed FROM webhook_endpoints WHERE id = ANY (%s)", (list(webhook_ids),), prepare=True
    )
    return {webhook_id: Stats(ok, failed) for webhook_id, ok, failed in await cursor.fetchall()}


async def history(
    connection: AsyncConnection, webhook_id: int, *, ok: bool | None, before: int | None, limit: int
) -> list[Attempt]:
    """Newest first."""
    cursor = await connection.execute(
        "SELECT a.id, a.delivery_id, a.type, a.replay, a.number, a.ok, a.status_code, a.error, a.ms, a.excerpt,"
        " a.attempted_at, d.state, d.due_at"
        " FROM webhook_attempts a LEFT JOIN webhook_deliveries d ON d.delivery_id = a.delivery_id"
        " WHERE a.webhook_id = %(webhook)s AND (%(ok)s::bool IS NULL OR a.ok = %(ok)s)"
        " AND (%(before)s::bigint IS NULL OR a.id < %(before)s) ORDER BY a.id DESC LIMIT %(limit)s",
        {"webhook": webhook_id, "ok": ok, "before": before, "limit": limit},
        prepare=True,
    )
    return [Attempt(*row) for row in await cursor.fetchall()]


async def state_of(connection: AsyncConnection, webhook_id: int, delivery_id: str) -> tuple[str, int] | None:
    """State and attempts of a delivery."""
    cursor = await connection.execute(
        "SELECT state, attempts FROM webhook_deliveries WHERE webhook_id = %s AND delivery_id = %s",
        (webhook_id, delivery_id),
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1])
