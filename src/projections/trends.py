"""Queries for trends: the builds of a job or a project by day. They read the table of builds."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from projections.builds import BuildRow
from projections.engine.queries import fetch_all
from store.postgres.queries import Source

LOOK_BACK = timedelta(days=30)
"""Time before the first day in which failures are looked for that ended later. Builds that waited or ran longer than
this are not found either.
"""


class TrendDay(msgspec.Struct, frozen=True):
    """Builds that ended on one day, in UTC."""

    day: date
    builds: int
    passed: int
    failed: int
    aborted: int
    duration_s: float | None
    """Median duration of the builds that passed or failed; None if none did."""
    results: int
    """Number of passed and failed results of these builds."""
    failed_results: int
    flaky_results: int
    time_to_green_s: float | None
    """Median time from the first failed build to the next build that passed, of those that passed on this day."""


async def fetch_trend(source: Source, column: str, of: int, since: datetime) -> list[TrendDay]:
    """Returns the days since a time on which builds of a job or project ended, in order. `column` is `job_id` or
    `project_id`, and `of` its value.
    """
    query = (
        f"WITH ended AS (SELECT * FROM {BuildRow.table} WHERE {column} = %(of)s AND finished_at IS NOT NULL"
        "  AND id > coalesce((SELECT id FROM"
        f"   (SELECT id, created_at FROM {BuildRow.table} WHERE {column} = %(of)s ORDER BY id DESC) newest"
        "   WHERE created_at < %(look_back)s LIMIT 1), 0)),"
        # A stretch has the builds after one that passed, up to the next one that passed.
        " stretches AS (SELECT *, count(*) FILTER (WHERE status = 'passed') OVER"
        "   (PARTITION BY job_id, branch, matrix ORDER BY id ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW) AS stretch"
        "  FROM ended WHERE status IN ('passed', 'failed')),"
        " greens AS (SELECT id, status, finished_at - min(finished_at) FILTER (WHERE status = 'failed') OVER"
        "   (PARTITION BY job_id, branch, matrix, stretch) AS red FROM stretches)"
        " SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, count(*),"
        " count(*) FILTER (WHERE e.status = 'passed'), count(*) FILTER (WHERE e.status = 'failed'),"
        " count(*) FILTER (WHERE e.status = 'aborted'),"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)::float)"
        "  FILTER (WHERE e.status <> 'aborted'),"
        " sum(passed + failed)::bigint, sum(failed)::bigint, sum(flaky)::bigint,"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM g.red)::float)"
        "  FILTER (WHERE g.status = 'passed' AND g.red >= interval '0')"
        " FROM ended e LEFT JOIN greens g USING (id) WHERE finished_at >= %(since)s GROUP BY day ORDER BY day"
    )
    parameters: Mapping[str, Any] = {"of": of, "since": since, "look_back": since - LOOK_BACK}
    return await fetch_all(source, TrendDay, query, parameters)
