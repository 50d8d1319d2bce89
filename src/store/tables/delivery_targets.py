"""Where the follower is, and what the log says of webhooks and channels of Teams up to there."""

from datetime import datetime
from typing import NamedTuple

from psycopg import AsyncConnection

from domain.core.events import Recorded
from domain.projects import ProjectDeleted
from domain.teams import ChannelDeleted, ChannelRegistered, ChannelUpdated
from domain.webhooks import (
    RedeliveryRequested,
    ReplayRequested,
    WebhookDeleted,
    WebhookRegistered,
    WebhookUpdated,
    changes,
)
from store.tables.deliveries import WEBHOOKS, Endpoint
from store.tables.reactions import MAX_TRIES

TABLES = ("webhook_deliveries", "webhook_attempts", "webhook_replays")


class Waiting(NamedTuple):
    news: bool
    """Events that are wanted have come since, or so many others."""
    parked: bool
    """Something was parked, and is asked for again."""
    replays: bool


async def waiting(connection: AsyncConnection, name: str, names: list[str], far: int) -> Waiting:
    """What there is to do. Most of what happens is of no interest, and costs no more than this one look."""
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT FROM stored_events WHERE notification_id > p.position AND topic = ANY (%s))"
        " OR (SELECT max(notification_id) FROM stored_events) > p.position + %s,"
        " EXISTS (SELECT FROM due_reactions WHERE reaction = %s AND due_at <= now() AND tries < %s),"
        " EXISTS (SELECT FROM webhook_replays)"
        " FROM (SELECT coalesce((SELECT position FROM reaction_positions WHERE reaction = %s), 0) AS position) p",
        (names, far, name, MAX_TRIES, name),
        prepare=True,
    )
    row = await cursor.fetchone()
    assert row is not None, "it selects from one row"
    return Waiting(*row)


async def notify_due(connection: AsyncConnection) -> None:
    await connection.execute("SELECT pg_notify(%s, '')", (WEBHOOKS,), prepare=True)


async def apply(connection: AsyncConnection, recorded: Recorded, now: datetime) -> None:
    """What an event about endpoints changes here."""
    event = recorded.event
    match event:
        case WebhookRegistered():
            await connection.execute(
                "INSERT INTO webhook_endpoints (id, project_id, url, events, active, sealed_secret)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (event.webhook_id, event.project_id, event.url, event.events, event.active, event.sealed_secret),
            )
        case WebhookUpdated():
            changed = changes(event)
            columns = ", ".join(f"{column} = %({column})s" for column in changed)
            await connection.execute(
                f"UPDATE webhook_endpoints SET {columns} WHERE id = %(id)s".encode(), changed | {"id": event.webhook_id}
            )
            if event.url is not None or event.active:
                await _start_over(connection, event.webhook_id, now)
        case ChannelRegistered():
            await connection.execute(
                "INSERT INTO webhook_endpoints (id, kind, project_id, events, active)"
                " VALUES (%s, 'teams', %s, %s, true) ON CONFLICT DO NOTHING",
                (event.channel_id, event.project_id, event.events),
            )
        case ChannelUpdated():
            await connection.execute(
                "UPDATE webhook_endpoints SET events = coalesce(%s, events), active = coalesce(%s, active)"
                " WHERE id = %s",
                (event.events, event.active, event.channel_id),
            )
            if event.sealed_url is not None or event.active:
                await _start_over(connection, event.channel_id, now)
        case WebhookDeleted():
            await _forget(connection, [event.webhook_id])
        case ChannelDeleted():
            await _forget(connection, [event.channel_id])
        case ProjectDeleted():
            cursor = await connection.execute(
                "SELECT id FROM webhook_endpoints WHERE project_id = %s ORDER BY id", (event.project_id,)
            )
            await _forget(connection, [endpoint_id for (endpoint_id,) in await cursor.fetchall()])
        case RedeliveryRequested():
            # It waits for nothing, and nothing for it.
            await connection.execute(
                "UPDATE webhook_deliveries SET state = 'pending', lane = NULL, tries = 0, due_at = %s, since = %s"
                " WHERE delivery_id = %s AND state IN ('delivered', 'giving_up', 'given_up')",
                (now, now, event.delivery_id),
            )
        case ReplayRequested():
            await connection.execute(
                "INSERT INTO webhook_replays (replay, webhook_id, position, up_to) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (event.replay, event.webhook_id, event.after, event.up_to),
            )
        case _:
            return


async def replay(connection: AsyncConnection, ahead: int) -> tuple[str, Endpoint, int, int] | None:
    """A replay that may go on, held until the transaction ends: its name, for whom, how far it is and goes."""
    cursor = await connection.execute(
        "SELECT r.replay, r.position, r.up_to, e.id, e.kind, e.project_id, e.events, e.active FROM webhook_replays r"
        " JOIN webhook_endpoints e ON e.id = r.webhook_id"
        " WHERE (SELECT count(*) FROM (SELECT FROM webhook_deliveries d WHERE d.webhook_id = r.webhook_id AND d.replay"
        "  AND d.state IN ('waiting', 'pending') LIMIT %s) open) < %s"
        " ORDER BY r.replay LIMIT 1 FOR UPDATE OF r SKIP LOCKED",
        (ahead, ahead),
        prepare=True,
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], Endpoint(*row[3:]), row[1], row[2])


async def move_replay(connection: AsyncConnection, name: str, to: int, up_to: int) -> None:
    if to >= up_to:
        await connection.execute("DELETE FROM webhook_replays WHERE replay = %s", (name,))
    else:
        await connection.execute("UPDATE webhook_replays SET position = %s WHERE replay = %s", (to, name))
    await notify_due(connection)


async def _start_over(connection: AsyncConnection, endpoint_id: int, now: datetime) -> None:
    """Another address or another try: what is due is tried at once."""
    await connection.execute(
        "UPDATE webhook_endpoints SET failures_in_a_row = 0, pause_s = 0, open_until = NULL, probing = false"
        " WHERE id = %s",
        (endpoint_id,),
    )
    await connection.execute(
        "UPDATE webhook_deliveries SET due_at = %s, since = %s"
        " WHERE webhook_id = %s AND state = 'pending' AND NOT leased",
        (now, now, endpoint_id),
    )


async def _forget(connection: AsyncConnection, endpoint_ids: list[int]) -> None:
    await connection.execute("DELETE FROM webhook_endpoints WHERE id = ANY (%s)", (endpoint_ids,))
    for table in TABLES:
        await connection.execute(f"DELETE FROM {table} WHERE webhook_id = ANY (%s)".encode(), (endpoint_ids,))
