"""Read model of node pools."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Unpack, cast

import msgspec

from domain.core.events import Recorded, copy_fields
from domain.pools import PoolCreated, PoolDeleted, PoolEvent, PoolUpdated
from projections.builds import BuildRow
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, fetch_column, fetch_one, fetch_value
from projections.nodes import NodeRow
from store.postgres.queries import Source

VERSION = 2


class PoolRow(Row, frozen=True):
    table = Table("node_pools", VERSION, indexes=("(project_id, id)",))
    id: int
    project_id: int
    name: str
    labels: dict[str, str]
    max_parallel: int | None
    shared: bool
    untrusted: bool
    created_at: datetime


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case PoolCreated():
            yield copy_fields(PoolRow, event, id=event.pool_id, name=event.title, created_at=event.at)
        case PoolUpdated():
            pool = rows.get(PoolRow, event.pool_id)
            if pool is not None:
                yield msgspec.structs.replace(pool, **changed_columns(pool, event))
        case PoolDeleted():
            yield Delete(PoolRow, event.pool_id)


PROJECTION = Projection(
    "pools", VERSION, (PoolRow,), row_of(PoolRow, "pool_id", PoolUpdated), apply, handles=(PoolEvent,)
)


class PoolView(msgspec.Struct, frozen=True):
    id: int
    name: str
    project_id: int
    node_count: int
    """Number of nodes in the pool."""
    labels: dict[str, str]
    max_parallel: int | None
    shared: bool
    untrusted: bool


_VIEW = f"""
    SELECT p.id, p.name, p.project_id, (SELECT count(*) FROM {NodeRow.table} n WHERE n.pool_id = p.id),
        p.labels, p.max_parallel, p.shared, p.untrusted
    FROM {PoolRow.table} p
"""


async def find(source: Source, pool_id: int) -> PoolView | None:
    return await fetch_one(source, PoolView, f"{_VIEW} WHERE p.id = %(id)s", {"id": pool_id})


async def find_id_by_name(source: Source, project_id: int, name: str) -> int | None:
    """Returns the id of the project's pool with exactly this name; None if there is none."""
    query = f"SELECT id FROM {PoolRow.table} WHERE project_id = %(project)s AND name = %(name)s"
    return cast(int | None, await fetch_value(source, query, {"project": project_id, "name": name}))


async def fetch_ids(source: Source, project_id: int) -> list[int]:
    query = f"SELECT id FROM {PoolRow.table} WHERE project_id = %(project)s ORDER BY id"
    return await fetch_column(source, query, {"project": project_id})


async def fetch_node_ids(source: Source, pool_id: int) -> list[int]:
    query = f"SELECT id FROM {NodeRow.table} WHERE pool_id = %(pool)s ORDER BY id"
    return await fetch_column(source, query, {"pool": pool_id})


async def count_active_builds(source: Source, pool_id: int) -> int:
    """Counts the unfinished builds that are routed to this pool or run on its nodes."""
    query = f"""
        SELECT count(*) FROM {BuildRow.table} WHERE finished_at IS NULL AND (node_pool_id = %(pool)s::bigint
            OR node_id IN (SELECT id FROM {NodeRow.table} WHERE pool_id = %(pool)s::bigint))
    """
    return int(await fetch_value(source, query, {"pool": pool_id}))


async def count_guest_builds(source: Source, project_id: int) -> int:
    """Counts the unfinished builds of other projects that are routed to this project's pools or run on their nodes."""
    query = f"""
        WITH pools AS (SELECT id FROM {PoolRow.table} WHERE project_id = %(project)s::bigint)
        SELECT count(*) FROM {BuildRow.table} WHERE finished_at IS NULL AND project_id <> %(project)s::bigint
            AND (node_pool_id IN (TABLE pools)
                OR node_id IN (SELECT id FROM {NodeRow.table} WHERE pool_id IN (TABLE pools)))
    """
    return int(await fetch_value(source, query, {"project": project_id}))


async def fetch_page(
    source: Source, *, projects: Sequence[int] | None, project_id: int | None, **window: Unpack[Window]
) -> list[PoolView]:
    """Returns a page of pools, ordered by id: shared pools, and the pools of `projects`. None as `projects` means all
    pools. With `project_id`, returns only pools of this project.
    """
    return await fetch_all(
        source,
        PoolView,
        f"{_VIEW} WHERE p.id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR p.shared OR p.project_id = ANY (%(projects)s::bigint[]))"
        " AND (%(project)s::bigint IS NULL OR p.project_id = %(project)s)"
        " ORDER BY p.id OFFSET %(offset)s LIMIT %(limit)s",
        {"projects": None if projects is None else list(projects), "project": project_id, **window},
    )
