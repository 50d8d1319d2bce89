"""Queries for trends: the builds of a job or a project by day. They read the table of builds."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from projections.builds import BuildRow
from projections.engine.queries import fetch_all
from store.postgres.queries import Source

LOOK_BACK = timedelta(days=30)
"""Length of the time before the first day of a trend from which builds are read, too. A failure in this time may have
been fixed on a day of the trend. Builds that were created earlier are not found, even if they ended on such a day.
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
    """Median time from the first failed build since a pass to the next pass. Considers failures whose next pass was on
    this day; None if there are none. A build that ran only selected tests is no pass.
    """


async def fetch_trend(source: Source, column: str, of: int, since: datetime) -> list[TrendDay]:
    """Returns the days since a time on which builds of a job or project ended, in order. `column` is `job_id` or
    `project_id`, and `of` is its value.
    """
    # Without the narrow `ended`, PostgreSQL sorts the whole rows of builds, with their configurations.
    query = (
        "WITH ended AS MATERIALIZED (SELECT id, job_id, branch, matrix, status, started_at, finished_at,"
        "   passed + failed AS results, failed, flaky,"
        "   selected_tests"
        f"  FROM {BuildRow.table} WHERE {column} = %(of)s AND finished_at IS NOT NULL"
        "  AND id > coalesce((SELECT id FROM"
        f"   (SELECT id, created_at FROM {BuildRow.table} WHERE {column} = %(of)s ORDER BY id DESC) newest"
        "   WHERE created_at < %(look_back)s LIMIT 1), 0)),"
        # A passed build of selected tests says nothing about the other tests.
        # A stretch has the builds after one that passed, up to the next one that passed. With EXCLUDE CURRENT ROW,
        # PostgreSQL would count all builds before anew for each build.
        " stretches AS (SELECT job_id, branch, matrix, status, finished_at, count(*) FILTER (WHERE status = 'passed')"
        "   OVER (PARTITION BY job_id, branch, matrix ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        "   AS stretch FROM ended WHERE status = 'failed' OR (status = 'passed' AND selected_tests IS NULL)),"
        " greens AS (SELECT max(finished_at) FILTER (WHERE status = 'passed') AS green,"
        "   min(finished_at) FILTER (WHERE status = 'failed') AS red"
        "  FROM stretches GROUP BY job_id, branch, matrix, stretch),"
        " times AS (SELECT (green AT TIME ZONE 'UTC')::date AS day,"
        "   percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM green - red)::float) AS time_to_green"
        "  FROM greens WHERE green >= red AND green >= %(since)s GROUP BY day),"
        " days AS (SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, count(*) AS builds,"
        "   count(*) FILTER (WHERE status = 'passed') AS passed, count(*) FILTER (WHERE status = 'failed') AS failed,"
        "   count(*) FILTER (WHERE status = 'aborted') AS aborted,"
        "   percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)::float)"
        "    FILTER (WHERE status <> 'aborted') AS duration,"
        "   sum(results)::bigint AS results, sum(failed)::bigint AS failed_results, sum(flaky)::bigint AS flaky_results"
        "  FROM ended WHERE finished_at >= %(since)s GROUP BY day)"
        " SELECT day, builds, passed, failed, aborted, duration, results, failed_results, flaky_results, time_to_green"
        " FROM days LEFT JOIN times USING (day) ORDER BY day"
    )
    parameters: Mapping[str, Any] = {"of": of, "since": since, "look_back": since - LOOK_BACK}
    return await fetch_all(source, TrendDay, query, parameters)
