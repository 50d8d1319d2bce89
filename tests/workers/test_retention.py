"""Retention: what a project no longer keeps is deleted, and nothing else."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from commands.build_actions import PinBuild
from commands.builds import AbortBuild, FinishExternalBuild, StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CreateProject, UpdateProject
from domain.builds import BUILD, AnyBuild, BuildDeleted, DeletedBuild
from domain.matrix import Matrix
from projections.engine.engine import Engine, fetch_positions
from projections.projects import ProjectRow
from projections.registry import PROJECTIONS
from store.postgres.cancellation import cancel_and_wait
from store.tables.alarms import fetch_alarms
from testhide.processes import Core
from tests.support.read_models import begin_read_models
from workers import retention
from workers.loops.periodic import Schedule, Schedules
from workers.retention import Retention

TODAY = datetime(2026, 5, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ANN = CommandContext("user:1")


class House:
    """A project with two jobs and the builds that the test makes, and read models that follow."""

    def __init__(self, parts: Core) -> None:
        self.parts = parts
        self.now = TODAY
        self.handler = Handler(parts.log, lambda: self.now)
        self.retention = Retention(parts.pool, parts.log, self.handler, lambda: self.now)
        self.builds = 0

    async def does(self, *commands: Command) -> None:
        for command in commands:
            await self.handler.execute(command, ANN)

    async def keeps(self, *, days: int = 0, builds: int = 0, project_id: int = 1) -> None:
        await self.does(UpdateProject(project_id, retention_days=days, retention_builds=builds))

    async def started(self, job_id: int = 5) -> int:
        self.builds += 1
        await self.does(StartBuild(self.builds, job_id, external=True))
        return self.builds

    async def ran(self, *ages: int, job_id: int = 5) -> list[int]:
        """Builds that ended so many days ago."""
        made = []
        for age in ages:
            self.now = TODAY - age * DAY
            made.append(await self.started(job_id))
            await self.does(FinishExternalBuild(made[-1], "passed"))
        self.now = TODAY
        return made

    async def shown(self) -> None:
        """The read models are at the log's end."""
        async with self.parts.pool.connection() as connection:
            position = min((await fetch_positions(connection, PROJECTIONS)).values())
            events = await self.parts.log.read(position, 10_000)
            await Engine(connection, PROJECTIONS, announce=True).apply(events, position)

    async def is_gone(self, build_id: int) -> bool:
        state: AnyBuild | None = await self.parts.log.load_state(BUILD.at(build_id))
        return isinstance(state, DeletedBuild)

    async def sweep(self) -> list[int]:
        """The builds that a sweep deletes, by the log."""
        await self.shown()
        head = await self.parts.log.read_head()
        count = await self.retention.sweep()
        events = [recorded.event for recorded in await self.parts.log.read(head, 10_000)]
        assert all(event.actor == "system:retention" for event in events)
        gone = [event.build_id for event in events if isinstance(event, BuildDeleted) and event.reason == "retention"]
        assert len(events) == count == len(gone)
        await self.shown()
        return gone


@pytest.fixture
async def house(parts: Core) -> House:
    async with parts.pool.connection() as connection:
        await begin_read_models(connection)
    house = House(parts)
    for number in (1, 2):
        await house.does(CreateProject(number, f"P{number}", 1, ((f"p{number}", f"slug-{number}"),), b""))
    await house.does(CreateJob(5, 1, "Smoke"), CreateJob(6, 1, "Long"), CreateJob(7, 2, "Other"))
    return house


async def test_everything_is_kept_unless_a_project_says_otherwise(house: House) -> None:
    await house.ran(4_000, 3, 0)
    assert await house.sweep() == []


async def test_old_builds_go(house: House) -> None:
    old, edge, young = await house.ran(31, 30, 29)
    others = await house.ran(31, job_id=7)
    await house.keeps(days=30)
    assert await house.sweep() == [old], "what is exactly 30 days old is not older than that"
    assert await house.sweep() == [], "once"
    house.now += timedelta(seconds=1)
    assert await house.sweep() == [edge]
    await house.keeps(days=30, project_id=2)
    assert await house.sweep() == others
    await house.keeps(days=0)
    house.now += 900 * DAY
    assert await house.sweep() == []
    assert not await house.is_gone(young)


