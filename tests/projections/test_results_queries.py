"""What is asked of results, against what a reader of all of them would say."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from domain.builds import BuildAssigned, BuildDeleted, BuildQueued, BuildStarted, ReportRecorded
from domain.core.columns import Int16s, Int32s
from domain.core.events import Event
from domain.results import FAILED, SKIPPED, CasesSeen, Replaced, ResultsRecorded
from projections import builds, results, results_history, results_queries
from projections.engine.engine import Engine
from projections.engine.schemas import connect
from projections.results_blocks import find_ranges, has_case
from projections.results_passes import find_stretches
from projections.results_queries import ReportRanges, ResultFilters
from testhide.processes import Core
from tests.projections.toys import recorded
from tests.support.read_models import begin_read_models

CASES, SUITES = 4, ["unit", "api"]
MOVED = (builds.PROJECTION, results.PROJECTION)


@dataclass
class Result:
    id: int
    build: int
    report: int
    """Place among the build's."""
    case: int
    suite: int
    status: int
    attempt: int
    decides: bool
    known_issue: bool
    flaky: bool
    quarantined: bool
    duration_ms: int
    is_replaced: bool = False

    @property
    def counts(self) -> bool:
        return self.decides and not self.is_replaced


rows = st.tuples(
    st.integers(0, CASES - 1),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 1),
    st.integers(1, 255),
    st.integers(0, 7),
)
"""Case, status, whether its test was run once more, suite, attempt, and three flags as bits."""
uploads = st.tuples(st.integers(0, 2), st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=3))
"""A build, and the blocks of a report of it."""


@dataclass
class World:
    """Tables that all examples share: each has builds, cases and results of its own."""

    connection: AsyncConnection
    next_id: int = 1_000
    position: int = 0

    def take(self, number: int) -> int:
        """The first of so many ids."""
        self.next_id += number
        return self.next_id - number

    async def happens(self, events: Sequence[Event]) -> None:
        engine = Engine(self.connection, MOVED, announce=False)
        self.position = await engine.apply(recorded(*events, after=self.position), self.position)

    def build(self) -> tuple[int, list[Event]]:
        build = self.take(1)
        ids = of_build(build)
        assigned = BuildAssigned(**ids, node_id=1, attempt=1)
        return build, [BuildQueued(**ids, branch="main"), assigned, BuildStarted(**ids, node_id=1, attempt=1)]

    def cases(self) -> tuple[int, list[Event]]:
        first = self.take(CASES)
        names = [f"test_{number}" for number in range(CASES)]
        return first, [CasesSeen(project_id=1, first_case_id=first, node_ids=names, suites=[""] * CASES)]

    def upload(
        self, build: int, number: int, first_case: int, blocks: Sequence[Sequence[Any]], known: list[Result]
    ) -> tuple[list[Result], list[Event]]:
        """The next report of a build of which these results are known."""
        size = sum(map(len, blocks))
        first = self.take(size)
        found: list[Result] = []
        events: list[Event] = []
        ids = count(first)
        for block in blocks:
            made = [
                Result(
                    *(next(ids), build, number, first_case + case, suite, status, attempt, not again),
                    known_issue=flags & 1 > 0,
                    flaky=flags & 2 > 0,
                    quarantined=flags & 4 > 0,
                    duration_ms=attempt * 7,
                )
                for case, status, again, suite, attempt, flags in block
            ]
            replaced = []
            for row, result in enumerate(made):
                before = [one for one in known if one.case == result.case and one.counts]
                if result.decides and before:
                    replaced += [Replaced(row, one.id, one.status) for one in before]
                    for one in before:
                        one.is_replaced = True
            found += made
            events.append(
                ResultsRecorded(
                    **of_build(build),
                    first_result_id=made[0].id,
                    case_ids=Int32s(one.case for one in made),
                    suites=Int16s(one.suite for one in made),
                    durations_ms=Int32s(one.duration_ms for one in made),
                    statuses=bytes(one.status for one in made),
                    attempts=bytes(one.attempt for one in made),
                    finals=bytes(one.decides for one in made),
                    known_issues=bytes(one.known_issue for one in made),
                    flaky=bytes(one.flaky for one in made),
                    quarantined=bytes(one.quarantined for one in made),
                    replaced=replaced,
                )
            )
        counts: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "known_issues": 0, "duration_ms": 0}
        where: dict[str, Any] = {"first_result_id": first, "cases": size, "blocks": len(blocks)}
        events.append(ReportRecorded(**of_build(build), **counts, **where, attempt=1, path="r.xml", suites=SUITES))
        return found, events


