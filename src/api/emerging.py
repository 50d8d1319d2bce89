"""Emerging flakiness: tests that have begun to fail more often than before."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, get
from litestar.params import Parameter

from api.http.paging import Paged, check_one_offset, next_page
from api.http.permissions import CAN_READ
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.projects import find_visible_project
from api.test_health import first_day
from api.test_health_views import MAX_ASSESSED_RUNS
from domain.core.errors import NotFound
from domain.run_histories import MINUTES_OF_DAY, RunHistory, count_failing, follow
from domain.test_health import BROKEN_FROM, FAILED, LEFT_OUT, RETRIED, assess
from projections import emerging, test_health
from projections.emerging import Emergence, EmergenceRow
from projections.test_health import MAX_SUSPECTS, CaseHistory


class EmergingTest(msgspec.Struct):
    """A test that failed, or passed on a retry only, more often in its last runs than in all runs before them. A run
    has the results of the test in one build. Runs of broken builds, in which most tests failed, do not count.
    """

    test_id: int
    """Id of the test case: one test of a project across builds."""
    name: str
    """Node id of the test, which is the same in every build."""
    suite: str
    baseline_rate: float
    """Share of failing runs before the last `window` runs."""
    recent_rate: float
    """Share of failing runs among the last `window` runs."""
    delta: float
    """`recent_rate` minus `baseline_rate`."""
    first_seen_build: int
    """Id of the build whose failing run was the first of the rise."""
    baseline_runs: int
    """Number of runs before the last `window` runs."""
    recent_runs: int
    """Number of runs among the last `window` runs, without those of broken builds."""
    recent_failing: int
    """Number of the `recent_runs` that failed or passed on a retry only."""
    flaky_probability: float
    """Probability that the test is flaky: that it fails now and then although the code is good."""
    broken_probability: float
    """Probability that the newest run failed because the code is broken. From 0.5 on, the rise is a regression rather
    than flakiness.
    """
    detected: bool
    """Whether the server has recorded the rise. It records a rise that lasts and is unlikely to be an accident. It
    records none within the first 100 runs of a test, since the usual rate of the test is not known yet.
    """
    detected_at: datetime | None
    """Time when the rise was recorded; null if it was not."""


class EmergingList(msgspec.Struct):
    emerging: list[EmergingTest]
    """Tests that are flaky, followed by tests that are probably broken rather than flaky. Of each kind, the tests whose
    rise was recorded come first, and larger rises come before smaller ones.
    """


class Detection(msgspec.Struct):
    """A recorded rise of the rate at which a test fails or passes on a retry only."""

    id: int
    """Position of the record in the log."""
    detected_at: datetime
    """Time when the rise was recorded."""
    test_id: int
    """Id of the test case: one test of a project across builds."""
    name: str
    """Node id of the test, which is the same in every build."""
    suite: str
    baseline_rate: float
    """Share of failing runs before the rise."""
    recent_rate: float
    """Share of failing runs from the rise to its detection."""
    delta: float
    """`recent_rate` minus `baseline_rate`."""
    baseline_runs: int
    """Number of runs before the rise."""
    recent_runs: int
    """Number of runs from the rise to its detection."""
    first_seen_build: int
    """Id of the build whose failing run was the first of the rise."""
    build_id: int
    """Id of the build with which the rise was detected."""
    resolved: bool
    """Whether later runs have shown that the rise is over."""
    resolved_at: datetime | None
    """Time at which the end of the rise was recorded; null if it lasts."""
    resolved_build: int | None
    """Id of the build that showed that the rise is over."""


class EmergingController(Controller):
    path = "/ai/emerging"
    tags = ["AI Test Health"]

    @get("/latest", guards=[CAN_READ])
    async def list_emerging_tests(
        self,
        ctx: RequestContext,
        project_id: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to check")],
        threshold: Annotated[float, Parameter(ge=0, le=1, description="Minimum flake-rate increase to flag")] = 0.1,
        window: Annotated[int, Parameter(ge=1, le=200, description="Recent build count to compare against")] = 10,
    ) -> EmergingList:
        """Returns the tests of a project that failed more often in their last `window` runs than before. Leaves out
        tests without earlier runs, since there is nothing to compare with.
        """
        await find_visible_project(ctx, project_id)  # before the turn, so that nobody waits for one in vain
        async with take_turn(ctx.request, ctx.services.analysis_turns), ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            case_ids = await test_health.find_recently_failed(connection, project_id, window, MAX_SUSPECTS)
            cases = await test_health.fetch_histories(connection, case_ids)
            detected = await emerging.find_open(connection, case_ids)
        compared = await asyncio.to_thread(lambda: [compare(case, window, detected.get(case.id)) for case in cases])
        items = [item for item in compared if item is not None]
        found = [item for item in items if item.delta > 0 and item.delta >= threshold]
        return EmergingList(sorted(found, key=sort_key))

    @get("/history", guards=[CAN_READ])
    async def list_emerging_history(
        self,
        ctx: RequestContext,
        project_id: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to query")],
        days: Annotated[
            int, Parameter(ge=1, le=3_650, description="History window: today, in UTC, and the days before it")
        ] = 30,
        test_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only detections of this test case")
        ] = None,
        page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
        limit: Annotated[int, Parameter(ge=1, le=1_000, description="Items on a page")] = 1_000,
        before: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only items before this id, instead of a page")
        ] = None,
    ) -> Response[list[Detection]]:
        """Returns the recorded rises of failure rates in a project, the newest first."""
        check_one_offset(ctx.request, "before")
        paged = Paged(page, limit, 0)
        since = datetime.fromtimestamp(first_day(days) * MINUTES_OF_DAY * 60, UTC)
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            if test_id is not None:
                case = await ctx.find(test_health.find_case, "test case", test_id)
                if case.project_id != project_id:
                    raise NotFound(f"There is no test case {test_id}.")
            found = await emerging.fetch_page(connection, project_id, since, test_id, before, limit, paged.offset)
        headers = next_page(ctx.request, limit, [row.id for row in found], key="before")
        return Response([to_detection(row) for row in found], headers=headers)


def sort_key(item: EmergingTest) -> tuple[bool, bool, float, int]:
    return item.broken_probability >= BROKEN_FROM, not item.detected, -item.delta, item.test_id


def compare(case: CaseHistory, window: int, detected: EmergenceRow | None) -> EmergingTest | None:
    """Compares the last `window` runs of a test with all earlier runs. Returns None if there are no earlier runs, or if
    none of the last `window` runs failed or passed on a retry only. `detected` is the recorded rise, which may have
    begun before the last `window` runs; None if no rise is recorded.
    """
    history = case.history.without_unknown()
    recent, baseline = history.newest(window), history.before_newest(window)
    failing, runs = count_failing(recent)
    failing_before, runs_before = count_failing(baseline)
    if not failing or runs_before <= 0:
        return None
    rate, rate_before = failing / runs, failing_before / runs_before
    assessment = assess(case.history.newest(MAX_ASSESSED_RUNS).to_bytes())
    return EmergingTest(
        test_id=case.id,
        name=case.node_id,
        suite=case.suite,
        baseline_rate=round(rate_before, 4),
        recent_rate=round(rate, 4),
        delta=round(rate - rate_before, 4),
        first_seen_build=find_first_failing(history, recent) if detected is None else detected.first_build_id,
        baseline_runs=runs_before,
        recent_runs=runs,
        recent_failing=failing,
        flaky_probability=assessment.flaky_probability,
        broken_probability=assessment.broken_probability,
        detected=detected is not None,
        detected_at=None if detected is None else detected.detected_at,
    )


def find_first_failing(history: RunHistory, recent: RunHistory) -> int:
    """Returns the id of the build with which an unrecorded rise began: the build of the first failing run that counts
    for the rise. This run may be older than the runs in `recent`. If no run counts for a rise, returns the build of the
    first failing run in `recent`.
    """
    return follow(history).first_build_id or next(
        run.build_id for run in recent.notable if run.flags & (FAILED | RETRIED) and not run.flags & LEFT_OUT
    )


def to_detection(row: Emergence) -> Detection:
    rate_before, rate = (
        failing / runs if runs else 0.0
        for failing, runs in ((row.baseline_failing, row.baseline_runs), (row.recent_failing, row.recent_runs))
    )
    return Detection(
        id=row.id,
        detected_at=row.detected_at,
        test_id=row.test_case_id,
        name=row.node_id,
        suite=row.suite,
        baseline_rate=round(rate_before, 4),
        recent_rate=round(rate, 4),
        delta=round(rate - rate_before, 4),
        baseline_runs=row.baseline_runs,
        recent_runs=row.recent_runs,
        first_seen_build=row.first_build_id,
        build_id=row.build_id,
        resolved=row.settled_at is not None,
        resolved_at=row.settled_at,
        resolved_build=row.settled_build_id,
    )
