"""Node pools, as they are read."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.base import Recorded
from domain.pools import PoolCreated
from projections.model import Change, Key, Projection, Row, Rows, Table
from projections.nodes import NodeRow
from projections.reading import all_rows, one_row

VERSION = 1


class PoolRow(Row, frozen=True):
    table = Table("node_pools", VERSION, indexes=("(project_id, id)",))
    id: int
    project_id: int
    name: str
    labels: dict[str, str]
    max_parallel: int | None
    shared: bool
    created_at: datetime


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    return ()


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case PoolCreated():
            yield PoolRow(
                id=event.pool_id,
                project_id=event.project_id,
                name=event.title,
                labels=event.labels,
                max_parallel=event.max_parallel,
                shared=event.shared,
                created_at=event.at,
            )
        case _:
            return


PROJECTION = Projection("pools", VERSION, (PoolRow,), keys, apply)


class PoolView(msgspec.Struct, frozen=True):
    id: int
    name: str
    project_id: int
    node_count: int
    labels: dict[str, str]
    max_parallel: int | None
    shared: bool


_VIEW = f"""
    SELECT p.id, p.name, p.project_id, (SELECT count(*) FROM {NodeRow.table} n WHERE n.pool_id = p.id),
        p.labels, p.max_parallel, p.shared
    FROM {PoolRow.table} p
"""


async def find(connection: AsyncConnection, pool_id: int) -> PoolView | None:
    return await one_row(connection, PoolView, f"{_VIEW} WHERE p.id = %(id)s", {"id": pool_id})


async def listing(
    connection: AsyncConnection,
    *,
    projects: Sequence[int] | None,
    project_id: int | None,
    after: int,
    offset: int,
    limit: int,
) -> list[PoolView]:
    """The pools of `projects` (None: of all) and the shared ones; with `project_id` only its own."""
    return await all_rows(
        connection,
        PoolView,
        f"{_VIEW} WHERE p.id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR p.shared OR p.project_id = ANY (%(projects)s::bigint[]))"
        " AND (%(project)s::bigint IS NULL OR p.project_id = %(project)s)"
        " ORDER BY p.id OFFSET %(offset)s LIMIT %(limit)s",
        {
            "projects": None if projects is None else list(projects),
            "project": project_id,
            "after": after,
            "offset": offset,
            "limit": limit,
        },
    )
