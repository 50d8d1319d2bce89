"""Due reactions: events that a reaction still has to handle, with the number of tries and the last error.

A worker leases a due reaction and runs it. After a try that failed there is a pause, each twice as long as the one
before. When the last try has failed, the reaction is parked: it stays with its error until an operator retries it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from psycopg import AsyncConnection

from store.postgres.queries import Source, execute, fetch_row, fetch_rows

FIRST_PAUSE_S = 5
"""Seconds from the first failed try to the next. Each of the next ten pauses is twice as long as the one before."""
LEASE_S = 30
"""Seconds of a lease, at least. Whoever runs a reaction renews its lease; a worker that cannot do so for this long may
find that another one runs the reaction too. A lease is no shorter than the pause would be, so that a reaction that ends
its worker does so ever more rarely.
"""
MAX_TRIES = 20
"""Tries before a reaction is parked, over some 14 hours."""
MAX_SHOWN_ERRORS = 5
_LEASED_S = f"greatest({LEASE_S}, {FIRST_PAUSE_S} * power(2, least(d.tries, 10)))"
_PAUSE_S = f"{FIRST_PAUSE_S} * power(2, least(tries - 1, 10))"
"""SQL expression for the pause after a try, with the number of failed tries before it."""


class Due(NamedTuple):
    """A try of a due reaction."""

    reaction: str
    position: int
    tries: int
    """Number of tries, including this one."""


class ReactionStatus(msgspec.Struct):
    name: str
    position: int | None
    """Position up to which the log was read; None when nobody reads for it any more, but events are still due."""
    due: int
    """Number of events still to react to, including events for which a try failed and another will follow."""
    parked: int
    """Number of events for which its last try failed. They wait until an operator retries them."""
    errors: list[str]
    """Errors of the first parked reactions: `position 12: ...`."""


async def add_due(connection: AsyncConnection, name: str, positions: Sequence[int]) -> None:
    await connection.execute(
        "INSERT INTO due_reactions (reaction, position) SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
        (name, list(positions)),
    )


async def park(connection: AsyncConnection, name: str, position: int, error: str) -> None:
    """Stores as parked an event that a reaction cannot handle. It becomes due only when an operator retries it."""
    await connection.execute(
        "INSERT INTO due_reactions (reaction, position, tries, error) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (name, position, MAX_TRIES, error),
    )


async def fetch_due(source: Source, names: Sequence[str], limit: int, *, late_s: float = 0) -> list[Due]:
    """Returns the next tries of reactions with these names, longest due first, that have been due for `late_s`."""
    rows = await fetch_rows(
        source,
        "SELECT reaction, position, tries + 1 FROM due_reactions"
        " WHERE due_at <= now() - make_interval(secs => %s) AND tries < %s AND reaction = ANY (%s)"
        " ORDER BY due_at LIMIT %s",
        (late_s, MAX_TRIES, list(names), limit),
    )
    return [Due(*row) for row in rows]


async def lease(source: Source, due: Due) -> bool:
    """Leases a try to the caller. Returns False if somebody else has leased it, or it is not due any more.

    If the caller crashes, the next try is due when the lease ends.
    """
    cursor = await execute(
        source,
        f"UPDATE due_reactions d SET tries = %s, due_at = now() + make_interval(secs => {_LEASED_S})"
        " WHERE reaction = %s AND position = %s AND tries = %s AND due_at <= now()",
        (due.tries, due.reaction, due.position, due.tries - 1),
    )
    return cursor.rowcount == 1


async def renew(source: Source, due: Due) -> None:
    """Makes the lease last for LEASE_S from now, at least."""
    await execute(
        source,
        f"UPDATE due_reactions SET due_at = greatest(due_at, now() + make_interval(secs => {LEASE_S}))"
        " WHERE reaction = %s AND position = %s AND tries = %s",
        due,
    )


async def lease_due(connection: AsyncConnection, names: Sequence[str], limit: int) -> list[Due]:
    """Leases up to `limit` tries of reactions with these names to the caller, as `lease` does."""
    return [due for due in await fetch_due(connection, names, limit) if await lease(connection, due)]


async def mark_done(source: Source, due: Due) -> None:
    await execute(
        source, "DELETE FROM due_reactions WHERE reaction = %s AND position = %s", (due.reaction, due.position)
    )


async def mark_failed(source: Source, due: Due, error: str) -> None:
    """Stores the error of a try. The next try follows after a pause."""
    await execute(
        source,
        f"UPDATE due_reactions SET error = %s, due_at = now() + make_interval(secs => {_PAUSE_S})"
        " WHERE reaction = %s AND position = %s AND tries = %s",
        (error, *due),
    )


async def has_parked(connection: AsyncConnection) -> bool:
    query = "SELECT EXISTS (SELECT FROM due_reactions WHERE tries >= %s)"
    return await fetch_row(connection, query, (MAX_TRIES,)) == (True,)


async def fetch_overdue(connection: AsyncConnection, overdue_s: float) -> dict[str, float]:
    """Returns reaction -> seconds since its oldest event was due, for reactions that are more than `overdue_s` late."""
    rows = await fetch_rows(
        connection,
        "SELECT reaction, extract(epoch FROM now() - min(due_at))::float8 FROM due_reactions"
        " WHERE tries < %s AND due_at < now() - make_interval(secs => %s) GROUP BY reaction ORDER BY reaction",
        (MAX_TRIES, overdue_s),
    )
    return dict[str, float](rows)


async def fetch_statuses(source: Source) -> list[ReactionStatus]:
    """Returns the status of all reactions that have a position or due events, also of those that only another release
    has.
    """
    rows = await fetch_rows(
        source,
        "SELECT n.name, p.position, count(d.position) FILTER (WHERE d.tries < %(most)s),"
        " count(d.position) FILTER (WHERE d.tries >= %(most)s),"
        " coalesce((array_agg(format('position %%s: %%s', d.position, coalesce(d.error, 'its worker died each time'))"
        "  ORDER BY d.position) FILTER (WHERE d.tries >= %(most)s))[:%(shown)s], '{}')"
        " FROM (SELECT reaction AS name FROM reaction_positions UNION SELECT reaction FROM due_reactions) n"
        " LEFT JOIN reaction_positions p ON p.reaction = n.name LEFT JOIN due_reactions d ON d.reaction = n.name"
        " GROUP BY n.name, p.position ORDER BY n.name",
        {"most": MAX_TRIES, "shown": MAX_SHOWN_ERRORS},
    )
    return [ReactionStatus(*row) for row in rows]


async def retry_parked(connection: AsyncConnection, name: str | None) -> int:
    """Makes the parked events of the reaction `name` (None: of all reactions) due, with all tries again. Returns their
    number.
    """
    cursor = await connection.execute(
        "UPDATE due_reactions SET tries = 0, due_at = now() WHERE tries >= %s AND (%s::text IS NULL OR reaction = %s)",
        (MAX_TRIES, name, name),
    )
    return cursor.rowcount
