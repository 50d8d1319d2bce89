"""Events that cannot be read: who follows the log is told so in their place, who decides by them is refused."""

import pytest

from commands.builds import StartBuild
from commands.handler import CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CreateProject
from domain.builds import BUILD
from domain.claims import ClaimTaken
from domain.core.errors import StreamDamaged
from domain.core.events import Damaged, EventMetadata
from store.clock import utcnow
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.codec import UnknownEvent
from store.log.event_log import EventLog, Write
from testhide.processes import Core
from tests.support.damage import DAMAGES, Damage, damaged, other_seal

ANN = CommandContext("user:1")
STAMP = EventMetadata(utcnow(), "tests")


async def three_claims(parts: Core) -> None:
    await parts.log.append([Write(1, ClaimTaken(claim=name, owner="ann")) for name in "abc"], STAMP)


async def a_build(parts: Core) -> int:
    """The position at which it was queued."""
    handler = Handler(parts.log, utcnow)
    for command in (CreateProject(1, "P", 1, (("p", "s"),), b""), CreateJob(1, 1, "Smoke"), ConfigureJob(1, "pytest")):
        await handler.execute(command, ANN)
    return (await handler.execute(StartBuild(7, 1, branch="main", external=True), ANN)).events[0].position


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_the_rest_of_the_log_is_read_on(parts: Core, damage: Damage) -> None:
    await three_claims(parts)
    with damaged(parts.conninfo, 2, damage):
        before, event, after = await parts.log.read(0, 10)
        assert isinstance(event.event, Damaged)
        assert (event.stream, event.version, event.position, event.event.type) == ("claim-b", 1, 2, "claim.taken")
        assert [recorded.stream for recorded in (before, after)] == ["claim-a", "claim-c"]
        with pytest.raises(StreamDamaged, match=r"claim-b .* position 2 "):
            await parts.log.load(["claim-a", "claim-b"])
        assert len((await parts.log.load(["claim-a"]))["claim-a"]) == 1
    assert len((await parts.log.load(["claim-b"]))["claim-b"]) == 1


async def test_who_and_when_are_shown_where_they_can_be_read(parts: Core) -> None:
    position = await a_build(parts)
    with damaged(parts.conninfo, position, other_seal):
        (recorded,) = await parts.log.read_at([position])
    assert isinstance(recorded.event, Damaged)
    assert (recorded.event.actor, recorded.erased) == ("user:1", False)


async def test_a_seal_that_does_not_open_is_no_erasure(parts: Core) -> None:
    position = await a_build(parts)
    with damaged(parts.conninfo, position, other_seal), pytest.raises(StreamDamaged, match="does not decrypt"):
        await parts.log.load_state(BUILD.at(7))


async def test_a_data_key_that_does_not_open_damages_what_is_sealed_with_it(parts: Core) -> None:
    position = await a_build(parts)
    async with parts.pool.connection() as connection:
        await connection.execute(
            "UPDATE stored_events_keys SET wrapped = wrapped || '\\x00' WHERE name LIKE '%build-7'"
        )
    log = EventLog(parts.pool, parts.log._commit, parts.log._mapper, parts.secrets)
    events = {recorded.position: recorded.event for recorded in await log.read(0, 20)}
    assert [number for number, event in events.items() if isinstance(event, Damaged)] == [position]


async def test_another_secret_damages_nothing_and_is_said(parts: Core) -> None:
    await a_build(parts)
    log = EventLog(parts.pool, parts.log._commit, parts.log._mapper, Secrets.without_ring(bytes(32)))
    with pytest.raises(SecretMismatch, match="TESTHIDE_SECRET_KEY"):
        await log.read(0, 20)


@pytest.mark.parametrize("state", ["state", "''::bytea"], ids=["whole", "damaged"])
async def test_what_a_newer_release_wrote_is_not_damaged(parts: Core, state: str) -> None:
    """Its own processes will read it; this one must not go past it."""
    await three_claims(parts)
    async with parts.pool.connection() as connection:
        query = f"UPDATE stored_events SET topic = 'claim.lent', state = {state} WHERE notification_id = 2"
        await connection.execute(query.encode())
    with pytest.raises(UnknownEvent, match=r"'claim\.lent'"):
        await parts.log.read(0, 10)
