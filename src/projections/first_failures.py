"""Query for the build in which a test began to fail."""

from collections.abc import Sequence
from typing import Any

import msgspec

from domain.failures.first_failures import FirstFailure, find_first_failure
from domain.results import FAILED, PASSED
from projections.builds import BuildRow
from projections.comparable_builds import MAX_ON_COMMIT
from projections.engine.queries import fetch_value
from projections.results import ReportRow, SupersededRow
from projections.results_blocks import STATUS, BlockRow, has_case, positions_of
from projections.results_queries import FACTS, IS_CURRENT
from projections.test_health import find_broken_builds, find_outages
from store.postgres.queries import Source, fetch_rows

MAX_RESULTS = 500
"""Largest number of results of a test that are searched for a pass: the newest ones on the branch, up to the failure.
"""
FIRST_BLOCKS = 50
"""Largest number of blocks that the first query reads: the newest blocks with results of the test, up to the block of
the failed result. Blocks of other branches count, too.
"""
MAX_BLOCKS = 5_000
"""Largest number of blocks with results of the test, the newest ones, that a second query reads. This query is needed
if the first one finds no pass before the failures.
"""


async def find(source: Source, case_id: int, build_id: int, result_id: int) -> FirstFailure | None:
    """Returns the build in which a test began to fail. Of the consecutive failures of which the result `result_id` is
    the last, it is the build of the first. Considers only builds of the same job, branch and combination. Returns None
    if the test did not fail in the build `build_id`.

    Leaves out outages and broken builds. If the build of the result is itself broken, or the result an outage, then
    all outages and broken builds count.
    """
    report = (
        f"SELECT * FROM {ReportRow.table} WHERE first_result_id <= newest.first_result_id"
        " ORDER BY first_result_id DESC LIMIT 1"
    )
    # Blocks of other branches are not read: decoding one takes longer than finding its build.
    query = (
        f"WITH found AS MATERIALIZED (SELECT first_result_id FROM {BlockRow.table}"
        f" WHERE {has_case('%(case)s::int')} AND first_result_id <= %(id)s),"
        " newest AS MATERIALIZED (SELECT * FROM found ORDER BY first_result_id DESC LIMIT %(blocks)s),"
        " comparable AS MATERIALIZED (SELECT newest.first_result_id, b.id, b.commit_sha FROM newest"
        f"  JOIN {BuildRow.table} this ON this.id = %(build)s"
        f"  JOIN LATERAL ({report}) r ON r.first_result_id + r.cases > newest.first_result_id"
        f"  JOIN {BuildRow.table} b ON b.id = r.build_id AND {IS_CURRENT}"
        "   AND b.job_id = this.job_id AND b.branch = this.branch AND b.matrix = this.matrix WHERE b.id <= this.id)"
        f" SELECT b.id, b.commit_sha, {FACTS} & {STATUS}, (SELECT count(*) FROM newest) FROM comparable b"
        f" JOIN {BlockRow.table} block USING (first_result_id)"
        " JOIN LATERAL (SELECT block.first_result_id + place - 1, block.facts[place]"
        f"  FROM unnest({positions_of('%(case)s::int')}) AS place OFFSET 0"
        " ) t (id, facts) ON t.facts >= 0"
        f" WHERE (SELECT true FROM {SupersededRow.table} s WHERE s.id = t.id) IS NULL"
        f" ORDER BY b.first_result_id DESC, t.id DESC LIMIT {MAX_RESULTS}"
    )
    parameters = {"case": case_id, "id": result_id, "build": build_id}
    rows = await fetch_rows(source, query, parameters | {"blocks": FIRST_BLOCKS})
    # The last build may have more results, in blocks that were not read, so its results are left out here.
    found = await _find_in_rows(source, case_id, build_id, [row for row in rows if row[0] != rows[-1][0]])
    if found is None or found.last_good is None:
        rows = await fetch_rows(source, query, parameters | {"blocks": MAX_BLOCKS})
        is_complete = len(rows) < MAX_RESULTS and all(row[3] < MAX_BLOCKS for row in rows)
        found = await _find_in_rows(source, case_id, build_id, rows, is_complete=is_complete)
    if found is None or found.is_outage or found.cause == "same_commit":
        return found
    return msgspec.structs.replace(
        found, passed_in=await _find_pass_on_commit(source, case_id, found.first_bad.build_id)
    )


async def _find_pass_on_commit(source: Source, case_id: int, build_id: int) -> int | None:
    """Returns the newest other build of the same job, commit and combination in which the test passed; None if there is
    none. Searches all branches. Leaves out untrusted builds, unless the build `build_id` is untrusted, too.
    """
    others = (
        f"SELECT o.id, o.attempt, o.status FROM {BuildRow.table} this JOIN {BuildRow.table} o"
        ' ON lower(o.commit_sha) COLLATE "C" = lower(this.commit_sha) AND o.job_id = this.job_id'
        " AND o.matrix = this.matrix AND o.id <> this.id AND o.status IN ('passed', 'failed')"
        " AND (this.untrusted OR NOT o.untrusted)"
        f" WHERE this.id = %(build)s ORDER BY o.id DESC LIMIT {MAX_ON_COMMIT}"
    )
    blocks = (
        f"SELECT * FROM {BlockRow.table} WHERE first_result_id >= r.first_result_id"
        " AND first_result_id < r.first_result_id + r.cases ORDER BY first_result_id OFFSET 0"
    )
    query = (
        f"SELECT b.id FROM ({others}) b JOIN {ReportRow.table} r ON r.build_id = b.id AND {IS_CURRENT}"
        f" CROSS JOIN LATERAL (SELECT block.first_result_id + at - 1 AS id, block.facts[at] AS facts"
        f"  FROM ({blocks}) block CROSS JOIN LATERAL unnest({positions_of('%(case)s::int')}) AS at) t"
        f" WHERE t.facts >= 0 AND (SELECT true FROM {SupersededRow.table} s WHERE s.id = t.id) IS NULL GROUP BY b.id"
        f" HAVING bool_and({FACTS} & {STATUS} <> {FAILED}) AND bool_or({FACTS} & {STATUS} = {PASSED})"
        " ORDER BY b.id DESC LIMIT 1"
    )
    found = await fetch_value(source, query, {"build": build_id, "case": case_id})
    return None if found is None else int(found)


async def _find_in_rows(
    source: Source, case_id: int, build_id: int, rows: Sequence[tuple[Any, ...]], *, is_complete: bool = False
) -> FirstFailure | None:
    results = [row[:3] for row in rows]
    failed = {build_id, *(build for build, _, status in results if status == FAILED)}
    outages = await find_outages(source, case_id, failed)
    left_out = await find_broken_builds(source, failed) | outages
    if build_id in left_out:
        left_out = set()
    found = find_first_failure(results, left_out, is_complete=is_complete)
    return None if found is None else msgspec.structs.replace(found, is_outage=build_id in outages)
