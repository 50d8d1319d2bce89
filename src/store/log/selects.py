"""SQL that selects stored events."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from store.log.ids import LAST_POSITION
from store.postgres.queries import fetch_rows

COLUMNS = "notification_id, originator_id, originator_version, topic, state"
SELECT = f"SELECT {COLUMNS} FROM stored_events"


def select_after(
    after: int,
    limit: int,
    names: Sequence[str] | None = None,
    up_to: int | None = None,
    max_bytes: int | None = None,
) -> tuple[str, tuple[object, ...]]:
    """Returns the query of `EventLog.read`, and its values. With `max_bytes`, the query returns no further event after
    events of this size.
    """
    condition = (
        "notification_id > %s AND (%s::text[] IS NULL OR topic = ANY (%s::text[]))"
        f" AND notification_id <= {LAST_POSITION if up_to is None else '%s'} ORDER BY notification_id LIMIT %s"
    )
    values = (after, names, names, limit) if up_to is None else (after, names, names, up_to, limit)
    if max_bytes is None:
        return f"{SELECT} WHERE {condition}", values
    size_before = (
        "sum(octet_length(state)) OVER (ORDER BY notification_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    )
    return (
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, {size_before} AS before FROM stored_events WHERE {condition})"
        f" AS found WHERE before IS NULL OR before < {max_bytes} ORDER BY notification_id",
        values,
    )


def select_at(positions: Sequence[int], max_bytes: int) -> tuple[str, tuple[object, ...]]:
    """Returns the query for the events at these positions, in this order, and its values. The query returns no further
    event after events of `max_bytes`.
    """
    size_before = "sum(octet_length(state)) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    return (
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, number, {size_before} AS before"
        " FROM unnest(%s::bigint[]) WITH ORDINALITY AS wanted(position, number)"
        f" JOIN stored_events ON notification_id = position) AS found WHERE before IS NULL OR before < {max_bytes}"
        " ORDER BY number",
        (list(positions),),
    )


async def load_streams(connection: AsyncConnection, asked: Sequence[Sequence[str]]) -> list[list[tuple[Any, ...]]]:
    """Returns the rows of all events in the streams of each element of `asked`."""
    found = await fetch_rows(
        connection,
        f"{SELECT} WHERE originator_id = ANY (%s) ORDER BY originator_id, originator_version",
        (list({stream for streams in asked for stream in streams}),),
    )
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in found:
        rows[row[1]].append(row)
    return [[row for stream in streams for row in rows[stream]] for streams in asked]
