"""Finds work for the delivery planner: new events, parked events to try again, and replays. Makes ended deliveries due
again.
"""

from datetime import datetime
from typing import NamedTuple

from psycopg import AsyncConnection

from store.postgres.queries import Source, fetch_row
from store.tables.deliveries import NO_PROJECT, notify_due
from store.tables.delivery_endpoints import DeliveryTarget

PLANNER = "webhooks"
"""Name of the planner's stored position, and of its parked events."""


class PendingWork(NamedTuple):
    events: bool
    """True if events for the planner were appended, or so many other events that the planner's position should be moved
    past them.
    """
    parked: bool
    """True if a parked event is due again."""
    replays: bool
    is_beyond: bool
    """True if the planner's position is beyond the end of the log."""


class DeliveryReplay(NamedTuple):
    """An incomplete replay: a user requested that an endpoint gets the deliveries of earlier events again."""

    name: str
    position: int
    """Position up to which the deliveries of events have been planned again."""
    up_to: int
    """Position of the last event to replay."""
    target: DeliveryTarget


async def fetch_pending(connection: AsyncConnection, planner: str, names: list[str], min_skip: int) -> PendingWork:
    """Returns what the planner has to do. Finds out everything by one query, since mostly there is nothing to do."""
    row = await fetch_row(
        connection,
        "SELECT EXISTS (SELECT FROM stored_events WHERE notification_id > p.position AND topic = ANY (%s))"
        " OR (SELECT max(notification_id) FROM stored_events) > p.position + %s,"
        " EXISTS (SELECT FROM due_reactions WHERE reaction = %s AND due_at <= now() AND parked_at IS NULL),"
        " EXISTS (SELECT FROM webhook_replays),"
        " (SELECT coalesce(max(notification_id), 0) FROM stored_events) < p.position"
        " FROM (SELECT coalesce((SELECT position FROM reaction_positions WHERE reaction = %s), 0) AS position) p",
        (names, min_skip, planner, planner),
    )
    assert row is not None, "it selects from one row"
    return PendingWork(*row)


async def fetch_last_planned(connection: AsyncConnection, head: int, oldest: datetime) -> int:
    """Returns the position up to which all deliveries are known to be planned; 0 if there is no such position. A
    position beyond `head` is returned as `head`. Deliveries of events before `oldest` count as planned, since they may
    have been deleted.
    """
    row = await fetch_row(
        connection,
        "SELECT least(%(head)s, greatest(0, (SELECT max(position) FROM webhook_deliveries WHERE NOT replay),"
        " (SELECT max(size) FROM audit_checkpoints WHERE at < %(oldest)s)))",
        {"head": head, "oldest": oldest},
    )
    assert row is not None, "it selects one row"
    return int(row[0])


async def redeliver(connection: AsyncConnection, delivery_id: str, now: datetime) -> None:
    """Makes an ended delivery due again. Removes its ordering key, so that it neither waits for other deliveries nor
    delays them.
    """
    await connection.execute(
        "UPDATE webhook_deliveries SET state = 'pending', lane = NULL, tries = 0, due_at = %s, since = %s"
        " WHERE delivery_id = %s AND state IN ('delivered', 'giving_up', 'given_up')",
        (now, now, delivery_id),
    )


async def add_replay(connection: AsyncConnection, name: str, endpoint_id: int, after: int, up_to: int) -> None:
    await connection.execute(
        "INSERT INTO webhook_replays (replay, webhook_id, position, up_to) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (name, endpoint_id, after, up_to),
    )


async def count_replays(source: Source, endpoint_id: int) -> tuple[int, int]:
    """Returns (count, position): the number of an endpoint's incomplete replays whose requests the planner has read,
    and the planner's position in the log.
    """
    row = await fetch_row(
        source,
        "SELECT (SELECT count(*) FROM webhook_replays WHERE webhook_id = %s),"
        " coalesce((SELECT position FROM reaction_positions WHERE reaction = %s), 0)",
        (endpoint_id, PLANNER),
    )
    assert row is not None, "it selects one row"
    return row[0], row[1]


async def lock_replay(connection: AsyncConnection, max_open: int, last_project: int) -> DeliveryReplay | None:
    """Returns the next replay to work on, locked until the transaction ends. Returns None if there is none. Projects
    take turns: the replay belongs to the first project with an id above `last_project`, or else to the first of all.

    Skips a replay while its endpoint has `max_open` or more unfinished deliveries of replays.
    """
    row = await fetch_row(
        connection,
        "SELECT r.replay, r.position, r.up_to, e.id, e.kind, e.project_id, e.events, e.active FROM webhook_replays r"
        " JOIN webhook_endpoints e ON e.id = r.webhook_id"
        " WHERE (SELECT count(*) FROM (SELECT FROM webhook_deliveries d WHERE d.webhook_id = r.webhook_id AND d.replay"
        "  AND d.state IN ('waiting', 'pending') LIMIT %s) open) < %s"
        " ORDER BY coalesce(e.project_id, %s) <= %s, coalesce(e.project_id, %s), r.replay"
        " LIMIT 1 FOR UPDATE OF r SKIP LOCKED",
        (max_open, max_open, NO_PROJECT, last_project, NO_PROJECT),
    )
    return None if row is None else DeliveryReplay(row[0], row[1], row[2], DeliveryTarget(*row[3:]))


async def advance_replay(connection: AsyncConnection, replay: DeliveryReplay, position: int) -> None:
    """Moves a replay's position to `position`. Deletes the replay if this completes it."""
    if position >= replay.up_to:
        await connection.execute("DELETE FROM webhook_replays WHERE replay = %s", (replay.name,))
    else:
        await connection.execute("UPDATE webhook_replays SET position = %s WHERE replay = %s", (position, replay.name))
    await notify_due(connection)
