"""Due reactions: events that a reaction still has to handle, with the number of tries and the last error.

A worker leases a due reaction and runs it. A pause follows a failed try. Each pause is twice as long as the one before,
up to a limit. When the last try has failed, the due reaction is parked: it stays, with its error, until an operator
retries or cancels it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from psycopg import AsyncConnection

from store.postgres.queries import Source, execute, fetch_row, fetch_rows

MIN_LEASE_S = 30
"""Shortest lease, in seconds. The worker that runs a reaction renews its lease. If it cannot do so for this long,
another worker may run the reaction, too.

A lease is never shorter than the pause after a failed try. So a reaction that crashes its worker is tried ever more
rarely.
"""
PROJECT_SLOTS = 2
"""Largest number of reactions of one project that a process runs at once, among the reactions that take turns. It is a
tenth of the process's slots, so that a project with many due reactions leaves room for other projects.
"""
MAX_SHOWN = 5
"""Largest number of errors, and of progress reports, that the status of a reaction shows."""


@dataclass(frozen=True)
class RetryPolicy:
    """The number of tries of a reaction, and the pauses between them."""

    tries: int = 20
    """Number of tries after which a reaction is parked. The default number takes some 14 hours."""
    first_pause_s: float = 5
    """Seconds from the first failed try to the next. Each later pause is twice as long as the one before."""
    max_pause_s: float = 5_120

    def pause_after(self, failed: int) -> float:
        """Returns the seconds to wait after failed try number `failed`, counted from 1."""
        doublings = min(failed - 1, 30)  # far above every limit; larger powers need not fit a float
        return min(self.max_pause_s, self.first_pause_s * float(1 << doublings))


DEFAULT_RETRIES = RetryPolicy()


class Due(NamedTuple):
    """A try of a due reaction."""

    reaction: str
    position: int
    tries: int
    """Number of tries, including this one."""


class Lease(NamedTuple):
    failed: int
    """Number of earlier tries that failed or whose worker died. A try that `mark_waiting` postponed does not count."""
    age_s: float
    """Seconds since the reaction became due for this event, or an operator retried it."""


class ReactionStatus(msgspec.Struct):
    name: str
    position: int | None
    """Position up to which a worker has read the log for this reaction. None if no worker does so any more, but events
    are still due.
    """
    due: int
    """Number of events that the reaction still has to handle, including events for which a failed try will be
    repeated.
    """
    parked: int
    """Number of events for which the last try of the reaction failed. They wait until an operator retries or cancels
    them.
    """
    progress: list[str]
    """Progress with events that take long: `position 12: 3,000 of 8,000 artifacts deleted`. Lists only the first
    few.
    """
    errors: list[str]
    """Errors of parked events: `position 12: ...`. Lists only the first few."""


async def add_due(connection: AsyncConnection, name: str, due: Mapping[int, int | None]) -> None:
    """Stores that a reaction is due for these events. `due` maps the position of each event to the project in whose
    turns the reaction runs, or to None if the reaction takes no turns.
    """
    await connection.execute(
        "INSERT INTO due_reactions (reaction, position, project_id)"
        " SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[]) ON CONFLICT DO NOTHING",
        (name, list(due), list(due.values())),
    )


async def park(connection: AsyncConnection, name: str, position: int, error: str) -> None:
    """Parks an event that a reaction cannot handle. It becomes due only when an operator retries it."""
    await connection.execute(
        "INSERT INTO due_reactions (reaction, position, error, parked_at) VALUES (%s, %s, %s, now())"
        " ON CONFLICT DO NOTHING",
        (name, position, error),
    )


async def fetch_due(source: Source, names: Sequence[str], limit: int, *, late_s: float = 0) -> list[Due]:
    """Returns at most `limit` due tries of the reactions `names`, those due longest first. Leaves out tries that have
    been due for less than `late_s` seconds. Of reactions that take turns, returns at most PROJECT_SLOTS tries of each
    project.
    """
    rows = await fetch_rows(
        source,
        "SELECT reaction, position, tries + 1 FROM ("
        "  SELECT *, CASE WHEN project_id IS NOT NULL"
        "   THEN row_number() OVER (PARTITION BY project_id ORDER BY due_at, position) ELSE 0 END AS turn"
        "  FROM due_reactions"
        "  WHERE due_at <= now() - make_interval(secs => %s) AND parked_at IS NULL AND reaction = ANY (%s)) d"
        " WHERE turn <= %s ORDER BY due_at, position LIMIT %s",
        (late_s, list(names), PROJECT_SLOTS, limit),
    )
    return [Due(*row) for row in rows]


async def find_names_of_due(source: Source) -> set[str]:
    """Returns the names of the reactions that are due for at least one event now."""
    rows = await fetch_rows(
        source, "SELECT DISTINCT reaction FROM due_reactions WHERE due_at <= now() AND parked_at IS NULL", ()
    )
    return {name for (name,) in rows}


async def fetch_next_of_project(source: Source, names: Sequence[str], project_id: int) -> list[Due]:
    """Returns at most PROJECT_SLOTS due tries of a project's reactions with these names, those due longest first."""
    rows = await fetch_rows(
        source,
        "SELECT reaction, position, tries + 1 FROM due_reactions"
        " WHERE due_at <= now() AND parked_at IS NULL AND reaction = ANY (%s) AND project_id = %s"
        " ORDER BY due_at, position LIMIT %s",
        (list(names), project_id, PROJECT_SLOTS),
    )
    return [Due(*row) for row in rows]


