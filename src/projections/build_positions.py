"""Read model of the positions at which builds were queued, started, ended and deleted. With it, queries find the builds
of a past moment.

Rows contain only numbers, the creation time and the verdict. They stay when a build is deleted. Everything else about a
past build is folded from its events (`projections.time_travel`).
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.builds import BuildDeleted, BuildFinished, BuildQueued, BuildRequeued, BuildStarted
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobDeleted
from projections import builds
from projections.builds import BuildCount, BuildFilters, BuildRow
from projections.engine.model import Change, Projection, Row, Rows, Table, row_of
from projections.engine.queries import fetch_column

VERSION = 1
NEVER = 2**62
"""Stands for the position of an event that has not happened. It is higher than all positions."""
MAX_CONCURRENT_STARTS = 1_000
"""Largest number of other builds that may be queued between the allocation of a build's id and the build's event
`build.queued`. If there are more, lists of past builds may lack some builds.
"""


class BuildPositionsRow(Row, frozen=True):
    table = Table(
        "build_positions",
        VERSION,
        indexes=(
            "(job_id, id DESC)",
            "(project_id, id DESC)",
            "(queued)",
            "USING gist (int8range(queued, ended))",
        ),
    )
    id: int
    job_id: int
    project_id: int
    created_at: datetime
    queued: int
    turns: list[int] = []
    """Positions at which the build started, was queued again, started again, and so on."""
    ended: int = NEVER
    verdict: str = ""
    deleted: int = NEVER


class DeletedJobRow(Row, frozen=True):
    """The position at which a job was deleted. All its builds were deleted with it."""

    table = Table("deleted_jobs", VERSION)
    id: int
    position: int


CHANGED_BY = (BuildStarted, BuildRequeued, BuildFinished, BuildDeleted)
"""Events that change the row of an existing build."""


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event, position = recorded.event, recorded.position
    if isinstance(event, BuildQueued):
        yield copy_fields(BuildPositionsRow, event, id=event.build_id, created_at=event.at, queued=position)
    elif isinstance(event, JobDeleted):
        yield DeletedJobRow(event.job_id, position)
    elif isinstance(event, CHANGED_BY) and (row := rows.get(BuildPositionsRow, event.build_id)) is not None:
        is_running = len(row.turns) % 2 == 1
        match event:
            case BuildStarted() if not is_running:
                yield msgspec.structs.replace(row, turns=[*row.turns, position])
            case BuildRequeued() if is_running:
                yield msgspec.structs.replace(row, turns=[*row.turns, position])
            case BuildFinished():
                yield msgspec.structs.replace(row, ended=position, verdict=event.status)
            case BuildDeleted():
                yield msgspec.structs.replace(row, deleted=position)
            case _:
                pass


PROJECTION = Projection(
    "build_positions",
    VERSION,
    (BuildPositionsRow, DeletedJobRow),
    row_of(BuildPositionsRow, "build_id", *CHANGED_BY),
    apply,
    handles=(BuildQueued, JobDeleted, *CHANGED_BY),
)


def _at(status: str | None) -> str:
    """Returns an SQL subquery for the builds that existed at a position of the log, which is the query parameter
    `position`. It has the columns by which lists of past builds can be filtered. If `status` is `queued` or `running`,
    leaves out builds that had ended by then.
    """
    turns = "(SELECT count(*) FROM jsonb_array_elements(p.turns) turn WHERE turn::bigint <= %(position)s)"
    then = f"CASE WHEN p.ended <= %(position)s THEN p.verdict WHEN {turns} & 1 = 1 THEN 'running' ELSE 'queued' END"
    is_open = "AND int8range(queued, ended) @> %(position)s::bigint" if status in ("queued", "running") else ""
    # Ids are in the order of positions, except among builds that started at the same time. With an upper bound for the
    # ids, a page of the past need not first read all builds that came later.
    newest = (
        f"SELECT queued, id FROM {BuildPositionsRow.table} WHERE queued <= %(position)s"
        f" ORDER BY queued DESC LIMIT {MAX_CONCURRENT_STARTS}"
    )
    return (
        f"(SELECT p.id, p.job_id, p.project_id, p.created_at, b.branch, {then} AS status"
        f" FROM {BuildPositionsRow.table} p LEFT JOIN {BuildRow.table} b ON b.id = p.id"
        f" WHERE p.queued <= %(position)s AND p.deleted > %(position)s {is_open}"
        f" AND p.id <= (SELECT max(id) FROM ({newest}) newest) AND NOT EXISTS ("
        f"SELECT FROM {DeletedJobRow.table} d WHERE d.id = p.job_id AND d.position <= %(position)s)) builds_then"
    )


async def fetch_page(
    connection: AsyncConnection, filters: BuildFilters, position: int, limit: int, offset: int
) -> list[int]:
    """Returns a page of the ids of the builds that existed at a position of the log, newest first. A filter by branch
    does not find builds that were deleted after this position.
    """
    query = f"SELECT id FROM {_at(filters.status)} WHERE {filters.where()} ORDER BY id DESC LIMIT %(limit)s"
    parameters = msgspec.structs.asdict(filters) | {"position": position, "limit": limit, "offset": offset}
    return await fetch_column(connection, f"{query} OFFSET %(offset)s", parameters)


async def count(connection: AsyncConnection, filters: BuildFilters, position: int) -> BuildCount:
    """Counts the builds that existed at a position of the log and match the filters. With two or more filters, stops at
    `builds.MAX_COUNT`.
    """
    return await builds.count(connection, filters, _at(filters.status), position=position)


async def count_without_branch(connection: AsyncConnection, filters: BuildFilters, position: int) -> BuildCount:
    """Counts those builds that existed at a position of the log, match all filters but `branch`, and have no known
    branch any more because they were deleted later.
    """
    erased = f"(SELECT * FROM {_at(filters.status)} WHERE branch IS NULL) without_branch"
    return await builds.count(connection, msgspec.structs.replace(filters, branch=None), erased, position=position)