def of_build(build: int) -> dict[str, Any]:
    return {"build_id": build, "job_id": 5, "project_id": 1}


@pytest.fixture
async def world(parts: Core) -> AsyncIterator[World]:
    async with await connect(parts.conninfo) as connection:
        await begin_read_models(connection)
        yield World(connection)


async def test_a_result_without_its_report_is_nobodys(world: World) -> None:
    """A large report is projected in several steps."""
    first_case, events = world.cases()
    (one, begun), (other, also_begun) = world.build(), world.build()
    row = (0, 1, False, 0, 1, 0)
    whole, result_events = world.upload(one, 0, first_case, [[row]], [])
    part, (block, _) = world.upload(other, 0, first_case, [[row]], [])
    await world.happens([*events, *begun, *also_begun, *result_events, block])
    history = await results_history.fetch_history(world.connection, first_case, 5)
    assert [run.id for run in history] == [whole[0].id]
    assert await results_history.find_origin(world.connection, part[0].id) is None
    assert (await results_queries.find_report_of(world.connection, part[0].id)).reports == []


@pytest.mark.parametrize(
    "ids",
    [[*range(1, 1_500)], [*range(513, 700), 1_600, 515], [900, 7, 8, 900, 5, 6], [3], []],
    ids=["consecutive", "a gap", "another order", "one", "none"],
)
async def test_ranges_find_the_blocks_of_a_case(world: World, ids: list[int]) -> None:
    column = Int32s(ids)
    ranges = find_ranges(column, find_stretches(column))
    query = (
        "SELECT case_id FROM (SELECT %s::int[] AS case_ranges) block, generate_series(0, 1700) AS case_id"
        f" WHERE {has_case('case_id')} ORDER BY case_id"
    )
    found = await (await world.connection.execute(query.encode(), (ranges,))).fetchall()
    assert [case_id for (case_id,) in found] == sorted(set(ids))
    assert len(ranges) < 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    uploaded=st.lists(uploads, min_size=1, max_size=6),
    filters=st.builds(
        ResultFilters,
        status=st.none() | st.integers(0, 2),
        suite=st.none() | st.sampled_from([*SUITES, "none"]),
        search=st.none() | st.sampled_from(["TEST_1", "t_", "%"]),
        all_attempts=st.booleans(),
    ),
    limit=st.integers(1, 5),
    offset=st.integers(0, 4),
    after=st.integers(0, 20),
    deleted=st.none() | st.integers(0, 2),
)
async def test_every_question(
    world: World,
    uploaded: list[tuple[int, list[list[Any]]]],
    filters: ResultFilters,
    limit: int,
    offset: int,
    after: int,
    deleted: int | None,
) -> None:
    first_case, events = world.cases()
    of: dict[int, list[Result]] = {}
    for _ in range(3):
        build, begun = world.build()
        of[build] = []
        events += begun
    order = list(of)
    reports = dict.fromkeys(of, 0)
    for which, blocks in uploaded:
        build = order[which]
        made, result_events = world.upload(build, reports[build], first_case, blocks, of[build])
        of[build] += made
        reports[build] += 1
        events += result_events
    gone: list[Result] = []
    if deleted is not None:
        build = order[deleted]
        gone = of.pop(build)
        events.append(BuildDeleted(**of_build(build), results=spans_of(gone)))
    await world.happens(events)
    kept = [one for found in of.values() for one in found]

    for build, found in of.items():
        ranges = await results_queries.fetch_reports(world.connection, build)
        await pages(world.connection, ranges, found, filters, limit, offset, after, first_case)
        totals = {
            (total.report, total.suite, total.status): (
                *(total.results, total.duration_ms, total.known_issues, total.flaky, total.quarantined),
            )
            for total in await results_queries.fetch_totals(world.connection, ranges)
        }
        assert list(totals) == sorted(totals)
        assert totals == totals_of(found)
        asked = [first_case, first_case + 1]
        compared = await results_queries.fetch_comparable(world.connection, build, ranges, asked)
        wanted = {*asked, *(one.case for one in found if one.counts and one.status == FAILED)}
        assert sorted((one.build_id, one.suite, one.case_id, one.status) for one in compared) == sorted(
            (build, SUITES[one.suite], one.case, one.status)
            for one in found
            if one.counts and one.status != SKIPPED and one.case in wanted
        )
        failed = dict.fromkeys(f"test_{one.case - first_case}" for one in found if one.counts and one.status == 1)
        assert await results_queries.fetch_failed_node_ids(world.connection, build) == list(failed)
    for case in range(first_case, first_case + CASES):
        runs = sorted((one for one in kept if one.case == case and one.counts), key=lambda one: -one.id)
        history = await results_history.fetch_history(world.connection, case, limit)
        assert [(run.id, run.build_id, run.status, run.attempt, run.duration_ms, run.branch) for run in history] == [
            (one.id, one.build, one.status, one.attempt, one.duration_ms, "main") for one in runs[:limit]
        ]
    for one in kept:
        origin = await results_history.find_origin(world.connection, one.id)
        assert origin is not None
        assert (origin.result_id, origin.case_id, origin.build_id, origin.status) == (
            *(one.id, one.case, one.build, one.status),
        )
    for result_id in (*(one.id for one in gone), world.next_id, 2**62):
        assert await results_history.find_origin(world.connection, result_id) is None