async def test_of_each_job_the_newest_stay(house: House) -> None:
    smoke = await house.ran(9, 8, 7, 6, 5)
    long = await house.ran(4, 3)
    many = await house.ran(9, 8, 7, job_id=6)
    running = await house.started()
    await house.keeps(builds=2)
    assert await house.sweep() == [*smoke, many[0]]
    await house.does(FinishExternalBuild(running, "failed"))
    assert await house.sweep() == long[:1]


async def test_builds_of_a_group_go_together(house: House) -> None:
    matrix = Matrix(axes={"n": ["1", "2"]})
    await house.does(ConfigureJob(5, "pytest", matrix=matrix))
    house.now = TODAY - 40 * DAY
    await house.does(StartBuild(1, 5, more_ids=(2,)), AbortBuild(1, "stopped_by_user"))
    house.now = TODAY
    await house.keeps(days=30)
    assert await house.sweep() == [], "a build of the group has not ended"
    await house.does(AbortBuild(2, "stopped_by_user"))
    assert await house.sweep() == [], "it is not old enough"
    house.now += 31 * DAY
    assert await house.sweep() == [1, 2]


async def test_either_rule_lets_a_build_go(house: House) -> None:
    smoke = await house.ran(40, 31, 2, 1)
    many = await house.ran(40, job_id=6)
    await house.keeps(days=30, builds=3)
    assert await house.sweep() == [*smoke[:2], *many]


async def test_pinned_builds_and_those_that_have_not_ended_stay(house: House) -> None:
    pinned, old, let_go = await house.ran(50, 40, 40)
    house.now = TODAY - 60 * DAY
    await house.started()
    house.now = TODAY
    await house.does(PinBuild(pinned, True), PinBuild(let_go, True), PinBuild(let_go, False))
    await house.keeps(days=30, builds=1)
    assert await house.sweep() == [old, let_go]


async def test_a_build_that_is_pinned_at_the_last_moment_stays(house: House) -> None:
    first, second = await house.ran(40, 40)
    await house.keeps(days=30)
    await house.shown()
    await house.does(PinBuild(first, True))  # the read model does not know yet
    assert await house.retention.sweep() == 1
    assert not await house.is_gone(first)
    assert await house.is_gone(second)


async def test_several_share_the_work(house: House) -> None:
    made = await house.ran(*[40] * 20)
    await house.keeps(days=30)
    await house.shown()
    counts = await asyncio.gather(*(house.retention.sweep() for _ in range(3)))
    assert sum(counts) == len(made), "each is deleted once"


async def test_a_few_at_a_time(house: House) -> None:
    house.retention.sweep_size = 3
    made = await house.ran(45, 44, 43, 42, 41)
    await house.keeps(days=30)
    assert [await house.sweep(), await house.sweep(), await house.sweep()] == [made[:3], made[3:], []]


async def test_it_goes_on_by_itself(house: House) -> None:
    """It does not wait for the whole interval while there is more to do."""
    house.retention.sweep_size = 2
    made = await house.ran(*[40] * 5)
    await house.keeps(days=30)
    await house.shown()
    schedule = Schedule("retention", house.retention.sweep, retention.INTERVAL_S, busy_interval_s=0.5)
    task = asyncio.create_task(Schedules(house.parts.conninfo, [schedule]).run())
    async with asyncio.timeout(20):
        while await _left(house, made):
            await house.shown()
    await cancel_and_wait(task)


async def _left(house: House, builds: Sequence[int]) -> list[int]:
    return [build for build in builds if not await house.is_gone(build)]


async def test_a_retention_that_somebody_changed_in_the_read_model_deletes_nothing(house: House) -> None:
    await house.ran(40, 2)
    others = await house.ran(40, job_id=7)
    await house.keeps(days=365)
    await house.keeps(days=30, project_id=2)
    await house.shown()
    async with house.parts.pool.connection() as connection:
        await connection.execute(f"UPDATE {ProjectRow.table} SET retention_days = 1 WHERE id = 1".encode())
        assert await house.sweep() == others
        assert "retention deletes nothing in projects [1]: " in "".join(await fetch_alarms(connection))
        await connection.execute(f"UPDATE {ProjectRow.table} SET retention_days = 365 WHERE id = 1".encode())
        assert await house.sweep() == []
        assert await fetch_alarms(connection) == []
