"""Trends of jobs and projects: their builds by day."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from litestar import Controller, get
from litestar.params import Parameter

from api.http.permissions import CAN_READ
from api.http.request_context import RequestContext
from api.http.types import to_view
from api.jobs import find_visible_job
from api.projects import find_visible_project
from projections import trends
from projections.trends import TrendDay
from store.clock import utcnow

Days = Annotated[int, Parameter(ge=1, le=365, description="Number of days: today, in UTC, and the days before it")]


class TrendItem(msgspec.Struct):
    """Builds that ended on one day, in UTC. Builds that were deleted since do not count."""

    day: date
    """The day, like `2026-05-20`."""
    builds: int
    """Number of builds that ended on this day."""
    passed: int
    """Number of builds that passed."""
    failed: int
    """Number of builds that failed."""
    aborted: int
    """Number of builds that were aborted."""
    pass_rate: float | None
    """Share of passed builds among the builds that passed or failed; null if none did."""
    duration_s: float | None
    """Median duration, in seconds, of the builds that passed or failed; null if none did."""
    results: int
    """Number of passed and failed test results of the builds."""
    failed_results: int
    """Number of failed test results of the builds."""
    flaky_results: int
    """Number of flaky test results of the builds."""
    flake_rate: float | None
    """Share of the results that are flaky: they passed on a retry, or another build of the same commit had the opposite
    result. Null if there are no results. This is not the flake rate of a test, which its health estimates.
    """
    time_to_green_s: float | None
    """Median time in seconds until a job, branch and matrix combination passes again: from the first failed build after
    a pass to the next build that ran all tests and passed. Times that ended on this day count; null if there are none.
    """


class Trend(msgspec.Struct):
    days: list[TrendItem]
    """All days that were asked for, the oldest first."""


class TrendController(Controller):
    path = ""
    tags = ["Trends"]

    @get("/jobs/{job_id:int}/trend", guards=[CAN_READ])
    async def get_job_trend(self, ctx: RequestContext, job_id: int, days: Days = 30) -> Trend:
        """Returns the builds of a job by day: how many passed, how long they took, how flaky their results were, and
        how long failures lasted.
        """
        async with ctx.reading():
            await find_visible_job(ctx, job_id)
            return await read_trend(ctx, "job_id", job_id, days)

    @get("/projects/{project_id:int}/trend", guards=[CAN_READ])
    async def get_project_trend(self, ctx: RequestContext, project_id: int, days: Days = 30) -> Trend:
        """Returns the builds of all jobs of a project by day: how many passed, how long they took, how flaky their
        results were, and how long failures lasted.
        """
        async with ctx.reading():
            await find_visible_project(ctx, project_id)
            return await read_trend(ctx, "project_id", project_id, days)


async def read_trend(ctx: RequestContext, column: Literal["job_id", "project_id"], of: int, days: int) -> Trend:
    today = utcnow().date()
    first = today - timedelta(days=days - 1)
    since = datetime(first.year, first.month, first.day, tzinfo=UTC)
    found = {one.day: one for one in await trends.fetch_trend(ctx.source, column, of, since)}
    return Trend([to_trend_item(found.get(day) or empty(day)) for day in each_day(first, today)])


def each_day(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def empty(day: date) -> TrendDay:
    return TrendDay(day, 0, 0, 0, 0, None, 0, 0, 0, None)


def to_trend_item(day: TrendDay) -> TrendItem:
    judged = day.passed + day.failed
    return to_view(
        TrendItem,
        day,
        pass_rate=round(day.passed / judged, 4) if judged else None,
        flake_rate=round(day.flaky_results / day.results, 4) if day.results else None,
        duration_s=None if day.duration_s is None else round(day.duration_s, 3),
        time_to_green_s=None if day.time_to_green_s is None else round(day.time_to_green_s, 3),
    )
