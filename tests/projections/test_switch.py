"""Building beside what serves, comparing, switching, dropping; two releases of a read model at once."""

import asyncio

import psycopg
import pytest

from projections.engine import bulk_catch_up, bulk_loader
from projections.engine.engine import Engine, LostLeadership
from projections.engine.inspection import create_on_empty_log
from projections.engine.model import Projection
from projections.engine.schemas import NotReady, connect, find_held_locks, lock_name, lock_staging
from projections.rebuild.diff import diff
from projections.rebuild.drop import drop
from projections.rebuild.rebuild import Progress, build_staging
from projections.rebuild.status import overview
from projections.rebuild.switch import switch
from testhide.processes import Core
from tests.projections.claims import (
    NEW_OWNERS,
    NEXT_RELEASE,
    OWNERS,
    RELEASE,
    projecting,
    rows,
    serve,
    take,
)
from tests.projections.toys import SEEN


@pytest.fixture(autouse=True)
def short_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a build of few events has more than one, and reads the log in several batches."""
    monkeypatch.setattr(bulk_loader, "MAX_EVENTS", 500)
    monkeypatch.setattr(bulk_catch_up, "BATCH_SIZE", 500)


async def states(parts: Core, projections: tuple[Projection, ...] = RELEASE) -> list[tuple[str, int, str, int]]:
    async with parts.pool.connection() as connection:
        found = await overview(connection, projections)
    names = [projection.name for projection in projections]
    return [(item.name, item.version, item.state, item.position) for item in found if item.name in names]


async def test_a_rebuild_touches_nothing_that_serves(parts: Core) -> None:
    await serve(parts, RELEASE)
    reported: list[Progress] = []
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "thing", times=1200))
        assert await build_staging(parts.conninfo, parts.log, [OWNERS], on_progress=reported.append) == 1200
        assert reported[-1] == Progress(1200, 1200)
        assert await states(parts) == [
            ("seen", 1, "serving", 1200),
            ("owners", 1, "serving", 1200),
            ("owners", 1, "built", 1200),
        ]
        async with parts.pool.connection() as connection:
            assert await rows(connection, "beside.owners_v1") == await rows(connection, "owners_v1")
        assert await waiter.wait(await take(parts, "thing"))


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """a build commits, and reports its progress, after each batch."""
    monkeypatch.setattr("projections.engine.bulk_loader.MAX_EVENTS", 1)


async def test_an_interrupted_build_goes_on_where_it_stopped(parts: Core, short_stretches: None) -> None:
    await serve(parts, RELEASE)
    await take(parts, "thing", times=1200)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await build_staging(parts.conninfo, parts.log, [OWNERS], on_progress=stop)
    assert ("owners", 1, "interrupted", 500) in await states(parts)
    reported: list[Progress] = []
    assert await build_staging(parts.conninfo, parts.log, [OWNERS], on_progress=reported.append) == 1200
    assert reported[0] == Progress(1000, 1200)
    async with parts.pool.connection() as connection:
        assert await rows(connection, "beside.owners_v1") == [("thing", "ann", 1200)]
        await connection.execute("UPDATE beside.owners_v1 SET times = 7")
    await build_staging(parts.conninfo, parts.log, [OWNERS], from_scratch=True)
    async with parts.pool.connection() as connection:
        assert await rows(connection, "beside.owners_v1") == [("thing", "ann", 1200)]


async def test_one_build_at_a_time(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with lock_staging(parts.conninfo, [OWNERS]):
        with pytest.raises(NotReady, match="owners is being built"):
            await build_staging(parts.conninfo, parts.log, RELEASE)


async def test_what_is_being_built_shows_how_long_it_takes(parts: Core, short_stretches: None) -> None:
    await serve(parts, RELEASE)
    await take(parts, "thing", times=1200)
    seen: list[object] = []

    def look(progress: Progress) -> None:
        if progress.position == 1000:
            with psycopg.connect(parts.conninfo) as connection:
                connection.execute("UPDATE beside.projection_positions SET started_at = updated_at - interval '10 s'")
            seen.append(progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await build_staging(parts.conninfo, parts.log, [OWNERS], on_progress=look)
    async with lock_staging(parts.conninfo, [OWNERS]), parts.pool.connection() as connection:
        (item,) = [item for item in await overview(connection, RELEASE) if item.place == "beside"]
    assert (item.state, item.position, item.lag, item.eta_s) == ("building", 1000, 200, 2)
    assert item.progress == pytest.approx(1000 / 1200)


async def test_a_switch_while_others_write(parts: Core) -> None:
    """The leader's hot rows are those of the old tables; it must not go on with them."""
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "thing", times=20))
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE owners_v1 SET times = times + 1000")
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "thing"))
        await build_staging(parts.conninfo, parts.log, [OWNERS])
        switching = asyncio.create_task(switch(parts.conninfo, parts.log, [OWNERS]))
        async with asyncio.timeout(60):
            while not switching.done():
                assert await waiter.wait(await take(parts, "thing"))
        position = (await switching).position
        head = await take(parts, "thing")
        assert await waiter.wait(head)
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("thing", "ann", head)]
            assert await rows(connection, "previous.owners_v1") == [("thing", "ann", 1000 + position)]
        assert ("owners", 1, "previous", position) in await states(parts)


