"""Builds in real tables: pages, totals, the order of the queue."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from domain.builds import BuildAssigned, BuildDeleted, BuildFinished, BuildMovedToTop, BuildQueued
from domain.core.events import Event
from projections import build_groups, builds
from projections.builds import PROJECTION, BuildCount, BuildFilters
from projections.comparable_builds import find_ended_on_commit
from projections.engine.engine import Engine, ensure_tables
from testhide.processes import Core
from tests.projections.toys import recorded

FIRST, SECOND = 1, 2


def ids(build_id: int) -> dict[str, Any]:
    """Builds with even numbers are of another project and job."""
    return {"build_id": build_id, "job_id": 5 + (build_id + 1) % 2, "project_id": FIRST if build_id % 2 else SECOND}


def queued(build_id: int, branch: str = "main", **more: Any) -> BuildQueued:
    return BuildQueued(**ids(build_id), branch=branch, **more)


class Tables:
    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._engine = Engine(connection, [PROJECTION], announce=False)
        self._position = 0

    async def after(self, *events: Event) -> None:
        happened = recorded(*events, after=self._position)
        self._position = await self._engine.apply(happened, self._position)


@pytest.fixture
async def tables(parts: Core) -> AsyncIterator[Tables]:
    async with parts.pool.connection() as connection:
        await ensure_tables(connection, [PROJECTION])
        yield Tables(connection)


async def test_results_are_compared_with_builds_of_the_same_combination(tables: Tables) -> None:
    """What fails on one system and passes on another is not flaky."""
    combinations = [{"os": "linux"}, {"os": "mac"}, {"os": "linux"}, {}]
    for number, matrix in zip((1, 3, 5, 7), combinations, strict=True):
        end = BuildFinished(**ids(number), status="passed")
        await tables.after(queued(number, commit_sha="c0ffee", matrix=matrix, group_id=1), end)
    found = [
        await find_ended_on_commit(tables.connection, 5, "c0ffee", matrix, other_than=9, untrusted=False)
        for matrix in combinations
    ]
    assert found == [[5, 1], [3], [5, 1], [7]]
    counting = await build_groups.fetch_counting(tables.connection, 1)
    assert [row.id for row in counting] == [3, 5, 7], "build 5 is newer than build 1"


async def test_results_are_compared_with_builds_of_forks_only_in_builds_of_forks(tables: Tables) -> None:
    """Whoever writes a fork could otherwise make a failure of the default branch look flaky."""
    for number, untrusted in ((1, False), (3, True), (5, False)):
        end = BuildFinished(**ids(number), status="passed")
        await tables.after(queued(number, commit_sha="c0ffee", untrusted=untrusted), end)
    found = [
        await find_ended_on_commit(tables.connection, 5, "c0ffee", {}, other_than=5, untrusted=untrusted)
        for untrusted in (False, True)
    ]
    assert found == [[1], [3, 1]]


async def test_restarts_of_one_build_are_found_from_each_of_them(tables: Tables) -> None:
    restarts = {3: 2, 4: 2, 6: 4, 7: 1}
    await tables.after(*(queued(number, restarted_from=restarts.get(number)) for number in range(1, 8)))
    for build_id in (2, 3, 4, 6):
        assert await build_groups.fetch_restart_ids(tables.connection, build_id) == [2, 3, 4, 6]
    assert await build_groups.fetch_restart_ids(tables.connection, 5) == [5]
    await tables.after(BuildDeleted(**ids(2)))
    assert await build_groups.fetch_restart_ids(tables.connection, 6) == [2, 3, 4, 6]


async def test_pages_by_key_are_those_by_number(tables: Tables) -> None:
    await tables.after(*(queued(number) for number in range(1, 12)))
    everything = BuildFilters()
    by_number = [
        [row.id for row in await builds.fetch_page(tables.connection, everything, 3, start)] for start in (0, 3, 6, 9)
    ]
    by_key: list[list[int]] = [[row.id for row in await builds.fetch_page(tables.connection, everything, 3, 0)]]
    while by_key[-1]:
        older = BuildFilters(before_id=by_key[-1][-1])
        by_key.append([row.id for row in await builds.fetch_page(tables.connection, older, 3, 0)])
    assert [*by_number, []] == by_key
    assert by_number == [[11, 10, 9], [8, 7, 6], [5, 4, 3], [2, 1]]


async def test_totals(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact for each filter alone, for whoever asks; for combinations up to a bound."""
    monkeypatch.setattr(builds, "MAX_COUNT", 3)
    await tables.after(*(queued(number, "dev" if number > 4 else "main") for number in range(1, 13)))

    async def total(**filters: Any) -> BuildCount:
        return await builds.count(tables.connection, BuildFilters(**filters))

    assert await total() == BuildCount(12, False)
    assert await total(status="queued") == BuildCount(12, False)
    assert await total(projects=[FIRST]) == BuildCount(6, False)
    assert await total(projects=[FIRST], status="queued") == BuildCount(6, False)
    assert await total(projects=[FIRST], branch="dev") == BuildCount(4, False)
    assert await total(projects=[FIRST], branch="dev", status="queued") == BuildCount(3, True)
    assert await total(projects=[FIRST], branch="main", status="queued") == BuildCount(2, False)
    assert await total(branch="main", status="running") == BuildCount(0, False)
    assert await total(projects=[]) == BuildCount(0, False)


async def test_a_commit_is_found_by_its_beginning(tables: Tables) -> None:
    commits = ("a1b2c3d4", "A1B2C3D4E5" * 4, "a1b2c3e", "a1b2c3", None)
    await tables.after(*(queued(number, commit_sha=commit) for number, commit in enumerate(commits, 1)))

    async def found(commit: str) -> list[int]:
        filters = BuildFilters(commit_sha=commit)
        assert await builds.count(tables.connection, filters) == BuildCount(len(await page(filters)), False)
        return await page(filters)

    async def page(filters: BuildFilters) -> list[int]:
        return [row.id for row in await builds.fetch_page(tables.connection, filters, 10, 0)]

    assert await found("a1b2c3d") == await found("a1b2c3d4") == [2, 1]
    assert await found("a1b2c3d4e5" * 4) == [2]
    assert await found("a1b2c3e") == [3]
    assert await found("fffffff") == []


async def test_the_place_in_the_queue(tables: Tables) -> None:
    await tables.after(
        *(queued(number, priority=priority) for number, priority in enumerate((5, 1, 9, 5, 9), 1)),
        BuildMovedToTop(**ids(2)),
        BuildAssigned(**ids(3), node_id=1, attempt=1),
    )

    async def positions() -> list[int]:
        """0 for a build that does not wait."""
        return [await builds.find_queue_position(tables.connection, number) for number in range(1, 6)]

    assert await positions() == [3, 1, 0, 4, 2]
    await tables.after(BuildMovedToTop(**ids(4)), BuildFinished(**ids(5), status="aborted"))
    assert await positions() == [3, 2, 0, 1, 0]
