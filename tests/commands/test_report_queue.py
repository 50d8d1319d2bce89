"""The order in which reports are read: fair between users and between projects."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.reports.report_queue import ReportQueue
from domain.core.errors import Unavailable

ANN, BEN = "user:1", "user:2"


class Turns:
    """Reports that take their turns, each named by its project and whoever sends it."""

    def __init__(self, limit: int) -> None:
        self.queue = ReportQueue(limit)
        self.running: dict[asyncio.Task[None], tuple[int, str]] = {}
        self.began: list[tuple[int, str]] = []
        self._ends: dict[asyncio.Task[None], asyncio.Event] = {}

    def send(self, project: int, actor: str, has_left: asyncio.Event | None = None) -> asyncio.Task[None]:
        end = asyncio.Event()

        async def take() -> None:
            async with self.queue.turn(project, actor, has_left):
                self.running[task] = project, actor
                self.began.append((project, actor))
                await end.wait()
                del self.running[task]

        task = asyncio.create_task(take())
        self._ends[task] = end
        return task

    async def end_first(self) -> None:
        """Ends the turn that has lasted longest."""
        task = next(iter(self.running))
        self._ends[task].set()
        await task
        await run_what_is_ready()

    @property
    def reports(self) -> list[tuple[int, str]]:
        """Those that have their turn."""
        return list(self.running.values())


async def run_what_is_ready() -> None:
    """Lets tasks run until all wait for a turn or the end of one."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def turns(limit: int) -> AsyncIterator[Turns]:
    async with asyncio.timeout(20):
        yield Turns(limit)


async def test_a_user_with_many_reports_does_not_hold_up_another_one_of_the_project() -> None:
    async with turns(1) as given_turns:
        for _ in range(50):
            given_turns.send(1, ANN)
        await run_what_is_ready()
        given_turns.send(1, BEN)
        await run_what_is_ready()
        await given_turns.end_first()
        assert given_turns.reports == [(1, BEN)]
        await given_turns.end_first()
        assert given_turns.reports == [(1, ANN)]


async def test_a_user_with_many_projects_leaves_a_process_to_others() -> None:
    async with turns(3) as given_turns:
        for project in range(50):
            given_turns.send(project, ANN)
        await run_what_is_ready()
        assert given_turns.reports == [(0, ANN), (1, ANN)]
        given_turns.send(99, BEN)
        await run_what_is_ready()
        assert given_turns.reports == [(0, ANN), (1, ANN), (99, BEN)]


async def test_the_projects_of_one_node_take_turns() -> None:
    async with turns(1) as given_turns:
        for project in (1, 1, 1, 2):
            given_turns.send(project, ANN)
        await run_what_is_ready()
        for _ in range(3):
            await given_turns.end_first()
        assert given_turns.began == [(1, ANN), (2, ANN), (1, ANN), (1, ANN)]


async def test_a_report_whose_sender_leaves_has_no_turn() -> None:
    async with turns(1) as given_turns:
        has_left = asyncio.Event()
        given_turns.send(1, ANN)
        left, cancelled = given_turns.send(1, ANN, has_left), given_turns.send(1, BEN)
        last = given_turns.send(2, BEN, asyncio.Event())
        await run_what_is_ready()
        has_left.set()
        cancelled.cancel()
        with pytest.raises(Unavailable):
            await left
        await given_turns.end_first()
        assert given_turns.reports == [(2, BEN)]
        await given_turns.end_first()
        assert last.done()
        assert given_turns.began == [(1, ANN), (2, BEN)]


@settings(max_examples=50)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([ANN, BEN, "node:1"]), st.booleans()), max_size=20),
)
def test_every_report_that_stays_has_its_turn(limit: int, reports: list[tuple[int, str, bool]]) -> None:
    async def run() -> None:
        async with turns(limit) as given_turns:
            tasks = [given_turns.send(project, actor) for project, actor, _ in reports]
            await run_what_is_ready()
            for task, (_, _, leaves) in zip(tasks, reports, strict=True):
                if leaves and task not in given_turns.running:
                    task.cancel()
            await run_what_is_ready()
            while given_turns.running:
                projects, actors = (Counter(column) for column in zip(*given_turns.reports, strict=True))
                assert max(projects.values()) == 1
                assert max(actors.values()) <= max(1, limit - 1)
                assert len(given_turns.running) <= limit
                await given_turns.end_first()
            assert all(task.done() for task in tasks)

    asyncio.run(run())