async def pages(
    connection: AsyncConnection,
    ranges: ReportRanges,
    found: list[Result],
    filters: ResultFilters,
    limit: int,
    offset: int,
    after: int,
    first_case: int,
) -> None:
    wanted = [
        one
        for one in found
        if (filters.all_attempts or one.counts)
        and filters.status in (None, one.status)
        and filters.suite in (None, SUITES[one.suite])
        and (filters.search is None or filters.search.lower() in f"test_{one.case - first_case}")
    ]
    assert await results_queries.count(connection, ranges, filters) == len(wanted)
    page = await results_queries.fetch_page(connection, ranges, filters, limit, offset)
    assert [
        (item.id, item.case_id, item.node_id, item.suite, item.status, item.attempt, item.duration_ms) for item in page
    ] == [
        (one.id, one.case, f"test_{one.case - first_case}", one.suite, one.status, one.attempt, one.duration_ms)
        for one in wanted[offset : offset + limit]
    ]
    assert [(item.known_issue, item.flaky, item.quarantined) for item in page] == [
        (one.known_issue, one.flaky, one.quarantined) for one in wanted[offset : offset + limit]
    ]
    page = await results_queries.fetch_page(connection, ranges, filters, limit, offset, excused_last=True)
    excused_last = sorted(wanted, key=lambda one: one.known_issue or one.quarantined)
    assert [item.id for item in page] == [one.id for one in excused_last[offset : offset + limit]]
    last = found[after].id if after < len(found) else 0
    behind = ResultFilters(filters.status, filters.suite, filters.search, None, filters.all_attempts, last)
    page = await results_queries.fetch_page(connection, ranges, behind, limit, 0)
    assert [item.id for item in page] == [one.id for one in wanted if one.id > last][:limit]


def spans_of(found: Sequence[Result]) -> list[tuple[int, int]]:
    """Of each report, as a deletion names them."""
    by_report: dict[int, list[int]] = {}
    for one in found:
        by_report.setdefault(one.report, []).append(one.id)
    return [(ids[0], len(ids)) for ids in by_report.values()]


def totals_of(found: Sequence[Result]) -> dict[tuple[int, int, int], tuple[int, ...]]:
    totals: dict[tuple[int, int, int], tuple[int, ...]] = {}
    for one in found:
        if one.counts:
            suite_key = (one.report, one.suite, one.status)
            row_counts = (1, one.duration_ms, one.known_issue, one.flaky, one.quarantined)
            totals[suite_key] = tuple(
                map(sum, zip(totals.get(suite_key, (0,) * len(row_counts)), row_counts, strict=True))
            )
    return totals
