"""What lies in a project and has to go with it."""

from psycopg import AsyncConnection

from projections.builds import BuildRow
from projections.engine.queries import scalar
from projections.jobs import JobRow
from projections.nodes import NodeRow
from projections.pools import PoolRow


async def job_ids(connection: AsyncConnection, project_id: int) -> list[int]:
    return await _ids(connection, f"SELECT id FROM {JobRow.table} WHERE project_id = %s ORDER BY id", project_id)


async def pool_ids(connection: AsyncConnection, project_id: int) -> list[int]:
    return await _ids(connection, f"SELECT id FROM {PoolRow.table} WHERE project_id = %s ORDER BY id", project_id)


async def guests(connection: AsyncConnection, project_id: int) -> int:
    """Builds of other projects that have not ended and are routed to this one's pools, or run on their nodes."""
    query = f"""
        WITH own AS (SELECT id FROM {PoolRow.table} WHERE project_id = %(project)s::bigint)
        SELECT count(*) FROM {BuildRow.table} WHERE finished_at IS NULL AND project_id <> %(project)s::bigint
            AND (node_pool_id IN (TABLE own)
                OR node_id IN (SELECT id FROM {NodeRow.table} WHERE pool_id IN (TABLE own)))
    """
    return int(await scalar(connection, query, {"project": project_id}))


async def _ids(connection: AsyncConnection, query: str, project_id: int) -> list[int]:
    return [number for (number,) in await (await connection.execute(query.encode(), (project_id,))).fetchall()]
