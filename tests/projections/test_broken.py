"""A broken read model: said by name, in nobody else's way, and cured by a rebuild."""

import asyncio

import pytest

from projections.engine.inspection import inspect, mark_broken
from projections.engine.read_your_writes import WAIT_TIMEOUT_S
from projections.engine.schemas import NotReady
from projections.rebuild.diff import diff
from projections.rebuild.rebuild import build_staging
from projections.rebuild.status import overview
from projections.rebuild.switch import block_projectors, switch
from testhide.processes import Core
from tests.projections.claims import OWNERS, RELEASE, projecting, rows, serve, take

DAMAGES = {
    "the table owners_v1 is lost": "DROP TABLE owners_v1",
    "the table owners_v1 has no column owner of its type": "ALTER TABLE owners_v1 DROP COLUMN owner",
    "the table owners_v1 has no column times of its type": "ALTER TABLE owners_v1 ALTER times TYPE text",
    "the table owners_v1 has lost its primary key": "ALTER TABLE owners_v1 DROP CONSTRAINT owners_v1_pkey",
    "its position, 4, is beyond the end of the log, 3": "UPDATE projection_positions SET position = 4"
    " WHERE name = 'owners'",
}


async def execute(parts: Core, statement: str) -> None:
    async with parts.pool.connection() as connection:
        await connection.execute(statement.encode())


async def states(parts: Core) -> dict[str, tuple[str, str | None]]:
    async with parts.pool.connection() as connection:
        found = await overview(connection, RELEASE)
    return {item.name: (item.state, item.defect) for item in found if item.state in ("serving", "broken")}


async def wait_until_marked(parts: Core) -> None:
    async with parts.pool.connection() as connection, asyncio.timeout(10):
        while not await rows(connection, "projection_positions WHERE broken IS NOT NULL"):
            await asyncio.sleep(0.02)  # between two looks


async def cure(parts: Core) -> None:
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    await switch(parts.conninfo, parts.log, [OWNERS])


@pytest.mark.parametrize(("defect", "damage"), DAMAGES.items(), ids=DAMAGES.keys())
async def test_it_is_said_and_cured_while_the_others_go_on(parts: Core, defect: str, damage: str) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "cart", times=3))
    await execute(parts, damage)
    async with projecting(parts) as waiter:
        await wait_until_marked(parts)
        position = await take(parts, "cart", times=5)  # past the position that was beyond the log
        assert await waiter.wait_reached(position)
        assert not await waiter.wait(position), "not all read models show it"
        assert await states(parts) == {"seen": ("serving", None), "owners": ("broken", defect)}
        await build_staging(parts.conninfo, parts.log, [OWNERS])
        with pytest.raises(NotReady, match="owners is broken"):
            await diff(parts.conninfo, parts.log, OWNERS)
        await cure(parts)
        assert await waiter.wait(await take(parts, "cart"))
        assert await states(parts) == {"seen": ("serving", None), "owners": ("serving", None)}
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("cart", "ann", 9)]


async def test_a_table_that_is_lost_under_a_projector(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "cart"))
        await execute(parts, "DROP TABLE owners_v1")
        position = await take(parts, "cart")
        began = asyncio.get_running_loop().time()
        assert await waiter.wait_reached(position)
        assert asyncio.get_running_loop().time() - began < WAIT_TIMEOUT_S
        await cure(parts)
        assert await waiter.wait(await take(parts, "cart"))


async def test_a_position_that_moves_beyond_the_log_is_noticed_without_events(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "cart"))
        await execute(parts, "UPDATE projection_positions SET position = 2 WHERE name = 'owners'")
        await wait_until_marked(parts)
        await take(parts, "cart", times=3)
        assert (await states(parts))["owners"][0] == "broken", "though the log has passed that position"


async def test_tables_without_a_position_are_replaced(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "cart"))
        await execute(parts, "DELETE FROM projection_positions WHERE name = 'owners'")
        await cure(parts)
        assert await waiter.wait(await take(parts, "cart"))
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("cart", "ann", 2)]


async def test_a_build_begins_again_when_its_tables_are_lost(parts: Core) -> None:
    await serve(parts, RELEASE)
    await take(parts, "cart", times=2)
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    await execute(parts, "DROP TABLE beside.owners_v1")
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    async with parts.pool.connection() as connection:
        assert await rows(connection, "beside.owners_v1") == [("cart", "ann", 2)]


async def test_what_is_sound_is_not_broken(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with parts.pool.connection() as connection:
        assert (await inspect(connection, RELEASE)).broken == {}


async def test_what_a_switch_has_replaced_meanwhile_is_not_marked(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "cart"))
    await execute(parts, "UPDATE projection_positions SET position = 9 WHERE name = 'owners'")
    waits = "SELECT FROM pg_locks WHERE relation = 'projection_positions'::regclass AND NOT granted"
    async with parts.pool.connection() as switching, parts.pool.connection() as connection:
        async with switching.transaction():
            await block_projectors(switching)
            marking = asyncio.create_task(mark_broken(connection, RELEASE))
            async with asyncio.timeout(20):
                while not await (await switching.execute(waits)).fetchall():
                    await asyncio.sleep(0.02)  # between two looks
            await switching.execute(
                "UPDATE projection_positions SET position = 1, generation = generation + 1 WHERE name = 'owners'"
            )
        assert await marking == {}
    assert await states(parts) == {"seen": ("serving", None), "owners": ("serving", None)}
