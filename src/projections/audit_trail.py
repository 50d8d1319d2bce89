"""Read model of the audit trail: finds the positions of events by project, actor, type and time.

Each event has a row of five numbers. The events themselves are only in the log. Actors and types are stored as hashes.
"""

import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from domain.core.events import Recorded
from projections.auth import UserRow
from projections.engine.model import Change, Int, Projection, Row, Rows, Table, no_rows
from projections.engine.queries import fetch_column, fetch_value
from projections.nodes import NodeRow
from store.postgres.queries import Source, fetch_rows

VERSION = 1
NO_PROJECT = 0
MAX_INDEX_LOOKUPS = 50
"""Largest number of projects, or of types, that a search looks up in the index one by one. With more of them, so many
events match that a scan finds the events fast.
"""
MAX_CLOCK_SKEW = timedelta(hours=1)
"""Largest difference allowed between the clocks of the processes that append to the log. If the clocks differ more, a
search by time may miss events.
"""


class TrailRow(Row, frozen=True):
    table = Table(
        "trail",
        VERSION,
        key=("position",),
        indexes=(
            "(position) WITH (fillfactor = 100)",
            "(at_us) WITH (fillfactor = 100)",
            "(project_id, position)",
            "(actor, position)",
            "(type, position)",
        ),
        append_only=True,
    )
    position: int
    at_us: int
    """Microseconds since 1970."""
    actor: int
    type: Int
    project_id: int
    """Id of the project that the event belongs to, or NO_PROJECT."""


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    return (make_row(recorded),)


def make_row(recorded: Recorded) -> TrailRow:
    event = recorded.event
    project_id: int | None = getattr(event, "project_id", None)
    return TrailRow(
        recorded.position,
        microseconds(event.at),
        actor_number(event.actor),
        type_number(event.name),
        project_id or NO_PROJECT,
    )


PROJECTION = Projection("trail", VERSION, (TrailRow,), no_rows, apply)


def microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6)  # exact up to 2**53, in the year 2255; whole numbers take twice the time


@lru_cache(10_000)
def actor_number(actor: str) -> int:
    return int.from_bytes(blake2b(actor.encode(), digest_size=8).digest(), signed=True)


@lru_cache(1_000)
def type_number(name: str) -> int:
    return zlib.crc32(name.encode()) - 2**31


@dataclass(frozen=True)
class TrailFilter:
    """Conditions on events: an event must meet all of them. A field that is None sets no condition."""

    projects: Collection[int] | None = None
    stream: str | None = None
    types: Collection[str] | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None


async def find_positions(source: Source, wanted: TrailFilter, *, newest: bool, limit: int) -> list[int]:
    """Returns up to `limit` positions of events that meet the conditions: the newest first if `newest`, else the oldest
    first.
    """
    conditions, parameters = ["true"], dict[str, Any](limit=limit)

    def must(condition: str, **values: Any) -> None:
        conditions.append(condition)
        parameters.update(values)

    # Among the conditions with several values, that with the fewest is looked up value by value: only then does an
    # index return the rows in the wanted order. Otherwise PostgreSQL would scan the log for matches, which may be far
    # back. A condition with very many values has so many matches that the scan is fast.
    lookup = ""
    for column, sql_type, values in sorted(_chosen(wanted), key=lambda one: len(one[2])):
        parameters[column] = values
        if lookup or len(values) > MAX_INDEX_LOOKUPS:
            must(f"{column} = ANY (%({column})s::{sql_type}[])")
        else:
            lookup = f"unnest(%({column})s::{sql_type}[]) AS one(value) CROSS JOIN LATERAL"
            must(f"{column} = one.value")
    if wanted.stream is not None:
        of_stream = "SELECT notification_id FROM stored_events WHERE originator_id = %(stream)s"
        must(f"position = ANY (ARRAY({of_stream}))", stream=wanted.stream)
    # A range of positions that is a little wider than the period keeps PostgreSQL from reading rows far from it. `at_us
    # + 0` keeps the planner from using the index on time for the exact bound, which would read and sort all rows of the
    # period.
    if wanted.since is not None:
        bound = f"SELECT position FROM {TrailRow.table} WHERE at_us < %(long_before)s ORDER BY at_us DESC LIMIT 1"
        must(
            f"at_us + 0 >= %(since)s AND position > coalesce(({bound}), 0)",
            since=microseconds(wanted.since),
            long_before=microseconds(wanted.since) - MAX_CLOCK_SKEW // timedelta(microseconds=1),
        )
    if wanted.until is not None:
        bound = f"SELECT position FROM {TrailRow.table} WHERE at_us > %(long_after)s ORDER BY at_us LIMIT 1"
        must(
            f"at_us + 0 < %(until)s AND position < coalesce(({bound}), {2**62})",
            until=microseconds(wanted.until),
            long_after=microseconds(wanted.until) + MAX_CLOCK_SKEW // timedelta(microseconds=1),
        )
    if wanted.after is not None:
        must("position > %(after)s", after=wanted.after)
    if wanted.before is not None:
        must("position < %(before)s", before=wanted.before)
    first = f"ORDER BY position {'DESC' if newest else 'ASC'} LIMIT %(limit)s"
    each = f"SELECT position FROM {TrailRow.table} WHERE {' AND '.join(conditions)} {first}"
    query = f"SELECT position FROM {lookup} ({each}) found {first}"
    return await fetch_column(source, query, parameters)


