"""SQL that selects stored events."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from store.log.ids import LAST_POSITION
from store.postgres.queries import fetch_rows, text_array

COLUMNS = "notification_id, originator_id, originator_version, topic, state"
SELECT = f"SELECT {COLUMNS} FROM stored_events"
VERSION = "originator_version"
BY_STREAM = f"originator_id, {VERSION}"
MAX_LISTED = 8
"""Largest number of names that a query lists one by one (0.12 ms) instead of as an array (0.16 ms). PostgreSQL plans a
query with a list once, but a query with an array each time.
"""
LISTED = (1, 2, 4, MAX_LISTED)
"""Lengths that lists of names may have in queries. A list of another length is filled up to the next of these lengths,
so that each connection prepares few queries.
"""


def select_after(
    after: int,
    limit: int,
    names: Sequence[str] | None = None,
    up_to: int | None = None,
    max_bytes: int | None = None,
) -> tuple[str, tuple[object, ...]]:
    """Returns the query for at most `limit` events after position `after`, in order of position, and its parameters.

    With `names`, the query returns only events with these names. With `up_to`, it returns only events up to this
    position; otherwise up to the last position that was ever allocated. With `max_bytes`, it ends after the event with
    which the stored states have so many bytes together.
    """
    condition = (
        "notification_id > %s AND (%s::text[] IS NULL OR topic = ANY (%s::text[]))"
        f" AND notification_id <= {LAST_POSITION if up_to is None else '%s'}"
    )
    topics = None if names is None else text_array(names)
    values = (after, topics, topics, limit) if up_to is None else (after, topics, topics, up_to, limit)
    if max_bytes is None:
        return f"{SELECT} WHERE {condition} ORDER BY notification_id LIMIT %s", values
    return _select_some(condition, "notification_id", max_bytes), values


def select_streams(names: Sequence[str], limit: int, max_bytes: int) -> tuple[str, tuple[object, ...]]:
    """Returns the query for the events of these streams, ordered by stream and version, and its parameters. The query
    returns at most `limit` events. It ends early after the event with which the stored states have `max_bytes`
    bytes together.
    """
    condition, values = is_among("originator_id", names)
    # PostgreSQL would sort the events of one stream, which the index already orders.
    return _select_some(condition, VERSION if len(names) == 1 else BY_STREAM, max_bytes), (*values, limit)


def is_among(column: str, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Returns the SQL condition that a column has one of these names, and its parameters."""
    if len(names) > MAX_LISTED:
        return f"{column} = ANY (%s::text[])", (text_array(names),)
    count = next(count for count in LISTED if count >= len(names))
    return f"{column} IN ({', '.join(['%s'] * count)})", (*names, *[names[-1]] * (count - len(names)))


def select_stream(name: str, after: int, limit: int, max_bytes: int) -> tuple[str, tuple[object, ...]]:
    """Returns the query for the events of one stream after version `after`, in order, and its parameters. The query
    returns at most `limit` events. It ends early after the event with which the stored states have `max_bytes`
    bytes together.
    """
    condition = "originator_id = %s AND originator_version > %s"
    return _select_some(condition, VERSION, max_bytes), (name, after, limit)


def select_at(positions: Sequence[int], max_bytes: int) -> tuple[str, tuple[object, ...]]:
    """Returns the query for the events at these positions, in this order, and its parameters. The query ends early
    after the event with which the stored states have `max_bytes` bytes together.
    """
    size_before = "sum(octet_length(state)) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    return (
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, number, {size_before} AS before"
        " FROM unnest(%s::bigint[]) WITH ORDINALITY AS wanted(position, number)"
        f" JOIN stored_events ON notification_id = position) AS found WHERE before IS NULL OR before < {max_bytes}"
        " ORDER BY number",
        (list(positions),),
    )


class StreamRows(NamedTuple):
    """The first events of some streams."""

    rows: list[tuple[Any, ...]]
    unread: dict[str, int]
    """Name of each stream that may have further events -> version of its last event in `rows`; 0 if `rows` has none."""


async def load_streams(
    connection: AsyncConnection, asked: Sequence[Sequence[str]], limit: int, max_bytes: int
) -> list[StreamRows]:
    """Reads the first events of many streams by one query. Each element of `asked` is a list of streams. Returns a
    StreamRows for each of these lists. The query ends after `limit` events of all streams together, or after the event
    with which the stored states have `max_bytes` bytes together.
    """
    names = list({stream for streams in asked for stream in streams})
    found = await fetch_rows(connection, *select_streams(names, limit, max_bytes))
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in found:
        rows[row[1]].append(row)
    unread: dict[str, int] = {}
    if is_cut(found, limit, max_bytes):
        # The query ends in the stream of its last row. A stream without rows may come after it, or have no events.
        unread = {found[-1][1]: found[-1][2], **{name: 0 for name in names if name not in rows}}
    return [
        StreamRows(
            [row for stream in streams for row in rows.get(stream, ())],
            {stream: unread[stream] for stream in streams if stream in unread} if unread else unread,
        )
        for streams in asked
    ]


def is_cut(rows: Sequence[tuple[Any, ...]], limit: int, max_bytes: int) -> bool:
    """Returns whether a query reached one of its limits, so that further events may follow the returned rows."""
    return len(rows) == limit or sum(len(state) for *_, state in rows) >= max_bytes


def _select_some(condition: str, order: str, max_bytes: int) -> str:
    size_before = f"sum(octet_length(state)) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    return (
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, {size_before} AS before FROM stored_events WHERE {condition}"
        f" ORDER BY {order} LIMIT %s) AS found WHERE before IS NULL OR before < {max_bytes} ORDER BY {order}"
    )