async def find_project(source: Source, due: Due) -> int | None:
    """Returns the project in whose turns a due reaction runs. Returns None if the reaction takes no turns, or is not
    due any more.
    """
    row = await fetch_row(
        source,
        "SELECT project_id FROM due_reactions WHERE reaction = %s AND position = %s",
        (due.reaction, due.position),
    )
    return None if row is None else row[0]


async def count_due(source: Source, name: str, project_id: int, limit: int) -> int:
    """Returns the number of a project's events for which the reaction `name` is due or under way, up to `limit`."""
    row = await fetch_row(
        source,
        "SELECT count(*) FROM (SELECT FROM due_reactions"
        " WHERE reaction = %s AND project_id = %s AND parked_at IS NULL LIMIT %s) d",
        (name, project_id, limit),
    )
    assert row is not None, "it counts"
    return int(row[0])


async def lease(source: Source, due: Due, retries: RetryPolicy) -> Lease | None:
    """Leases a try to the caller. Returns None if another worker has leased the try, or if it is not due any more.

    If the caller crashes, the next try becomes due at the end of the lease. The lease grows with the failed tries only,
    not with those that had to wait for an outside system.
    """
    leases = [float(max(MIN_LEASE_S, retries.pause_after(failed))) for failed in range(1, retries.tries + 1)]
    row = await fetch_row(
        source,
        "UPDATE due_reactions SET tries = %s, due_at = now() + make_interval(secs =>"
        "  (%s::float8[])[least(%s - waits, %s)])"
        " WHERE reaction = %s AND position = %s AND tries = %s AND due_at <= now() AND parked_at IS NULL"
        " RETURNING tries - 1 - waits, extract(epoch FROM now() - noted_at)::float8",
        (due.tries, leases, due.tries, retries.tries, due.reaction, due.position, due.tries - 1),
    )
    return None if row is None else Lease(*row)


async def renew(source: Source, due: Due, progress: str | None) -> bool:
    """Extends the lease to at least MIN_LEASE_S seconds from now, and stores the progress of the work. Returns False if
    the lease is lost: the reaction was cancelled, or another worker has leased it.
    """
    cursor = await execute(
        source,
        f"UPDATE due_reactions SET due_at = greatest(due_at, now() + make_interval(secs => {MIN_LEASE_S})),"
        " progress = coalesce(%s, progress)"
        " WHERE reaction = %s AND position = %s AND tries = %s AND parked_at IS NULL",
        (progress, *due),
    )
    return cursor.rowcount == 1


async def lease_due(connection: AsyncConnection, names: Sequence[str], limit: int) -> list[Due]:
    """Leases up to `limit` due tries of the reactions `names` to the caller. Returns the leased tries."""
    due = await fetch_due(connection, names, limit)
    return [one for one in due if await lease(connection, one, DEFAULT_RETRIES)]


async def mark_done(source: Source, due: Due) -> None:
    """Removes a due reaction, unless it was cancelled meanwhile."""
    await execute(
        source,
        "DELETE FROM due_reactions WHERE reaction = %s AND position = %s AND parked_at IS NULL",
        (due.reaction, due.position),
    )


async def mark_failed(source: Source, due: Due, error: str | None, pause_s: float | None) -> None:
    """Stores the error of a failed try; None keeps the previous error. Makes the next try due in `pause_s` seconds, or
    parks the reaction if `pause_s` is None.
    """
    await execute(
        source,
        "UPDATE due_reactions SET error = coalesce(%s, error), due_at = now() + make_interval(secs => %s),"
        " parked_at = CASE WHEN %s THEN now() END"
        " WHERE reaction = %s AND position = %s AND tries = %s AND parked_at IS NULL",
        (error, pause_s or 0, pause_s is None, *due),
    )


async def mark_waiting(source: Source, due: Due, reason: str, seconds: float) -> None:
    """Postpones the try by `seconds`, and stores the reason. The try does not count as failed."""
    await execute(
        source,
        "UPDATE due_reactions SET error = %s, due_at = now() + make_interval(secs => %s), waits = waits + 1"
        " WHERE reaction = %s AND position = %s AND tries = %s AND parked_at IS NULL",
        (reason, seconds, *due),
    )


