"""What a projection cannot take: seen by who waits, by the operator, and applied again."""

from dataclasses import replace

from commands.handler import CommandContext, Handler
from commands.projections import DismissEvent
from domain.claims import ClaimTaken
from projections.engine.schemas import connect
from projections.rebuild.diff import diff
from projections.rebuild.rebuild import build_staging
from projections.rebuild.retry import retry
from projections.rebuild.status import overview
from projections.rebuild.switch import switch
from projections.time_travel.historical_tables import HistoricalTables
from store.clock import utcnow
from testhide.processes import Core
from tests.projections.claims import MENDED, NEW_OWNERS, OWNERS, RELEASE, OwnerRow, projecting, rows, serve, take
from tests.projections.toys import SEEN, parked, recorded

MENDED_RELEASE = (SEEN, MENDED)


async def spoiled(parts: Core) -> None:
    """Position 2 cannot be projected; 3 and 5 are of the same stream."""
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        for claim, owner in (("good", "ann"), ("bad", "nobody"), ("bad", "ann"), ("good", "bob"), ("bad", "bob")):
            position = await take(parts, claim, owner)
            assert await waiter.wait(position) == (claim == "good")


async def test_the_status_shows_parked_events_and_the_first_error(parts: Core) -> None:
    await spoiled(parts)
    async with parts.pool.connection() as connection:
        assert [position for _, position, _ in await parked(connection)] == [2, 3, 5]
        (item,) = [item for item in await overview(connection, RELEASE) if item.name == "owners"]
    assert (item.state, item.position, item.lag, item.parked) == ("serving", 5, 0, 3)
    assert item.errors[0] == "claim-bad at position 2: ValueError: who is nobody?"


async def test_a_retry_applies_a_stream_in_order(parts: Core) -> None:
    await spoiled(parts)
    failed = await retry(parts.conninfo, parts.log, OWNERS)
    assert (failed.applied, failed.left) == (0, 3)
    assert failed.errors == ["claim-bad at position 2: ValueError: who is nobody?"]
    done = await retry(parts.conninfo, parts.log, MENDED, "claim-bad")
    assert (done.applied, done.left, done.errors) == (3, 0, [])
    async with parts.pool.connection() as connection:
        assert await rows(connection, "owners_v1") == [("bad", "bob", 3), ("good", "bob", 2)]
        assert await parked(connection) == []


async def test_a_retry_beside_a_projector(parts: Core) -> None:
    """Which goes on with the stream, and with the rows as the retry left them."""
    await spoiled(parts)
    async with projecting(parts, MENDED_RELEASE) as waiter:
        assert not await waiter.wait(await take(parts, "bad", "joe")), "its stream still waits"
        assert (await retry(parts.conninfo, parts.log, MENDED)).applied == 4
        position = await take(parts, "bad", "eve")
        assert await waiter.wait(position)
        async with parts.pool.connection() as connection:
            assert await rows(connection, "owners_v1") == [("bad", "eve", 5), ("good", "bob", 2)]
        assert await waiter.wait(3)


async def test_a_retry_in_several_steps(parts: Core) -> None:
    await serve(parts, RELEASE)
    async with projecting(parts) as waiter:
        await take(parts, "bad", "nobody")
        assert not await waiter.wait(await take(parts, "bad", times=450))
    assert (await retry(parts.conninfo, parts.log, MENDED)).applied == 451
    async with parts.pool.connection() as connection:
        assert await rows(connection, "owners_v1") == [("bad", "ann", 451)]


async def test_a_dismissed_event_is_left_out_and_the_rest_of_its_stream_applied(parts: Core) -> None:
    await spoiled(parts)
    dismiss = DismissEvent("owners", 2, "nobody is nobody", "ann")
    async with projecting(parts) as waiter:
        await Handler(parts.log, utcnow).execute(dismiss, CommandContext("system:tests"))
        done = await retry(parts.conninfo, parts.log, OWNERS)
        assert (done.applied, done.left, done.errors) == (3, 0, [])
        assert await waiter.wait(await take(parts, "bad", "eve"))
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    assert (await diff(parts.conninfo, parts.log, OWNERS)).is_equal
    async with await connect(parts.conninfo, "beside") as staging:
        assert await rows(staging, "owners_v1") == [("bad", "eve", 3), ("good", "bob", 2)]
        assert await parked(staging) == []


def test_a_dismissed_event_is_left_out_of_the_past() -> None:
    tables = HistoricalTables([OwnerRow], [replace(OWNERS, dismissed=frozenset({2}))])
    for event in recorded(*(ClaimTaken(claim="bad", owner=owner) for owner in ("ann", "nobody", "bob"))):
        tables.apply(event)
    assert tables.get(OwnerRow, "bad") == OwnerRow("bad", "bob", 2)


async def test_a_build_parks_what_was_parked_live(parts: Core) -> None:
    await spoiled(parts)
    await build_staging(parts.conninfo, parts.log, [OWNERS])
    async with await connect(parts.conninfo, "beside") as staging, await connect(parts.conninfo) as serving:
        assert await parked(staging) == await parked(serving)
        assert await rows(staging, "owners_v1") == await rows(serving, "owners_v1") == [("good", "bob", 2)]


async def test_a_rebuild_with_mended_code_parks_nothing(parts: Core) -> None:
    await spoiled(parts)
    await build_staging(parts.conninfo, parts.log, [MENDED])
    async with parts.pool.connection() as connection:
        assert len(await parked(connection)) == 3
        await switch(parts.conninfo, parts.log, [MENDED])
        assert await parked(connection) == []
        assert await rows(connection, "owners_v1") == [("bad", "bob", 3), ("good", "bob", 2)]


async def test_what_is_parked_for_one_version_is_not_for_another(parts: Core) -> None:
    await spoiled(parts)
    await build_staging(parts.conninfo, parts.log, [NEW_OWNERS])
    await switch(parts.conninfo, parts.log, [NEW_OWNERS])
    async with await connect(parts.conninfo) as connection:
        assert [row[:3] for row in await rows(connection, "owners_v2")] == [("bad", "bob", 3), ("good", "bob", 2)]
        assert len(await parked(connection)) == 3
