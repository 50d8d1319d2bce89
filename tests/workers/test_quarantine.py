"""What quarantined tests need no longer is said once, whoever looks."""

from array import array
from datetime import UTC, datetime, timedelta

import pytest

from commands.builds import StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import CreateJob
from commands.projects import CreateProject
from commands.quarantine import AddToQuarantine, RemoveFromQuarantine
from commands.reports.recording import load_build
from commands.results import NewCases, RecordReport
from domain.core.events import Event
from domain.quarantine import HEALTHY_AFTER, QuarantineBecameHealthy, QuarantineExpired
from projections import quarantine
from projections.engine.engine import Engine, fetch_positions
from projections.registry import PROJECTIONS
from testhide.processes import Core
from tests.commands.test_results import FAILURE, report
from tests.support.read_models import begin_read_models
from workers.quarantine import QuarantineWatch

TODAY = datetime(2026, 5, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ANN = CommandContext("user:1")
A, FILE = "t/test_x.py::test_a", "t/test_x.py"


class House:
    """A job with a quarantine, builds that record what the test says, and read models that follow."""

    def __init__(self, parts: Core) -> None:
        self.parts = parts
        self.now = TODAY
        self.handler = Handler(parts.log, lambda: self.now)
        self.watch = QuarantineWatch(parts.pool, self.handler, lambda: self.now)
        self.builds = 0

    async def does(self, *commands: Command) -> None:
        for command in commands:
            await self.handler.execute(command, ANN)

    async def holds(self, *node_ids: str, first_id: int = 1, days: int | None = None) -> None:
        expires_at = None if days is None else self.now + days * DAY
        await self.does(AddToQuarantine(5, first_id, node_ids, self.now, expires_at=expires_at))

    async def ran(self, *contents: str) -> None:
        """Builds with one test each: `t/test_x.py::test_a`, passed or not."""
        for content in contents:
            self.builds += 1
            new = None if self.builds > 1 else NewCases(1, 0, 1, [A], ["s"])
            await self.does(StartBuild(self.builds, 5, external=True))
            await self.does(
                RecordReport(
                    build=await load_build(self.parts.log, self.builds),
                    attempt=1,
                    path="r.xml",
                    report=report(("s", "a", content)),
                    first_result_id=self.builds,
                    case_ids=array("q", [1]),
                    new_cases=new,
                    now=self.now,
                ),
            )

    async def passes(self, times: int = HEALTHY_AFTER) -> None:
        await self.ran(*[""] * times)

    async def shown(self) -> None:
        """The read models are at the log's end."""
        async with self.parts.pool.connection() as connection:
            position = min((await fetch_positions(connection, PROJECTIONS)).values())
            events = await self.parts.log.read(position, 10_000)
            await Engine(connection, PROJECTIONS, announce=True).apply(events, position)

    async def reported(self, *, show: bool = True) -> list[Event]:
        """What a sweep says, by the log."""
        if show:
            await self.shown()
        head = await self.parts.log.read_head()
        count = await self.watch.sweep()
        events = [recorded.event for recorded in await self.parts.log.read(head, 10_000)]
        assert all(event.actor == "system:quarantine" for event in events)
        assert len(events) == count
        return events

    async def recovered(self) -> list[int]:
        """Entries that a sweep says have recovered."""
        ids: list[int] = []
        for event in await self.reported():
            assert isinstance(event, QuarantineBecameHealthy)
            ids += event.ids
        return ids

    async def statuses(self) -> dict[str, str]:
        await self.shown()
        async with self.parts.pool.connection() as connection:
            found = await quarantine.fetch_page(connection, 5, after=0, offset=0, limit=100)
        return {row.node_id: quarantine.status_at(row, self.now)[0] for row in found}


@pytest.fixture
async def house(parts: Core) -> House:
    async with parts.pool.connection() as connection:
        await begin_read_models(connection)
    house = House(parts)
    await house.does(CreateProject(1, "P", 1, (("p", "slug"),), b""), CreateJob(5, 1, "Smoke"))
    return house


async def test_what_has_expired_is_said_once(house: House) -> None:
    await house.holds(A, days=1)
    await house.holds(FILE, first_id=2)
    assert await house.reported() == []
    house.now += DAY
    (event,) = await house.reported()
    assert isinstance(event, QuarantineExpired)
    assert event.ids == [1]
    assert await house.reported(show=False) == [], "before the read models know it"
    assert await house.reported() == []
    assert await house.statuses() == {A: "expired", FILE: "active"}


async def test_what_has_recovered_is_said_once(house: House) -> None:
    await house.holds(A, FILE)
    await house.passes(HEALTHY_AFTER - 1)
    assert await house.recovered() == []
    await house.passes(1)
    assert await house.recovered() == [1, 2]
    assert await house.reported(show=False) == [], "before the read models know it"
    assert await house.recovered() == []
    await house.passes()
    assert await house.recovered() == []
    assert await house.statuses() == {A: "healthy", FILE: "healthy"}


async def test_a_failure_makes_it_active_and_the_next_recovery_news(house: House) -> None:
    await house.holds(A)
    await house.passes()
    assert await house.recovered() == [1]
    await house.ran(FAILURE)
    assert await house.statuses() == {A: "active"}
    await house.passes(HEALTHY_AFTER - 1)
    assert await house.recovered() == []
    await house.passes(1)
    assert await house.recovered() == [1]
    assert await house.statuses() == {A: "healthy"}


async def test_a_look_that_is_too_old_says_nothing(house: House) -> None:
    await house.holds(A)
    await house.passes()
    await house.shown()
    await house.does(RemoveFromQuarantine(5, (A,)))
    await house.holds(A, first_id=2)
    assert await house.reported(show=False) == []
    assert await house.recovered() == [], "what came before it was quarantined does not count"


async def test_what_has_expired_does_not_recover(house: House) -> None:
    await house.holds(A, days=1)
    await house.passes()
    house.now += DAY
    assert [type(event) for event in await house.reported()] == [QuarantineExpired]


async def test_two_that_look_at_once_say_it_once(house: House) -> None:
    await house.holds(A)
    await house.passes()
    await house.shown()
    other = QuarantineWatch(house.parts.pool, house.handler, lambda: house.now)
    assert [await house.watch.sweep(), await other.sweep()] == [1, 0]
