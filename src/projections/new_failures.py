"""Queries for tickets: which failures of a build are new, and whether tests have passed."""

from collections.abc import Iterable, Sequence

from domain.results import FAILED, PASSED, SKIPPED
from projections.builds import BuildRow
from projections.results import ReportRow, ResultTextRow
from projections.results_blocks import STATUS, BlockRow, has_case, positions_of
from projections.results_queries import IS_CURRENT, ReportRanges, fetch_statuses
from store.postgres.queries import Source, fetch_rows

MAX_BLOCKS = 1_000
"""Largest number of blocks with results of a test that are read: the newest ones of the job."""

_REPORT_OF = f"SELECT * FROM {ReportRow.table} WHERE first_result_id <= t.id ORDER BY first_result_id DESC LIMIT 1"


async def find_failed_before(
    source: Source, job_id: int, build_id: int, group_id: int | None, cases: Sequence[int]
) -> set[str]:
    """Returns the signatures of old failures: looks up the last result that each test case had in earlier builds of the
    job, and returns the signatures of those results that failed. For each test case, reads the newest MAX_BLOCKS blocks
    with its results.

    Ignores untrusted builds, whose failures get no tickets, and the builds of the group `group_id`.
    """
    query = (
        "SELECT DISTINCT coalesce(x.signature, '') FROM unnest(%(cases)s::int[]) AS c (case_id)"
        f" CROSS JOIN LATERAL (WITH found AS MATERIALIZED (SELECT first_result_id FROM {BlockRow.table}"
        f"   WHERE {has_case('c.case_id')} AND job_id = %(job)s),"
        f"  newest AS MATERIALIZED (SELECT * FROM found ORDER BY first_result_id DESC LIMIT {MAX_BLOCKS})"
        f"  SELECT t.id, t.facts FROM newest JOIN {BlockRow.table} block USING (first_result_id)"
        "   CROSS JOIN LATERAL (SELECT block.first_result_id + at - 1, block.facts[at]"
        f"    FROM unnest({positions_of('c.case_id')}) AS at) t (id, facts)"
        f"  JOIN LATERAL ({_REPORT_OF}) r ON r.first_result_id + r.cases > t.id"
        f"  JOIN {BuildRow.table} b ON b.id = r.build_id AND NOT b.untrusted AND {IS_CURRENT}"
        "   AND (%(group)s::bigint IS NULL OR b.group_id IS DISTINCT FROM %(group)s)"
        f"   WHERE r.build_id < %(build)s AND t.facts >= 0 AND t.facts & {STATUS} <> {SKIPPED}"
        "   ORDER BY r.build_id DESC, t.id DESC LIMIT 1) last"
        f" LEFT JOIN {ResultTextRow.table} x ON x.id = last.id WHERE last.facts & {STATUS} = {FAILED}"
    )
    rows = await fetch_rows(source, query, {"cases": list(cases), "job": job_id, "build": build_id, "group": group_id})
    return {signature for (signature,) in rows}


async def has_passed(source: Source, builds: Iterable[ReportRanges], cases: Sequence[int]) -> bool:
    """Returns True if each of these test cases has results in the reports of a build in `builds`, and all these results
    passed. Ignores results that do not count, such as retried attempts.
    """
    found = {one for ranges in builds for one in await fetch_statuses(source, ranges, cases)}
    return {case_id for case_id, _ in found} == set(cases) and all(status == PASSED for _, status in found)
