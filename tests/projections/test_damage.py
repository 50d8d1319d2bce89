"""Events that cannot be read are parked for whom they mean something to; the rest of the log goes on."""

from dataclasses import replace

import pytest

from domain.claims import ClaimTaken
from projections.engine.model import Projection
from projections.engine.projector import Projector
from projections.engine.schemas import connect
from projections.rebuild.rebuild import build_staging
from projections.rebuild.retry import retry
from store.log.codec import UnknownEvent
from store.postgres.notifications import EVENTS, Listener
from testhide.processes import Core
from tests.projections.claims import MENDED, projecting, rows, serve, take
from tests.projections.toys import SEEN, parked
from tests.support.damage import DAMAGES, Damage, damaged

OWNERS_ALONE = replace(MENDED, handles=(ClaimTaken,))
NO_CLAIMS = Projection("others", 1, (), lambda recorded: (), lambda recorded, rows: (), handles=())
RELEASE = (SEEN, OWNERS_ALONE, NO_CLAIMS)


async def two_claims(parts: Core) -> None:
    await serve(parts, RELEASE)
    for claim in ("good", "bad"):
        await take(parts, claim)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_the_projector_goes_on(parts: Core, damage: Damage) -> None:
    await two_claims(parts)
    with damaged(parts.conninfo, 2, damage):
        async with projecting(parts, RELEASE) as waiter, parts.pool.connection() as connection:
            assert await waiter.wait(await take(parts, "good", "bob"))
            assert not await waiter.wait(2), "whoever wrote it is told"
            assert waiter.is_degraded
            found = await parked(connection)
            assert [(name, position) for name, position, _ in found] == [("owners", 2), ("seen", 2)]
            assert all(error.startswith("Unreadable: ") for *_, error in found)
            assert await rows(connection, "owners_v1") == [("good", "bob", 2)]


async def test_what_is_mended_is_taken_by_a_retry(parts: Core) -> None:
    await two_claims(parts)
    with damaged(parts.conninfo, 2):
        async with projecting(parts, RELEASE) as waiter:
            await waiter.wait_reached(2)
        failed = await retry(parts.conninfo, parts.log, OWNERS_ALONE)
        assert (failed.applied, failed.left) == (0, 1)
        assert "claim-bad at position 2: Unreadable: the stored state is not an event's" in failed.errors[0]
    await take(parts, "bad", "bob")
    async with projecting(parts, RELEASE) as waiter:
        await waiter.wait_reached(3)
        assert (await retry(parts.conninfo, parts.log, OWNERS_ALONE)).applied == 2
        assert (await retry(parts.conninfo, parts.log, SEEN)).applied == 2
        assert await waiter.wait(await take(parts, "bad", "eve"), 2)
    async with parts.pool.connection() as connection:
        assert await parked(connection) == []
        assert await rows(connection, "owners_v1") == [("bad", "eve", 3), ("good", "ann", 1)]


async def test_a_build_parks_what_was_parked_live(parts: Core) -> None:
    await two_claims(parts)
    with damaged(parts.conninfo, 2):
        async with projecting(parts, RELEASE) as waiter:
            await waiter.wait_reached(2)
        await build_staging(parts.conninfo, parts.log, RELEASE)
        async with await connect(parts.conninfo, "beside") as staging, await connect(parts.conninfo) as serving:
            assert await parked(staging) == await parked(serving) != []
            assert await rows(staging, "owners_v1") == await rows(serving, "owners_v1") == [("good", "ann", 1)]


async def test_a_projector_does_not_go_past_what_a_newer_release_wrote(parts: Core) -> None:
    await two_claims(parts)
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE stored_events SET topic = 'claim.lent' WHERE notification_id = 2")
    projector = Projector(parts.conninfo, parts.log, Listener(parts.conninfo, EVENTS), RELEASE)
    with pytest.raises(UnknownEvent, match=r"'claim\.lent' version 1 is not known to this version of the server"):
        await projector.run()
    async with parts.pool.connection() as connection:
        assert await parked(connection) == []
