"""Who moves the projections: one leader, standbys, and rebuilds only while nobody leads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest

from domain.base import Event, Stamp
from domain.claims import ClaimTaken
from domain.projects import ProjectCreated
from projections import catalogue
from projections.engine import ensure_tables
from projections.projector import LOCK, AlreadyRunning, Projector, rebuild
from projections.projects import ProjectRow
from projections.waiting import Waiter
from store.listen import EVENTS, PROJECTED, Listener
from store.log import Write
from testhide.processes import Core
from tests.projections.toys import SEEN, SeenRow, table

STAMP = Stamp(datetime(2026, 5, 20, tzinfo=UTC), "tests")
PROJECTIONS = (*catalogue.PROJECTIONS, SEEN)


@contextlib.asynccontextmanager
async def running(parts: Core, count: int = 1) -> AsyncIterator[Waiter]:
    """Projectors, and someone who waits for them."""
    listener = Listener(parts.conninfo, EVENTS, PROJECTED)
    await listener.start()
    waiter = Waiter(parts.pool, listener, PROJECTIONS)
    made = [Projector(parts.conninfo, parts.log, listener, PROJECTIONS) for _ in range(count)]
    tasks = [asyncio.create_task(work) for work in (waiter.run(), *(projector.run() for projector in made))]
    yield waiter
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await listener.close()


async def append(parts: Core, *events: Event) -> int:
    recorded = await parts.log.append([Write(1, event) for event in events], STAMP)
    return recorded[-1].position


async def leaders(parts: Core) -> list[int]:
    """The processes of the database that hold the leader's lock."""
    async with parts.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (LOCK,),
        )
        return [pid for (pid,) in await cursor.fetchall()]


def claims(first: int, count: int = 3) -> list[Event]:
    return [ClaimTaken(claim=f"thing-{number}", owner="tests") for number in range(first, first + count)]


async def test_the_leader_follows_the_log(parts: Core) -> None:
    await append(parts, *claims(0))
    async with running(parts) as waiter:
        assert await waiter.wait(await append(parts, *claims(10)))
        assert await waiter.wait(await append(parts, *claims(20)))
        async with parts.pool.connection() as connection:
            assert await table(connection, SeenRow) == [(position,) for position in range(1, 10)]


async def test_a_standby_takes_over_when_the_leader_loses_its_connection(parts: Core) -> None:
    async with running(parts, count=2) as waiter:
        for first in (0, 10, 20):
            assert await waiter.wait(await append(parts, *claims(first)))
            (leader,) = await leaders(parts)
            async with parts.pool.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(%s)", (leader,))
        assert await waiter.wait(await append(parts, *claims(30)))
        assert (await leaders(parts)) != [leader]
        async with parts.pool.connection() as connection:
            assert await table(connection, SeenRow) == [(position,) for position in range(1, 13)]


async def test_a_new_projection_catches_up_with_the_others(parts: Core) -> None:
    await append(parts, ProjectCreated(project_id=1, title="Web", slug="web", sealed_webhook_secret=b""), *claims(0))
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as connection:
        await ensure_tables(connection, PROJECTIONS)
        await connection.execute("UPDATE projection_positions SET position = 4 WHERE name <> 'projects'")
    async with running(parts) as waiter:
        assert await waiter.wait(await append(parts, *claims(10)))
        async with parts.pool.connection() as connection:
            assert [row[0] for row in await table(connection, ProjectRow)] == [1]
            assert await table(connection, SeenRow) == [(5,), (6,), (7,)]


async def test_a_rebuild_makes_the_tables_from_the_whole_log(parts: Core) -> None:
    head = await append(parts, *claims(0))
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as connection:
        await ensure_tables(connection, PROJECTIONS)
        await connection.execute(f"INSERT INTO {SeenRow.table} VALUES (99)".encode())
        assert await rebuild(parts.conninfo, parts.log, PROJECTIONS) == head
        assert await table(connection, SeenRow) == [(1,), (2,), (3,)]


async def test_no_rebuild_while_a_projector_leads(parts: Core) -> None:
    async with running(parts) as waiter:
        assert await waiter.wait(await append(parts, *claims(0)))
        with pytest.raises(AlreadyRunning, match="stop it first"):
            await rebuild(parts.conninfo, parts.log, PROJECTIONS)
        async with parts.pool.connection() as connection:
            assert await table(connection, SeenRow) == [(1,), (2,), (3,)]
    assert await rebuild(parts.conninfo, parts.log, PROJECTIONS) == 3
