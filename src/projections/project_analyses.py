"""Queries for analyses of a project. The number of rows that each reads is limited."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from domain.results import FAILED
from projections.builds import BuildRow
from projections.engine.queries import fetch_all
from projections.quarantine import QuarantineRow
from projections.results_queries import ReportRanges, ResultFilters
from projections.triage import TRIAGE_JOINS
from store.postgres.queries import Source, fetch_row, fetch_rows

MAX_NEWEST = 2_000
"""Number of a project's newest builds that are searched for failed ones."""


class FailedBuildRow(msgspec.Struct, frozen=True):
    id: int
    job_id: int
    created_at: datetime
    failed: int


async def fetch_failed_builds(source: Source, project_id: int, since: datetime, limit: int) -> list[FailedBuildRow]:
    """Returns a project's failed builds since a time that have failed results, newest first."""
    query = (
        "SELECT id, job_id, created_at, failed FROM"
        f" (SELECT * FROM {BuildRow.table} WHERE project_id = %(project)s ORDER BY id DESC LIMIT {MAX_NEWEST}) newest"
        " WHERE status = 'failed' AND failed > 0 AND created_at >= %(since)s ORDER BY id DESC LIMIT %(limit)s"
    )
    return await fetch_all(source, FailedBuildRow, query, {"project": project_id, "since": since, "limit": limit})


async def fetch_jobs(source: Source, build_ids: Sequence[int]) -> dict[int, int]:
    """Returns build -> job. Leaves out deleted builds."""
    query = f"SELECT id, job_id FROM {BuildRow.table} WHERE id = ANY (%(builds)s)"
    return dict(await fetch_rows(source, query, {"builds": list(build_ids)}))


async def count_unread(source: Source, ranges: ReportRanges) -> tuple[int, int]:
    """Returns the number of a build's failures, and the number of those that no person and no rule has classified."""
    filters = ResultFilters(status=FAILED)
    query = (
        "SELECT count(*), count(*) FILTER (WHERE v.classification IS NULL AND m.id IS NULL)"
        f" {filters.select(ranges, joins=TRIAGE_JOINS)}"
    )
    row = await fetch_row(source, query, filters.parameters(ranges))
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def find_unread(source: Source, result_ids: Sequence[int]) -> set[int]:
    """Returns the results, among `result_ids`, that neither a person nor a rule has classified."""
    query = (
        f"SELECT t.id FROM unnest(%(ids)s::bigint[]) AS t (id){TRIAGE_JOINS}"
        " WHERE v.classification IS NULL AND m.id IS NULL"
    )
    return {result_id for (result_id,) in await fetch_rows(source, query, {"ids": list(result_ids)})}


async def fetch_quarantine(source: Source, project_id: int, job_ids: Sequence[int], limit: int) -> list[QuarantineRow]:
    """Returns the oldest entries of the quarantines of a project's jobs."""
    query = (
        f"SELECT * FROM {QuarantineRow.table} WHERE job_id = ANY (%(jobs)s) AND project_id = %(project)s"
        " ORDER BY id LIMIT %(limit)s"
    )
    return await fetch_all(source, QuarantineRow, query, {"jobs": list(job_ids), "project": project_id, "limit": limit})
