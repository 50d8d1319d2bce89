"""The handler on a real log: decide again on a conflict, and never on what is not true any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from commands.builds import StartBuild
from commands.handler import MAX_TRIES, Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob, DeleteJob
from domain.builds import BUILD
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Category, Event, EventMetadata, LoadedState, Recorded
from domain.jobs import JOB
from domain.projects import ProjectCreated
from domain.registry import EVENTS, UPCASTERS
from store.log import event_log
from store.log.append import GroupCommit, VersionConflict
from store.log.codec import EventMapper
from store.log.event_log import PIECE_BYTES, EventLog, Write
from testhide.processes import Core

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ANN = CommandContext("user:7", "request-1", causation=3)
COUNT = Category[int]("claim", 0, lambda count, event: count + 1)


def clock() -> datetime:
    return NOW


@dataclass(frozen=True)
class Increment(Command):
    """Owner n+1 takes the claim after owner n: what is lost would show."""

    claim: str = "count"

    def reads(self) -> Sequence[AnyStream]:
        return (COUNT.at(self.claim),)

    def decide(self, count: int) -> Iterable[Event]:
        yield ClaimTaken(claim=self.claim, owner=str(count + 1))


@contextlib.asynccontextmanager
async def another_handler(parts: Core) -> AsyncIterator[Handler]:
    """Of another process."""
    commit = GroupCommit(parts.conninfo)
    yield Handler(EventLog(parts.pool, commit, EventMapper(EVENTS, UPCASTERS), parts.secrets), clock)
    await commit.close()


async def test_events_are_stamped(parts: Core) -> None:
    receipt = await Handler(parts.log, clock).execute(Increment(), ANN)
    stamped = ClaimTaken(claim="count", owner="1", at=NOW, actor="user:7", correlation_id="request-1", causation=3)
    assert receipt.events == (Recorded("claim-count", 1, 1, stamped),)
    assert receipt.position == 1


async def test_nothing_to_do_is_no_position(parts: Core) -> None:
    handler = Handler(parts.log, clock)
    await _make_job(parts, handler)
    await handler.execute(DeleteJob(5), ANN)
    head = await parts.log.read_head()
    assert (await handler.execute(DeleteJob(5), ANN)).position is None
    assert await parts.log.read_head() == head


async def test_a_receipt_has_the_states_that_its_command_left(parts: Core) -> None:
    handler = Handler(parts.log, clock)
    await _make_job(parts, handler)
    again = await handler.execute(ConfigureJob(5, "tox"), ANN)
    job = again.state(JOB.at(5))
    assert job is not None
    assert job.configuration.command == "tox"
    assert again.state(JOB.at(5)) == await parts.log.load_state(JOB.at(5))
    started = await handler.execute(StartBuild(1, 5), ANN)
    assert started.state(BUILD.at(1)) == await parts.log.load_state(BUILD.at(1))
    nothing = await handler.execute(ConfigureJob(5, "tox"), ANN)
    assert (nothing.events, nothing.state(JOB.at(5))) == ((), again.state(JOB.at(5)))
    with pytest.raises(LookupError, match="did not read build-1"):
        again.state(BUILD.at(1))


@pytest.mark.parametrize("piece_bytes", [PIECE_BYTES, 1])
async def test_two_processes_on_one_stream_lose_no_update(
    parts: Core, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    """Also if each reads the stream in many pieces, between which the other one appends."""
    monkeypatch.setattr(event_log, "PIECE_BYTES", piece_bytes)
    async with another_handler(parts) as other:
        handlers = [Handler(parts.log, clock), other]
        await asyncio.gather(*(handlers[number % 2].execute(Increment(), ANN) for number in range(16)))
    history = (await parts.log.load(["claim-count"]))["claim-count"]
    assert [getattr(recorded.event, "owner", "") for recorded in history] == [str(number) for number in range(1, 17)]


async def test_many_callers_of_one_process_line_up(parts: Core) -> None:
    """More than MAX_TRIES of them: each is written, none gives up."""
    handler = Handler(parts.log, clock)
    await asyncio.gather(*(handler.execute(Increment(), ANN) for _ in range(MAX_TRIES * 3)))
    assert await parts.log.load_state(COUNT.at("count")) == MAX_TRIES * 3


class InBetween(EventLog):
    """A log in which something else happens between what a decision saw and what it appends."""

    def __init__(self, parts: Core, *meanwhile: Any) -> None:
        super().__init__(parts.pool, parts.log._commit, EventMapper(EVENTS, UPCASTERS), parts.secrets)
        self.meanwhile = list(meanwhile)
        self.appends = 0

    async def append(self, *args: Any, **kwargs: Any) -> list[Recorded]:
        self.appends += 1
        if self.meanwhile:
            await self.meanwhile.pop(0)()
        return await super().append(*args, **kwargs)


async def _make_job(parts: Core, handler: Handler) -> None:
    project = ProjectCreated(project_id=1, title="Web", slug="web", sealed_webhook_secret=b"")
    await parts.log.append([Write(1, project)], EventMetadata(NOW, "tests"))
    await handler.execute(CreateJob(5, 1, "Smoke"), ANN)
    await handler.execute(ConfigureJob(5, "pytest"), ANN)


async def test_a_job_that_is_deleted_in_between_starts_no_build(parts: Core) -> None:
    handler = Handler(parts.log, clock)
    await _make_job(parts, handler)

    async def delete() -> None:
        await handler.execute(DeleteJob(5), ANN)

    with pytest.raises(NotFound):
        await Handler(InBetween(parts, delete), clock).execute(StartBuild(1, 5), ANN)
    assert await parts.log.load_state(BUILD.at(1)) is None


async def test_a_change_in_between_is_seen_by_the_decision(parts: Core) -> None:
    handler = Handler(parts.log, clock)
    await _make_job(parts, handler)

    async def configure() -> None:
        await handler.execute(ConfigureJob(5, "pytest -x"), ANN)

    log = InBetween(parts, configure)
    await Handler(log, clock).execute(StartBuild(1, 5), ANN)
    build = await parts.log.load_state(BUILD.at(1))
    assert build is not None
    assert build.queued.configuration.command == "pytest -x"
    assert log.appends == 2


async def test_it_gives_up_when_others_are_always_first(parts: Core) -> None:
    handler = Handler(parts.log, clock)

    async def other() -> None:
        await handler.execute(Increment(), ANN)

    log = InBetween(parts, *[other] * (MAX_TRIES + 5))
    with pytest.raises(Conflict, match="try again"):
        await Handler(log, clock).execute(Increment(), ANN)
    assert log.appends == 1 + MAX_TRIES
    assert await parts.log.load_state(COUNT.at("count")) == 1 + MAX_TRIES, "its own event is not among them"


@dataclass(frozen=True)
class OnKnown(Command):
    """Decided on what the caller saw of a claim."""

    version: int
    calls: ClassVar[list[Claim]] = []

    def reads(self) -> Sequence[AnyStream]:
        return (LoadedState("claim-count", self.version, Claim("seen")), CLAIM.at("other"))

    def decide(self, known: Claim, other: Claim) -> Iterable[Event]:
        self.calls.append(known)
        yield ClaimTaken(claim="other", owner=known.owner)


async def test_a_decision_on_a_known_state_holds_only_while_it_is_true(parts: Core) -> None:
    handler = Handler(parts.log, clock)
    await handler.execute(Increment(), ANN)
    assert (await handler.execute(OnKnown(1), ANN)).position == 2
    await handler.execute(Increment(), ANN)
    OnKnown.calls.clear()
    with pytest.raises(VersionConflict):
        await handler.execute(OnKnown(1), ANN)
    assert OnKnown.calls == [Claim("seen")], "only the caller can look again"
