"""Who moves the projections: a leader for each in its version, and standbys."""

from collections.abc import Sequence

import psycopg

from domain.projects import ProjectCreated
from projections import registry
from projections.engine.model import Projection
from projections.engine.schemas import connect, lock_name
from projections.projects import ProjectRow
from store.log.event_log import Write
from testhide.processes import Core
from tests.projections.claims import NEW_OWNERS, NEXT_RELEASE, RELEASE, STAMP, projecting, rows, serve, take
from tests.projections.toys import SEEN, SeenRow, table

PROJECTIONS = (*registry.PROJECTIONS, SEEN)


async def leaders(parts: Core, projections: Sequence[Projection]) -> list[int]:
    """The connections that hold the lock of one of these."""
    async with parts.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND (classid::bigint << 32 | objid::bigint) = ANY ("
            "  SELECT hashtextextended(name, 0) FROM unnest(%s::text[]) AS name)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            ([lock_name("public", item.name, item.version) for item in projections],),
        )
        return [pid for (pid,) in await cursor.fetchall()]


async def test_the_leader_follows_the_log(parts: Core) -> None:
    await serve(parts, PROJECTIONS)
    await take(parts, "thing", times=3)
    async with projecting(parts, PROJECTIONS) as waiter:
        assert await waiter.wait(await take(parts, "thing", times=3))
        assert await waiter.wait(await take(parts, "other", times=3))
        async with parts.pool.connection() as connection:
            assert await table(connection, SeenRow) == [(position,) for position in range(1, 10)]


async def test_a_standby_takes_over_when_the_leader_loses_its_connection(parts: Core) -> None:
    await serve(parts, PROJECTIONS)
    async with projecting(parts, PROJECTIONS, count=2) as waiter:
        leader = 0
        for _ in range(3):
            assert await waiter.wait(await take(parts, "thing", times=3))
            (leader,) = await leaders(parts, PROJECTIONS)
            async with parts.pool.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(%s)", (leader,))
        assert await waiter.wait(await take(parts, "thing", times=3))
        assert (await leaders(parts, PROJECTIONS)) != [leader]
        async with parts.pool.connection() as connection:
            assert await table(connection, SeenRow) == [(position,) for position in range(1, 13)]


async def test_a_projection_that_lags_catches_up_with_the_others(parts: Core) -> None:
    await serve(parts, PROJECTIONS)
    created = ProjectCreated(project_id=1, title="Web", slug="web", sealed_webhook_secret=b"")
    await parts.log.append([Write(1, created)], STAMP)
    await take(parts, "thing", times=3)
    async with await connect(parts.conninfo) as connection:
        await connection.execute("UPDATE projection_positions SET position = 4 WHERE name <> 'projects'")
    async with projecting(parts, PROJECTIONS) as waiter:
        assert await waiter.wait(await take(parts, "thing", times=3))
        async with parts.pool.connection() as connection:
            assert [row[0] for row in await table(connection, ProjectRow)] == [1]
            assert await table(connection, SeenRow) == [(5,), (6,), (7,)]


async def test_what_does_not_serve_is_not_led(parts: Core) -> None:
    await serve(parts, [SEEN])
    async with projecting(parts, [SEEN]) as waiter, projecting(parts, RELEASE) as other:
        assert await waiter.wait(await take(parts, "thing"))
        assert await other.read_position() == 0
        await serve(parts, RELEASE)
        assert await other.wait(await take(parts, "thing"))
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("thing", "ann", 2)]


async def test_two_releases_each_keep_up_what_they_serve(parts: Core) -> None:
    await serve(parts, (*RELEASE, NEW_OWNERS))
    async with projecting(parts, NEXT_RELEASE) as newer:
        async with projecting(parts, RELEASE) as older:
            # What both know is led by one of them; who waits sees no position before all of his are there.
            for number in range(30):
                position = await take(parts, f"thing-{number % 7}")
                for waiter, name in ((older, "owners_v1"), (newer, "owners_v2")):
                    assert await waiter.wait(position)
                    async with parts.pool.connection() as connection:
                        ((times,),) = await _fetch(connection, f"SELECT sum(times) FROM {name}")
                        assert times == number + 1
            assert len(await leaders(parts, (*RELEASE, NEW_OWNERS))) == 2
        # The older release is stopped: the newer takes over what both know.
        assert await newer.wait(await take(parts, "thing"))
        assert len(await leaders(parts, NEXT_RELEASE)) == 1


async def _fetch(connection: psycopg.AsyncConnection, query: str) -> list[tuple[int, ...]]:
    return await (await connection.execute(query.encode())).fetchall()


def test_tables_of_one_projection_are_no_others() -> None:
    names = [str(row.table) for projection in registry.PROJECTIONS for row in projection.rows]
    assert len(names) == len(set(names))
