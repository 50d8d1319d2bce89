"""Projects take turns: one that floods a queue delays its own reactions alone."""

import asyncio
from collections import Counter

import pytest

from commands.projects import CreateProject
from domain.core.events import Event
from domain.jobs import JobDeleted
from store.tables import reactions as due_reactions
from testhide.engines import Engines
from tests.workers.yard import ANN, NO_REDIS, Yard, reaction, reads
from workers.reactions.reaction import Queue, Tools
from workers.reactions.reaction_dispatcher import SLOTS

FLOOD = range(100, 100 + 2 * SLOTS)
LATER = 7
"""Job of another project, whose reaction becomes due last."""


class Flood:
    """Reactions to the deletion of many jobs of project 1, which end when they are let go, and of one of project 2."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.ran = Counter[int]()
        self.running, self.most = 0, 0
        self.let_go = asyncio.Event()

    async def run(self, event: Event, tools: Tools) -> None:
        assert isinstance(event, JobDeleted)
        self.ran[event.job_id] += 1
        if event.project_id == 1:
            self.running += 1
            self.most = max(self.most, self.running)
            await self.let_go.wait()
            self.running -= 1

    async def make_jobs(self) -> None:
        await self.yard.handler.execute(CreateProject(2, "Other", 1, (("other", "slug-2"),), b""), ANN)
        for job_id in FLOOD:
            await self.yard.make_job(job_id)
        await self.yard.make_job(LATER, project_id=2)

    async def only_it_is_left(self) -> bool:
        """Whether all is noted, the other project's reaction has ended, and the flood uses the turns of its project."""
        is_full = self.running == due_reactions.PROJECT_SLOTS
        return is_full and self.ran[LATER] == 1 and len(await self.yard.due()) == len(FLOOD)


@pytest.fixture
async def flood(yard: Yard) -> Flood:
    flood = Flood(yard)
    await flood.make_jobs()
    return flood


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's
@pytest.mark.parametrize(("queue", "has_redis"), [("changes", True), ("changes", False), ("tickets", True)])
async def test_a_project_that_floods_delays_no_other(
    flood: Flood, engines: Engines, queue: Queue, has_redis: bool
) -> None:
    yard = flood.yard
    relay = yard.relay(
        engines.redis_url if has_redis else NO_REDIS,
        (reaction("tested", flood.run, queue),),
        sweep_interval_s=0.2,
        overdue_s=0.2,
    )
    async with yard.running(relay):
        for job_id in (*FLOOD, LATER):
            await yard.delete_job(job_id)
        await yard.until(flood.only_it_is_left)
        assert {tries for _, tries, _ in await yard.due()} <= {0, 1}
        flood.let_go.set()
        await yard.until(lambda: reads(yard.due, []))
    assert flood.ran == Counter([*FLOOD, LATER]), "each once: who waits uses up no tries"
    assert flood.most == due_reactions.PROJECT_SLOTS


async def test_of_each_project_a_few_are_taken(flood: Flood) -> None:
    yard = flood.yard
    relay = yard.relay(reactions=(reaction("tested", flood.run, "changes"),))
    await yard.note(relay, *FLOOD, LATER)
    found = await due_reactions.fetch_due(yard.parts.pool, ["tested"], 100)
    positions = await yard.deletions()
    assert sorted(due.position for due in found) == [*positions[: due_reactions.PROJECT_SLOTS], positions[-1]]
    for limit, count in ((100, len(FLOOD)), (7, 7)):
        assert await due_reactions.count_due(yard.parts.pool, "tested", 1, limit) == count
    assert await due_reactions.count_due(yard.parts.pool, "other", 1, 100) == 0
