"""Test cases: lists of the tests of a project or job by their latest outcomes, and one test with its runs."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import compress
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from litestar import Controller, Response, get
from litestar.params import Parameter
from psycopg import AsyncConnection

from api.http.permissions import CAN_READ
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, to_view
from api.jobs import find_visible_job
from api.projects import find_visible_project
from api.test_health import first_day
from api.test_health_views import RunOfNote, to_evidence
from domain.case_activity import Activity, CaseActivity, JobRuns, Only, Sort, sum_up
from domain.core.errors import Invalid, NotFound
from domain.results import STATUSES, ResultStatus
from domain.run_histories import RunHistory
from projections import jobs, results_history, test_cases, test_health
from projections.missed_builds import count_newer_builds
from projections.results_cases import TestCaseRow
from projections.test_health import MAX_SUSPECTS

SEARCH_LENGTH = 1_000

Days = Annotated[int, Parameter(ge=1, le=90, description="Look-back window: today, in UTC, and the days before it")]


class TestCaseItem(msgspec.Struct):
    """A test case with its outcomes in the look-back window. Failed and retried runs in broken builds, in which most
    tests failed, do not count, not even in `runs`. Only `failing_streak`, `failing_since` and `last_failed_build`
    consider the failed runs in broken builds.
    """

    __test__ = False

    id: int
    """Id of the test case: one test of a project across builds."""
    node_id: str
    """Node id of the test, which is the same in every build."""
    suite: str
    runs: int
    """Number of runs of the test in the window. In the list of a job, only runs in builds of this job count. A run has
    the results of the test in one build.
    """
    failed_runs: int
    """Number of runs in the window that failed."""
    other_branches: int
    """Number of failed runs in the window on branches other than the default branch of the job. They count neither as
    flips nor as the newest run, since such a branch may be broken.
    """
    outages: int
    """Number of runs in the window that failed, or passed on a retry only, because the machine, the network or another
    system failed. They do not count as flips, and those that passed on a retry do not count in `retried_runs`.
    """
    retried_runs: int
    """Number of runs in the window that passed on a retry only."""
    flips: int
    """Number of times that the outcome changed between passed and failed, from one run to the next."""
    failing_streak: int
    """Number of failed runs in a row, counted back from the newest run. All failures count, also those in broken builds
    and outages. Runs on other branches are left out.
    """
    failing_since: int | None
    """Id of the build of the first run that `failing_streak` counts; null if the newest run passed, or if the test may
    have begun to fail before the window.
    """
    last_failed_build: int | None
    """Id of the build of the newest run if this run failed; null if it passed."""
    missed_builds: int
    """Number of builds of the same job on the default branch since `last_failed_build` in which the failing test did
    not run; at most 100. The test may have been removed, or is skipped. From 3 on, the test is not listed as
    `newly_failing`.
    """
    duration_ms: int | None
    """Duration of the newest result in milliseconds; null if the test was skipped. In the list of a project, the
    longest of the test's durations in the jobs of the project.
    """
    time_lost_ms: int
    """Total duration in milliseconds of the runs that failed or passed on a retry only, estimated from `duration_ms`.
    """
    has_failed: bool
    """Whether the test has ever failed or passed on a retry only. Broken builds do not count."""


class TestCaseList(msgspec.Struct):
    __test__ = False

    total: int
    """Number of test cases that match."""
    results: list[TestCaseItem]


class CaseRunItem(msgspec.Struct):
    """A result of a test case."""

    id: int
    """Id of the result."""
    build_id: int
    status: ResultStatus
    attempt: int
    flaky: bool
    duration_ms: int
    branch: str
    commit_sha: str | None
    recorded_at: datetime
    """Time at which the result was recorded."""


class TestCaseView(msgspec.Struct):
    __test__ = False

    id: int
    """Id of the test case: one test of a project across builds."""
    project_id: int
    node_id: str
    """Node id of the test, which is the same in every build."""
    suite: str
    runs: int
    """Number of all runs of the test, also in builds that were deleted."""
    results: list[CaseRunItem]
    """Newest results of the test, the newest first. Results in deleted builds are left out."""
    notable_runs: list[RunOfNote]
    """Runs that failed, that passed on a retry only, or that passed on the commit on which the run before failed; the
    oldest first. Only the newest 200 runs of the test are looked at. Runs in deleted builds are included.
    """


class TestCaseController(Controller):
    __test__ = False
    path = "/test-cases"
    tags = ["Test cases"]

    @get(opt={"problems": (NotFound,)}, guards=[CAN_READ])
    async def list_test_cases(
        self,
        ctx: RequestContext,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Project of the test cases")] = None,
        job_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only test cases that ran in this job")
        ] = None,
        sort: Annotated[
            Sort, Parameter(description="Order: the largest value first; for `id` the lowest")
        ] = "failures",
        only: Annotated[
            Only | None,
            Parameter(
                description="Only test cases that do this in the window. `flaky`: the outcome changed at least twice,"
                " or a run passed on a retry only; whether the test is flaky is `is_flaky` of its health"
            ),
        ] = None,
        search: Annotated[
            str | None, Parameter(min_length=1, max_length=SEARCH_LENGTH, description="Part of the node id")
        ] = None,
        days: Days = 14,
        limit: Annotated[int, Parameter(ge=1, le=200, description="Items on a page")] = 50,
        after: Annotated[
            str | None,
            Parameter(max_length=60, description="Where the page begins, from the `Link` of the page before"),
        ] = None,
    ) -> Response[TestCaseList]:
        """Returns the test cases of a project or job that ran in the look-back window, in the order that `sort` names.
        The header `Link: rel="next"` leads to the next page. Either `project_id` or `job_id` is required.
        """
        if (project_id is None) == (job_id is None):
            raise Invalid.field("project_id", "is required, or `job_id` instead of it; not both")
        position = None if after is None else parse_position(after)
        await find_project_of(ctx, project_id, job_id)  # before the turn, so that nobody waits for one in vain
        async with take_turn(ctx.request, ctx.services.analysis_turns), ctx.reading() as connection:
            project_id = await find_project_of(ctx, project_id, job_id)
            job_ids = [job_id] if job_id is not None else await jobs.fetch_ids(connection, project_id)
            activity = await read_activity(connection, project_id, job_ids, first_day(days), is_job=job_id is not None)
            if search is not None:
                named = await test_cases.find_by_name(connection, project_id, search)
                await asyncio.to_thread(activity.keep, named)
            if only == "never_failing":
                failed = await test_cases.find_failed_of_project(connection, project_id)
                await asyncio.to_thread(activity.drop, failed)
            total, page = await asyncio.to_thread(activity.select, sort, only, position, limit)
            names = await test_cases.fetch_names(connection, [case.id for case in page])
            failed = await test_cases.find_failed(connection, [case.id for case in page])
        items = [to_case_item(case, names[case.id], failed) for case in page if case.id in names]
        headers = {}
        if len(page) == limit:
            kept = [(name, value) for name, value in ctx.request.query_params.multi_items() if name != "after"]
            query = urlencode([*kept, ("after", "{}:{}".format(*page[-1].key(sort)))])
            headers = {"Link": f'<{ctx.request.url.path}?{query}>; rel="next"'}
        return Response(TestCaseList(total, items), headers=headers)

    @get("/{test_case_id:int}", guards=[CAN_READ])
    async def get_test_case(
        self,
        ctx: RequestContext,
        test_case_id: int,
        limit: Annotated[int, Parameter(ge=1, le=500, description="Largest number of results")] = 100,
    ) -> TestCaseView:
        """Returns a test case with its newest results, each with its commit and branch, and with its notable runs, such
        as failed ones.
        """
        async with ctx.reading() as connection:
            row = await ctx.find_visible(test_health.find_case, "test case", test_case_id)
            found = await test_health.fetch_histories(connection, [test_case_id])
            results = await results_history.fetch_history(connection, test_case_id, limit)
        history = found[0].history if found else RunHistory((), 0)
        return to_view(
            TestCaseView,
            row,
            runs=history.runs,
            results=[to_view(CaseRunItem, result, status=STATUSES[result.status]) for result in results],
            notable_runs=to_evidence(history),
        )


async def find_project_of(ctx: RequestContext, project_id: int | None, job_id: int | None) -> int:
    """Returns the id of the job's project if `job_id` is given, otherwise `project_id`. Raises NotFound if the user
    cannot see the job or the project.
    """
    if job_id is not None:
        return (await find_visible_job(ctx, job_id)).project_id
    assert project_id is not None
    return (await find_visible_project(ctx, project_id)).id


def parse_position(after: str) -> tuple[int, int]:
    """Returns the sort key of the last test of the page before, as the parameter `after` contains it. Raises Invalid if
    `after` is no such key.
    """
    value, _, case_id = after.partition(":")
    try:
        return int(value), int(case_id)
    except ValueError:
        raise Invalid.field("after", "must be from the `Link` of a page before") from None


async def read_activity(
    connection: AsyncConnection, project_id: int, job_ids: Sequence[int], since: int, *, is_job: bool
) -> Activity:
    cases = await test_cases.fetch_runs(connection, job_ids, since)
    among = set(compress(cases.ids(), cases.runs)) if is_job else None
    suspects = await test_health.fetch_recent_histories(connection, project_id, since, MAX_SUSPECTS, among)
    all_runs: dict[int, int] = {}
    of_builds: set[int] = set()
    if is_job:
        all_runs = await test_health.count_runs(connection, suspects, since)
        builds = {run.build_id for history in suspects.values() for run in history.notable}
        of_builds = await test_cases.find_builds_of_job(connection, builds, job_ids[0])

    def sum_up_all() -> dict[int, CaseActivity]:
        found: dict[int, CaseActivity] = {}
        for case_id, history in suspects.items():
            runs, duration = cases.find(case_id)
            if not runs:
                continue
            of_job = JobRuns(of_builds, runs) if is_job else None
            found[case_id] = sum_up(case_id, history, all_runs.get(case_id, runs), duration, of_job)
        return found

    activity = Activity(cases, await asyncio.to_thread(sum_up_all))
    activity.mark_missed(await count_newer_builds(connection, activity.find_failing_builds()))
    return activity


def to_case_item(case: CaseActivity, row: TestCaseRow, failed: set[int]) -> TestCaseItem:
    return to_view(
        TestCaseItem,
        row,
        **msgspec.structs.asdict(case) | {"time_lost_ms": case.time_lost_ms, "has_failed": case.id in failed},
    )
