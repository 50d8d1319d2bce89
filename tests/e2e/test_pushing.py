"""From `git push` to the statuses of the commit, also while the worker is killed at every step."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from testhide.engines import Engines
from tests.e2e.pushing import MOMENTS, QUEUED, STATUS_LOST, pushed_repository
from tests.support.server import Server, server_on_new_database

WORDS = ("Waiting", "queued", "Running", "running", "failed", "Passed")
"""Words of statuses, in their order for each job."""


@pytest.fixture(name="worked")
def _worked(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    names = ("serve", "project", "dispatch", "work")
    with server_on_new_database(engines, tmp_path, *names, outgoing_allow="127.0.0.0/8") as server:
        yield server


async def test_a_push_leads_to_the_same_when_the_worker_is_killed_at_every_step(worked: Server, tmp_path: Path) -> None:
    async with pushed_repository(worked, tmp_path) as pushed:
        commit = await pushed.push("kettle")
        await pushed.until(lambda: len(pushed.statuses(commit)) == 2)
        pushed.start_agents()
        await pushed.until(lambda: pushed.has_ended(commit) and not pushed.due())
        pushed.check(commit, pushes=1)
        for statuses in pushed.statuses(commit).values():
            texts = [status["description"] for status in statuses]
            orders = [next(n for n, word in enumerate(WORDS) if word in text) for text in texts]
            assert (orders, orders[0] < 2) == (sorted(orders), True), texts

        # While no agent runs, the builds stay queued. So there is a status to set, and to lose, before that of the end,
        # however long the worker takes to start again.
        await asyncio.to_thread(pushed.stop_agents)
        pushed.killer.armed = list(MOMENTS)
        commit = await pushed.push("teapot")
        await pushed.until(lambda: STATUS_LOST not in pushed.killer.armed)
        pushed.start_agents()
        await pushed.until(lambda: not pushed.killer.armed)
        await pushed.until(lambda: pushed.has_ended(commit) and not pushed.due())
        pushed.check(commit, pushes=2)
        assert pushed.count_events(QUEUED) == 2 * 3