async def test_a_switch_leaves_those_who_read_in_peace(parts: Core) -> None:
    """They hold locks in any order and for a while: the switch gives way and comes again."""
    await serve(parts, RELEASE)
    await take(parts, "thing", times=5)
    await build_staging(parts.conninfo, parts.log, RELEASE)
    async with await connect(parts.conninfo) as reading:
        async with reading.transaction():
            await reading.execute("SELECT FROM owners_v1")
            switching = asyncio.create_task(switch(parts.conninfo, parts.log, RELEASE))
            async with await connect(parts.conninfo) as looking, asyncio.timeout(10):
                waits = "SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
                while not (await looking.execute(waits)).rowcount:
                    assert not switching.done(), "the switch did not wait for who reads"
            await reading.execute("SELECT FROM seen_v1")
            assert not switching.done()
        assert (await switching).position == 5


async def test_what_is_not_built_is_not_switched_to(parts: Core) -> None:
    await serve(parts, RELEASE)
    with pytest.raises(NotReady, match="run `testhide projections rebuild seen owners` first"):
        await switch(parts.conninfo, parts.log, RELEASE)


@pytest.mark.parametrize("schema", ["public", "beside", "previous"])
async def test_tables_whose_positions_are_lost_are_replaced(parts: Core, schema: str) -> None:
    await serve(parts, RELEASE)
    await take(parts, "thing", times=3)
    for _ in range(2):
        await build_staging(parts.conninfo, parts.log, [OWNERS])
        await switch(parts.conninfo, parts.log, [OWNERS])
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    async with parts.pool.connection() as connection:
        expected = await rows(connection, "owners_v1")
        await connection.execute(f"DELETE FROM {schema}.projection_positions".encode())
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    await switch(parts.conninfo, parts.log, [OWNERS])
    async with parts.pool.connection() as connection:
        assert await rows(connection, "owners_v1") == expected


async def test_an_engine_that_missed_a_switch_writes_nothing(parts: Core) -> None:
    await serve(parts, RELEASE)
    await take(parts, "thing", times=3)
    async with await connect(parts.conninfo) as connection:
        engine = Engine(connection, RELEASE, announce=False)
        await engine.apply(await parts.log.read(0, 2), 0)
        await build_staging(parts.conninfo, parts.log, [OWNERS])
        await switch(parts.conninfo, parts.log, [OWNERS])
        with pytest.raises(LostLeadership):
            await engine.apply(await parts.log.read(2, 1), 2)
        assert await rows(connection, "owners_v1") == [("thing", "ann", 3)]