async def has_parked(connection: AsyncConnection) -> bool:
    query = "SELECT EXISTS (SELECT FROM due_reactions WHERE parked_at IS NOT NULL)"
    return await fetch_row(connection, query) == (True,)


async def fetch_overdue(connection: AsyncConnection, overdue_s: float) -> dict[str, float]:
    """Returns reaction -> seconds for which its oldest event has been due, for reactions that are more than `overdue_s`
    seconds late.
    """
    rows = await fetch_rows(
        connection,
        "SELECT reaction, extract(epoch FROM now() - min(due_at))::float8 FROM due_reactions"
        " WHERE parked_at IS NULL AND due_at < now() - make_interval(secs => %s) GROUP BY reaction ORDER BY reaction",
        (overdue_s,),
    )
    return dict[str, float](rows)


async def fetch_progress(connection: AsyncConnection) -> list[str]:
    """Returns the last progress reports of due reactions, in the order of position: at most MAX_SHOWN reports."""
    rows = await fetch_rows(
        connection,
        "SELECT format('%%s at position %%s: %%s', reaction, position, progress) FROM due_reactions"
        " WHERE progress IS NOT NULL AND parked_at IS NULL ORDER BY position LIMIT %s",
        (MAX_SHOWN,),
    )
    return [text for (text,) in rows]


async def fetch_statuses(source: Source) -> list[ReactionStatus]:
    """Returns the status of each reaction that has a stored position or due events, ordered by name. Includes reactions
    that only another release knows.
    """
    rows = await fetch_rows(
        source,
        "SELECT n.name, p.position, count(d.position) FILTER (WHERE d.parked_at IS NULL), count(d.parked_at),"
        " coalesce((array_agg(format('position %%s: %%s', d.position, d.progress)"
        "  ORDER BY d.position) FILTER (WHERE d.progress IS NOT NULL AND d.parked_at IS NULL))[:%(shown)s], '{}'),"
        " coalesce((array_agg(format('position %%s: %%s', d.position, coalesce(d.error, 'its worker died each time'))"
        "  ORDER BY d.position) FILTER (WHERE d.parked_at IS NOT NULL))[:%(shown)s], '{}')"
        " FROM (SELECT reaction AS name FROM reaction_positions UNION SELECT reaction FROM due_reactions) n"
        " LEFT JOIN reaction_positions p ON p.reaction = n.name LEFT JOIN due_reactions d ON d.reaction = n.name"
        " GROUP BY n.name, p.position ORDER BY n.name",
        {"shown": MAX_SHOWN},
    )
    return [ReactionStatus(*row) for row in rows]


async def retry_parked(connection: AsyncConnection, name: str | None) -> int:
    """Makes parked events due, each with all its tries again. Returns their number. `name` chooses a reaction; None
    chooses all.
    """
    cursor = await connection.execute(
        "UPDATE due_reactions SET tries = 0, waits = 0, due_at = now(), noted_at = now(), parked_at = NULL"
        " WHERE parked_at IS NOT NULL AND (%s::text IS NULL OR reaction = %s)",
        (name, name),
    )
    return cursor.rowcount


async def halt(connection: AsyncConnection, name: str, position: int, why: str) -> bool:
    """Parks a due reaction at once, so that its worker ends when it next renews the lease. Returns False if the
    reaction is neither due nor parked at this position.
    """
    cursor = await connection.execute(
        "UPDATE due_reactions SET parked_at = now(), error = %s WHERE reaction = %s AND position = %s",
        (why, name, position),
    )
    return cursor.rowcount == 1


async def remove_parked(connection: AsyncConnection, name: str, position: int) -> None:
    await connection.execute(
        "DELETE FROM due_reactions WHERE reaction = %s AND position = %s AND parked_at IS NOT NULL", (name, position)
    )


async def find_given_up(source: Source, reaction: str, positions: Sequence[int]) -> list[int]:
    """Returns the positions, among `positions`, whose events the reaction will not handle by itself. Either the event
    is parked for the reaction, and an operator can still retry it. Or the reaction has read the log beyond the event
    and is not due for it: it was handled or cancelled.
    """
    rows = await fetch_rows(
        source,
        "SELECT n FROM unnest(%(positions)s::bigint[]) n JOIN reaction_positions p ON p.reaction = %(reaction)s"
        " LEFT JOIN due_reactions d ON d.reaction = p.reaction AND d.position = n"
        " WHERE p.position >= n AND (d.position IS NULL OR d.parked_at IS NOT NULL) ORDER BY n",
        {"positions": list(positions), "reaction": reaction},
    )
    return [position for (position,) in rows]


async def find_progress(source: Source, reaction: str, position: int) -> str | None:
    """Returns the last progress report of a reaction to an event. Returns None if there is no report, or if the
    reaction is done.
    """
    row = await fetch_row(
        source, "SELECT progress FROM due_reactions WHERE reaction = %s AND position = %s", (reaction, position)
    )
    return None if row is None else row[0]
