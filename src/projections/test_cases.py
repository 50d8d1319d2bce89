"""Queries for lists of test cases: how often the tests of a project or job ran and failed, and how long they take. They
read the tables of the projection `results`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, repeat
from operator import gt
from typing import Any

from domain.results import SKIPPED
from domain.run_histories import BROKEN_MIN_RESULTS, BROKEN_SHARE
from domain.test_health import FAILED, RETRIED
from projections.builds import BuildRow
from projections.engine.binary_copy import unpack_array
from projections.engine.queries import fetch_all, fetch_column
from projections.results import STATUS, BlockRow, ReportRow
from projections.results_cases import TestCaseRow
from projections.results_queries import IS_CURRENT
from projections.results_runs import (
    CHUNK,
    BuildOutcomeRow,
    CaseDayRow,
    NotableRunRow,
    RunTotals,
    SuspectRow,
    build_of,
    day_of,
)
from store.clock import utcnow
from store.postgres.queries import Source, fetch_rows

DAYS_AT_ONCE = 5
"""Number of days whose runs one query reads, so that the rows of many tests in many jobs are not in memory at once."""
MAX_JOBS = 20
"""Largest number of jobs whose builds are read for durations: those with the newest builds."""
MAX_BLOCKS = 400
"""Largest number of blocks of results that are read for durations."""


async def count_runs_in_jobs(source: Source, job_ids: Sequence[int], since_day: int) -> dict[int, int]:
    """Returns test case -> number of its runs in these jobs since a day, which is included. Leaves out test cases
    without runs.
    """
    # The days and jobs of a chunk are sent as one: psycopg would take longer for 5,000 rows than the rest takes.
    query = (
        f"SELECT chunk, string_agg(runs, '') FROM {CaseDayRow.table} WHERE job_id = ANY (%(jobs)s::int[])"
        " AND day >= %(day)s AND day < %(day)s + %(days)s GROUP BY chunk"
    )
    totals = RunTotals()
    size = 4 * CHUNK
    for day in range(since_day, day_of(utcnow()) + 1, DAYS_AT_ONCE):
        parameters = {"jobs": list(job_ids), "day": day, "days": DAYS_AT_ONCE}
        rows = await fetch_rows(source, query, parameters)
        totals.add((chunk, runs[start : start + size]) for chunk, runs in rows for start in range(0, len(runs), size))
    found: dict[int, int] = {}
    for chunk, numbers in totals.of_chunks().items():
        case_ids = range(chunk * CHUNK, (chunk + 1) * CHUNK)
        counted = zip(case_ids, numbers, strict=True)
        found.update(counted if min(numbers) > 0 else compress(counted, map(gt, numbers, repeat(0))))
    return found


async def find_failed_of_project(source: Source, project_id: int) -> set[int]:
    """Returns the test cases of a project that have ever failed or passed on a retry only. Leaves out broken builds."""
    query = (
        f"SELECT array_send(array_agg(case_id::int)) FROM {SuspectRow.table} WHERE project_id = %(project)s"
        f" AND case_id IN (SELECT n.id >> 32 {_FAILED_RUNS})"
    )
    ((sent,),) = await fetch_rows(source, query, {"project": project_id, **_CONSTANTS})
    return set() if sent is None else set(unpack_array(sent, "i"))


async def find_failed(source: Source, case_ids: Sequence[int]) -> set[int]:
    """Returns those of the test cases that have ever failed or passed on a retry only. Leaves out broken builds."""
    query = (
        f"SELECT s.case_id FROM {SuspectRow.table} s WHERE s.case_id = ANY (%(cases)s)"
        f" AND EXISTS (SELECT {_FAILED_RUNS} AND n.id >= (s.case_id << 32) AND n.id < ((s.case_id + 1) << 32))"
    )
    return set(await fetch_column(source, query, {"cases": list(case_ids), **_CONSTANTS}))


_FAILED_RUNS = (
    f"FROM {NotableRunRow.table} n LEFT JOIN {BuildOutcomeRow.table} o ON o.build_id = n.id & %(builds)s"
    " WHERE n.flags & %(failing)s <> 0"
    " AND (o.passed + o.failed >= %(results)s AND o.failed > %(share)s::float8 * (o.passed + o.failed)) IS NOT TRUE"
)
"""Failures and retries outside broken builds, as `domain.run_histories` defines them."""
_CONSTANTS: Mapping[str, Any] = {
    "builds": build_of(-1),
    "failing": FAILED | RETRIED,
    "results": BROKEN_MIN_RESULTS,
    "share": BROKEN_SHARE,
}


async def find_by_name(source: Source, project_id: int, search: str) -> set[int]:
    """Returns the test cases of a project whose node ids contain a text, in upper or lower case."""
    query = (
        f"SELECT id FROM {TestCaseRow.table} WHERE project_id = %(project)s"
        " AND strpos(lower(node_id), lower(%(search)s)) > 0"
    )
    return set(await fetch_column(source, query, {"project": project_id, "search": search}))


async def fetch_durations(source: Source, job_ids: Sequence[int]) -> dict[int, int]:
    """Returns test case -> its duration in milliseconds. Reads the newest build of each of these jobs that ran all
    tests and has results, and leaves out test cases that these builds did not run or skipped.
    """
    query = (
        "SELECT array_send(block.case_ids), array_send(block.durations_ms), array_send(block.facts)"
        " FROM unnest(%(jobs)s::bigint[]) AS job (id)"
        " CROSS JOIN LATERAL ("
        f"  SELECT b.* FROM {BuildRow.table} b WHERE b.job_id = job.id AND b.passed + b.failed > 0"
        "   AND b.selected_tests IS NULL ORDER BY b.id DESC LIMIT 1) b"
        f" JOIN {ReportRow.table} r ON r.build_id = b.id AND {IS_CURRENT}"
        # Without OFFSET, PostgreSQL may compare all blocks with all reports.
        f" CROSS JOIN LATERAL (SELECT * FROM {BlockRow.table} WHERE first_result_id >= r.first_result_id"
        "   AND first_result_id < r.first_result_id + r.cases OFFSET 0) block"
        f" ORDER BY block.first_result_id LIMIT {MAX_BLOCKS}"
    )
    found: dict[int, int] = {}
    for case_ids, durations_ms, sent_facts in await fetch_rows(source, query, {"jobs": list(job_ids)[-MAX_JOBS:]}):
        # The last attempt of a test comes last. Facts of attempts that were retried are inverted.
        facts = unpack_array(sent_facts, "h")
        ran = {value for value in set(facts) if (~value if value < 0 else value) & STATUS != SKIPPED}
        durations = zip(unpack_array(case_ids, "i"), unpack_array(durations_ms, "i"), strict=True)
        found.update(compress(durations, map(ran.__contains__, facts)))
    return found


async def find_jobs_of_builds(source: Source, build_ids: Iterable[int]) -> dict[int, int]:
    """Returns build -> its job, also of builds that were deleted."""
    query = f"SELECT build_id, job_id FROM {BuildOutcomeRow.table} WHERE build_id = ANY (%(builds)s)"
    return dict(await fetch_rows(source, query, {"builds": list(build_ids)}))


async def fetch_names(source: Source, case_ids: Sequence[int]) -> dict[int, TestCaseRow]:
    query = f"SELECT * FROM {TestCaseRow.table} WHERE id = ANY (%(cases)s)"
    parameters: Mapping[str, Any] = {"cases": list(case_ids)}
    return {row.id: row for row in await fetch_all(source, TestCaseRow, query, parameters)}