async def test_the_next_release_is_built_while_this_one_serves(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts, RELEASE) as older, projecting(parts, NEXT_RELEASE) as newer:
        assert await older.wait(await take(parts, "thing", times=3))
        async with parts.pool.connection() as connection:
            assert await create_on_empty_log(connection, NEXT_RELEASE) == [NEW_OWNERS]
        assert await newer.read_position() == 0
        await build_staging(parts.conninfo, parts.log, [NEW_OWNERS])
        await switch(parts.conninfo, parts.log, [NEW_OWNERS])
        for waiter in (older, newer):
            assert await waiter.wait(await take(parts, "thing"))
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("thing", "ann", 5)]
            assert await rows(connection, "owners_v2") == [("thing", "ann", 5, 5)]
            with pytest.raises(NotReady, match="version 1 is moved by the projector of another release"):
                await drop(connection, NEXT_RELEASE, ["owners"])
    async with parts.pool.connection() as connection:
        async with asyncio.timeout(10):
            # The locks of a connection are held until the database has noticed its end.
            while await find_held_locks(connection, [lock_name("public", "owners", 1)]):
                continue
        assert await drop(connection, NEXT_RELEASE, ["owners"]) == ["owners version 1 (public)"]
        assert await drop(connection, NEXT_RELEASE, ["owners"]) == []
        assert await rows(connection, "owners_v2") == [("thing", "ann", 5, 5)]


async def test_drop_takes_what_does_not_serve(parts: Core) -> None:
    await serve(parts, RELEASE)
    await take(parts, "thing", times=3)
    await build_staging(parts.conninfo, parts.log, RELEASE)
    await switch(parts.conninfo, parts.log, RELEASE)
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    async with parts.pool.connection() as connection:
        assert await drop(connection, RELEASE, ["owners"]) == [
            "owners version 1 (beside)",
            "owners version 1 (previous)",
        ]
        assert await rows(connection, "owners_v1") == [("thing", "ann", 3)]
    assert await states(parts) == [("seen", 1, "serving", 3), ("seen", 1, "previous", 0), ("owners", 1, "serving", 3)]


async def test_a_new_database_serves_at_once_and_an_old_one_is_built(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        assert await create_on_empty_log(connection, [SEEN]) == []
    assert await states(parts, (SEEN,)) == [("seen", 1, "serving", 0)]
    await take(parts, "thing")
    async with parts.pool.connection() as connection:
        assert await create_on_empty_log(connection, RELEASE) == [OWNERS]
    assert await states(parts) == [("seen", 1, "serving", 0), ("owners", 1, "missing", 0)]


# ----- differences -----


async def test_equal_tables_have_no_difference(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        assert await waiter.wait(await take(parts, "thing", times=3))
        await build_staging(parts.conninfo, parts.log, RELEASE)
        assert await waiter.wait(await take(parts, "other"))
        for projection in RELEASE:
            found = await diff(parts.conninfo, parts.log, projection)
            assert found.is_equal
            assert found.position == 4
            (table,) = found.tables
            assert table.rows_live == table.rows_staging > 0


async def test_differences_are_shown_row_by_row(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        for claim in ("loud", "right", "lost"):
            assert await waiter.wait(await take(parts, claim))
        await build_staging(parts.conninfo, parts.log, [NEW_OWNERS])
        async with parts.pool.connection() as connection:
            await connection.execute("UPDATE owners_v1 SET claim = 'odd' WHERE claim = 'lost'")
        found = await diff(parts.conninfo, parts.log, NEW_OWNERS)
    assert not found.is_equal
    assert (found.live_version, found.staging_version, found.position) == (1, 2, 3)
    (table,) = found.tables
    assert (table.changed, table.only_live, table.only_staging) == (1, 1, 1)
    assert table.not_compared == ["last"]
    assert sorted(table.differences) == [
        'changed: claim=loud: owner "ann" -> "ANN"',
        "only live: claim=odd",
        "only staging: claim=lost",
    ]


async def test_what_serves_must_be_kept_up_to_be_compared(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.rebuild.diff.LAG_TIMEOUT_S", 0.0)
    await serve(parts, RELEASE)
    await take(parts, "thing")
    with pytest.raises(NotReady, match="has no staging tables: run `testhide projections rebuild owners` first"):
        await diff(parts.conninfo, parts.log, OWNERS)
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    with pytest.raises(NotReady, match="start the projector"):
        await diff(parts.conninfo, parts.log, OWNERS)