def _chosen(wanted: TrailFilter) -> Iterator[tuple[str, str, list[int]]]:
    """Yields (column, SQL type, values) for each condition of the form `column = ANY (values)`."""
    if wanted.actor is not None:
        yield "actor", "bigint", [actor_number(wanted.actor)]
    if wanted.types is not None:
        yield "type", "int", [type_number(name) for name in dict.fromkeys(wanted.types)]
    if wanted.projects is not None:
        yield "project_id", "bigint", list(dict.fromkeys(wanted.projects))


async def fetch_stream_positions(
    source: Source, stream: str, *, after: int, before: int, newest: bool, limit: int
) -> dict[int, int]:
    """Returns version -> position for up to `limit` events of a stream: the newest if `newest`, else the oldest. The
    versions are between `after` and `before`, both excluded. Reads the log, not the trail.
    """
    query = (
        "SELECT originator_version, notification_id FROM stored_events WHERE originator_id = %(stream)s"
        " AND originator_version > %(after)s AND originator_version < %(before)s"
        f" ORDER BY originator_version {'DESC' if newest else 'ASC'} LIMIT %(limit)s"
    )
    parameters = {"stream": stream, "after": after, "before": before, "limit": limit}
    return dict(await fetch_rows(source, query, parameters))


async def has_project(source: Source, project_id: int) -> bool:
    """Returns whether any event belongs to this project. Events of a deleted project stay in the trail."""
    query = f"SELECT 1 FROM {TrailRow.table} WHERE project_id = %(project)s LIMIT 1"
    return await fetch_value(source, query, {"project": project_id}) is not None


async def find_project_at(source: Source, position: int) -> int | None:
    """Returns the id of the project that the event at a position belongs to; None if it belongs to none."""
    query = f"SELECT nullif(project_id, {NO_PROJECT}) FROM {TrailRow.table} WHERE position = %(position)s"
    found: int | None = await fetch_value(source, query, {"position": position})
    return found


async def has_unsealed(source: Source, before: datetime) -> bool:
    """Returns whether there is an event older than `before` that the newest checkpoint does not cover. Returns False if
    there is no checkpoint.
    """
    query = (
        f"SELECT at_us < %(before)s FROM {TrailRow.table} WHERE position > (SELECT max(size) FROM audit_checkpoints)"
        " ORDER BY position LIMIT 1"
    )
    return bool(await fetch_value(source, query, {"before": microseconds(before)}))


async def fetch_actor_names(source: Source, actors: Collection[str]) -> dict[str, str]:
    """Returns actor (such as `user:7`) -> current name. Leaves out deleted users, deleted nodes and the server
    itself.
    """
    query = (
        f"SELECT 'user:' || id, coalesce(nullif(trim(first_name || ' ' || last_name), ''), email) FROM {UserRow.table}"
        f" WHERE id = ANY (%(users)s::bigint[]) UNION ALL"
        f" SELECT 'node:' || id, name FROM {NodeRow.table} WHERE id = ANY (%(nodes)s::bigint[])"
    )
    parameters = {"users": _numbers("user", actors), "nodes": _numbers("node", actors)}
    return dict(await fetch_rows(source, query, parameters))


def _numbers(kind: str, actors: Collection[str]) -> list[int]:
    numbers = (actor.removeprefix(f"{kind}:") for actor in actors if actor.startswith(f"{kind}:"))
    return [int(number) for number in numbers if number.isdecimal()]
