"""Endpoints as the delivery planner sees them: their state at the planner's position in the log, and their health.

The planner folds events about endpoints into the table `webhook_endpoints`, in the transaction that moves the planner's
position. So when the planner plans the deliveries of an event, the table has the endpoints as they were at this event.
Senders record the health: failures in a row and pauses.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from domain.endpoints import EndpointKind
from store.postgres.queries import Source, fetch_row, fetch_rows

FOLDED_COLUMNS = ("url", "events", "sealed_secret", "active")
"""Columns that an update of an endpoint may change. `url` is NULL for a Teams channel: the sender reads the channel's
URL from the log.
"""

DEPENDENT_TABLES = ("webhook_deliveries", "webhook_attempts", "webhook_replays")


class DeliveryTarget(NamedTuple):
    """An endpoint, with the fields that decide which events it receives."""

    id: int
    kind: EndpointKind
    project_id: int | None
    """None for an endpoint of all projects."""
    events: list[str]
    """The notification types that the endpoint is registered for."""
    active: bool


class HealthChange(NamedTuple):
    """An endpoint that began to fail, or that recovered. No event records this yet."""

    kind: EndpointKind
    endpoint_id: int
    error: str | None
    """The last error of an endpoint that began to fail; None if the endpoint recovered."""


async def fetch_targets(connection: AsyncConnection, project_ids: Collection[int]) -> list[DeliveryTarget]:
    """Returns the endpoints of these projects, and the endpoints that are notified of all projects."""
    query = (
        "SELECT id, kind, project_id, events, active FROM webhook_endpoints"
        " WHERE project_id IS NULL OR project_id = ANY (%s) ORDER BY id"
    )
    return [DeliveryTarget(*row) for row in await fetch_rows(connection, query, (sorted(project_ids),))]


async def fetch_types(connection: AsyncConnection) -> set[str]:
    """Returns the notification types that any endpoint, active or not, is registered for."""
    rows = await fetch_rows(connection, "SELECT DISTINCT unnest(events) FROM webhook_endpoints")
    return {type_ for (type_,) in rows}


async def fetch_ids(source: Source) -> set[int]:
    return {number for (number,) in await fetch_rows(source, "SELECT id FROM webhook_endpoints")}


async def fetch_ids_of_project(connection: AsyncConnection, project_id: int) -> list[int]:
    query = "SELECT id FROM webhook_endpoints WHERE project_id = %s ORDER BY id"
    return [number for (number,) in await fetch_rows(connection, query, (project_id,))]


async def lock_endpoints(connection: AsyncConnection, endpoint_ids: Collection[int]) -> None:
    """Locks endpoints until the transaction ends, in the order of their ids, so that transactions cannot deadlock."""
    await connection.execute(
        "SELECT FROM webhook_endpoints WHERE id = ANY (%s) ORDER BY id FOR UPDATE",
        (sorted(endpoint_ids),),
        prepare=True,
    )


async def fetch_folded(source: Source, endpoint_id: int, planner: str) -> tuple[dict[str, Any] | None, int]:
    """Returns (columns, position): the columns of an endpoint as the planner folded them from events, and the planner's
    position. `columns` is None if the table lacks the endpoint.
    """
    columns = ", ".join(f"'{column}', e.{column}" for column in ("kind", "project_id", "url", "events", "active"))
    row = await fetch_row(
        source,
        f"SELECT CASE WHEN e.id IS NOT NULL THEN jsonb_build_object({columns}) END, e.sealed_secret,"
        " coalesce(p.position, 0) FROM (SELECT) one LEFT JOIN webhook_endpoints e ON e.id = %s"
        " LEFT JOIN reaction_positions p ON p.reaction = %s",
        (endpoint_id, planner),
    )
    assert row is not None
    found, sealed_secret, position = row
    return None if found is None else found | {"sealed_secret": sealed_secret}, int(position)


async def add_endpoint(
    connection: AsyncConnection, target: DeliveryTarget, url: str | None = None, sealed_secret: bytes | None = None
) -> None:
    await connection.execute(
        "INSERT INTO webhook_endpoints (id, kind, project_id, events, active, url, sealed_secret)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (*target, url, sealed_secret),
    )


async def update_endpoint(connection: AsyncConnection, endpoint_id: int, changes: Mapping[str, Any]) -> None:
    """Stores the values in `changes` whose names are in FOLDED_COLUMNS. Ignores the other values."""
    changed = {column: changes[column] for column in FOLDED_COLUMNS if column in changes}
    if changed:
        columns = ", ".join(f"{column} = %({column})s" for column in changed)
        await connection.execute(
            f"UPDATE webhook_endpoints SET {columns} WHERE id = %(id)s".encode(), changed | {"id": endpoint_id}
        )


async def reset_health(connection: AsyncConnection, endpoint_id: int, now: datetime) -> None:
    """Ends the pause of an endpoint, and makes its pending deliveries due now. A failing endpoint still counts as
    failing until a delivery succeeds: at first only one delivery is tried.
    """
    await connection.execute(
        "UPDATE webhook_endpoints SET failures_in_a_row = CASE WHEN open_until IS NULL THEN 0 ELSE failures_in_a_row"
        " END, pause_s = 0, open_until = CASE WHEN open_until IS NOT NULL THEN %s END, probing = false WHERE id = %s",
        (now, endpoint_id),
    )
    await connection.execute(
        "UPDATE webhook_deliveries SET due_at = %s, since = %s"
        " WHERE webhook_id = %s AND state = 'pending' AND NOT leased",
        (now, now, endpoint_id),
    )


async def delete_endpoints(connection: AsyncConnection, endpoint_ids: list[int]) -> None:
    """Deletes endpoints with their deliveries, replays and history."""
    await connection.execute("DELETE FROM webhook_endpoints WHERE id = ANY (%s)", (endpoint_ids,))
    for table in DEPENDENT_TABLES:
        await connection.execute(f"DELETE FROM {table} WHERE webhook_id = ANY (%s)".encode(), (endpoint_ids,))


async def delete_endpoints_of_project(connection: AsyncConnection, project_id: int) -> None:
    await delete_endpoints(connection, await fetch_ids_of_project(connection, project_id))


async def fetch_health_changes(connection: AsyncConnection) -> list[HealthChange]:
    cursor = await connection.execute(
        "SELECT kind, id, CASE WHEN open_until IS NULL THEN NULL ELSE coalesce(last_error, '') END"
        " FROM webhook_endpoints WHERE said_failing <> (open_until IS NOT NULL)",
        prepare=True,
    )
    return [HealthChange(*row) for row in await cursor.fetchall()]


async def mark_health_published(connection: AsyncConnection, endpoint_id: int, *, failing: bool) -> None:
    await connection.execute("UPDATE webhook_endpoints SET said_failing = %s WHERE id = %s", (failing, endpoint_id))
