"""Emerging flakiness: when a test begins to fail more often than before, and when that is over."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from commands.flakiness import RecordChangedFlakiness
from commands.handler import Handler
from commands.results import AddCases, NewCases
from domain.core.events import Event, EventMetadata
from domain.flakiness import FLAKINESS, FlakinessEmerged, FlakinessSettled
from domain.results import FAILED as FAILED_RESULT
from domain.results import PASSED
from domain.run_histories import NotableRun, RunHistory, follow
from domain.test_health import FAILED
from projections import emerging
from projections.emerging import EmergenceRow
from projections.engine.read_your_writes import ProjectionWaiter
from projections.registry import PROJECTIONS
from projections.test_health import CaseHistory
from store.clock import utcnow
from store.log.event_log import Write
from testhide.processes import Core
from tests.projections.claims import projecting
from tests.projections.claims import serve as make_tables
from tests.projections.test_results import block
from tests.support.spec import folds, given
from workers.emerging import decide
from workers.flakiness import CALLER, FlakinessWatch

EMERGED = FlakinessEmerged(
    test_case_id=1,
    project_id=1,
    job_id=5,
    build_id=9,
    first_build_id=7,
    runs=9,
    baseline_runs=6,
    baseline_failing=0,
    recent_runs=3,
    recent_failing=3,
    node_id="a",
)
SETTLED = FlakinessSettled(
    test_case_id=1, project_id=1, job_id=5, build_id=12, runs=12, emerged_build_id=9, node_id="a"
)
NOT_YET_KNOWN = FlakinessSettled(test_case_id=1, project_id=1, job_id=5, build_id=12, runs=12, node_id="a")
BASELINE = 150
"""Number of passes after which a few failures are a rise."""


def history(failing: list[int], runs: int) -> RunHistory:
    return RunHistory([NotableRun(number, number, 0, FAILED) for number in failing], runs)


def verdicts(of: RunHistory, *, is_open: bool) -> list[type[Event]]:
    case = CaseHistory(1, 1, "a", "s", of)
    return [type(event) for event in decide(case, of, block(of.runs, PASSED), is_open=is_open)]


def test_a_rise_is_recorded_once() -> None:
    given().when(RecordChangedFlakiness((EMERGED,))).then(EMERGED)
    given(EMERGED).when(RecordChangedFlakiness((EMERGED,))).then_nothing()
    given(EMERGED).when(RecordChangedFlakiness((NOT_YET_KNOWN,))).then(SETTLED)
    given(EMERGED, SETTLED).when(RecordChangedFlakiness((NOT_YET_KNOWN,))).then_nothing()
    given(EMERGED, SETTLED).when(RecordChangedFlakiness((EMERGED,))).then(EMERGED)


def test_failures_after_many_passes_are_a_rise() -> None:
    failing = list(range(BASELINE, BASELINE + 20, 4))
    assert verdicts(history(failing, failing[-1]), is_open=False) == [FlakinessEmerged]
    assert verdicts(history(failing, failing[-1]), is_open=True) == []
    assert verdicts(history(failing[:1], failing[0]), is_open=False) == []
    assert verdicts(history(failing, BASELINE + 500), is_open=True) == [FlakinessSettled]
    assert verdicts(history(failing, BASELINE + 500), is_open=False) == []


def test_the_rise_begins_with_its_first_failure() -> None:
    failing = [20, *range(BASELINE, BASELINE + 20, 4)]
    assert follow(history(failing, failing[-1])).first_build_id == BASELINE


def test_a_test_that_always_failed_now_and_then_does_not_rise() -> None:
    assert verdicts(history(list(range(5, 400, 5)), 400), is_open=False) == []


def test_a_read_model_of_rises() -> None:
    rows = given(EMERGED).when(emerging.PROJECTION)
    row = rows.one(EmergenceRow)
    assert (row.test_case_id, row.build_id, row.first_build_id, row.settled_at) == (1, 9, 7, None)
    assert given(EMERGED, SETTLED).when(emerging.PROJECTION).one(EmergenceRow).settled_build_id == 12


@dataclass
class Watched:
    """A project whose test reports results, and the watch."""

    parts: Core
    waiter: ProjectionWaiter
    watch: FlakinessWatch

    async def report(self, first_build: int, *statuses: int) -> None:
        stamp = EventMetadata(utcnow(), "system:tests")
        for build_id, status in enumerate(statuses, start=first_build):
            await self.parts.log.append([Write(1, block(build_id, status))], stamp)
        assert await self.waiter.wait(await self.parts.log.read_head())
        while await self.watch.record_next_batch():
            pass
        assert await self.waiter.wait(await self.parts.log.read_head())

    async def rows(self) -> list[emerging.Emergence]:
        return await emerging.fetch_page(self.parts.pool, 1, utcnow().replace(year=2000), None, None, 10, 0)


@pytest.fixture
async def watched(parts: Core) -> AsyncIterator[Watched]:
    await make_tables(parts, PROJECTIONS)
    async with projecting(parts, PROJECTIONS) as waiter:
        handler = Handler(parts.log, utcnow)
        await handler.execute(AddCases(NewCases(1, 0, 1, ["a"], ["s"])), CALLER)
        made = Watched(parts, waiter, FlakinessWatch(parts.pool, parts.log, handler))
        await made.report(1)
        yield made


async def test_the_watch_records_a_rise_and_its_end(watched: Watched) -> None:
    await watched.report(1, *[PASSED] * BASELINE)
    assert await watched.rows() == []
    await watched.report(BASELINE + 1, *[FAILED_RESULT, PASSED, PASSED] * 5)
    (row,) = await watched.rows()
    assert (row.node_id, row.first_build_id, row.settled_at) == ("a", BASELINE + 1, None)
    assert BASELINE + 1 < row.build_id < BASELINE + 16
    assert (row.baseline_runs, row.baseline_failing) == (BASELINE, 0)
    await watched.report(BASELINE + 16, *[PASSED] * 300)
    (row,) = await watched.rows()
    assert row.settled_at is not None
    assert row.settled_build_id is not None


def test_histories_fold() -> None:
    folds(FLAKINESS, [SETTLED, EMERGED, EMERGED, SETTLED, SETTLED])
