"""Queries for lists of test cases: how often the tests of a project or job ran and failed, and how long they take. They
read the tables of the projection `results`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from domain.case_activity import CaseRuns
from domain.core.columns import Int32s
from domain.test_health import FAILED, RETRIED
from projections.engine.binary_copy import unpack_array
from projections.engine.queries import fetch_all, fetch_column
from projections.results_cases import TestCaseRow
from projections.results_days import CHUNK, SINCE_DAY, RunTotals
from projections.results_runs import IS_BROKEN, IS_DOUBTFUL, BuildOutcomeRow, NotableRunRow, SuspectRow, build_of
from store.postgres.queries import Source, fetch_rows

JOBS_AT_ONCE = 20
"""Number of jobs whose runs one query reads. It limits the rows that are in memory at once."""
MAX_SINGLE = 2_000
"""Number of test cases up to which reading the runs of each one is faster than reading all runs of the project."""


async def fetch_runs(source: Source, job_ids: Sequence[int], since_day: int) -> CaseRuns:
    """Returns the test cases that ran in these jobs since a day, which is included."""
    query = f"SELECT t.chunk, t.runs, d.runs_before, t.durations_ms {SINCE_DAY} AND t.job_id = ANY (%(jobs)s::int[])"
    totals = RunTotals()
    durations: dict[int, bytes] = {}

    def add(rows: Sequence[tuple[Any, ...]]) -> None:
        totals.add((chunk, runs, before) for chunk, runs, before, _ in rows)
        for chunk, *_, newest in rows:
            known = durations.get(chunk)
            if known is not None:  # of another job
                newest = Int32s(map(max, Int32s.of(known), Int32s.of(newest))).stored
            durations[chunk] = newest

    def join() -> CaseRuns:
        chunks = sorted(totals.of_chunks().items())
        stored = b"".join(numbers.stored for _, numbers in chunks)
        runs = Int32s.of(stored)
        if not stored[3::4].isascii():  # some are negative
            runs = Int32s(max(0, number) for number in runs)
        lasted = Int32s.of(b"".join(durations[chunk] for chunk, _ in chunks))
        return CaseRuns([chunk * CHUNK for chunk, _ in chunks], CHUNK, runs, lasted)

    for start in range(0, len(job_ids), JOBS_AT_ONCE):
        parameters = {"jobs": list(job_ids[start : start + JOBS_AT_ONCE]), "day": since_day}
        await asyncio.to_thread(add, await fetch_rows(source, query, parameters))
    return await asyncio.to_thread(join)


async def find_failed_of_project(source: Source, project_id: int) -> set[int]:
    """Returns the test cases of a project that have ever failed or passed only on a retry, except in broken builds."""
    query = f"SELECT build_id FROM {BuildOutcomeRow.table} WHERE project_id = %(project)s AND {IS_DOUBTFUL}"
    doubtful = await fetch_column(source, query, {"project": project_id})
    query = (
        "SELECT array_send(array_agg(case_id::int) FILTER (WHERE mark <> ALL (%(doubtful)s::bigint[]))),"
        " array_agg(case_id) FILTER (WHERE mark = ANY (%(doubtful)s::bigint[]))"
        f" FROM {SuspectRow.table} WHERE project_id = %(project)s"
    )
    ((sent, others),) = await fetch_rows(source, query, {"project": project_id, "doubtful": doubtful})
    failed = set() if sent is None else set(unpack_array(sent, "i"))
    if others is None or len(others) <= MAX_SINGLE:
        return failed | await find_failed(source, others or [])
    query = (
        "SELECT array_send(array_agg(case_id)) FROM (SELECT DISTINCT (id >> 32)::int AS case_id"
        f"  FROM {NotableRunRow.table} WHERE project_id = %(project)s AND flags & %(failing)s <> 0"
        "   AND id & %(builds)s NOT IN"
        f"    (SELECT build_id FROM {BuildOutcomeRow.table} WHERE project_id = %(project)s AND {IS_BROKEN})) found"
    )
    ((sent,),) = await fetch_rows(source, query, {"project": project_id, **_CONSTANTS})
    return set() if sent is None else set(unpack_array(sent, "i"))


async def find_failed(source: Source, case_ids: Sequence[int]) -> set[int]:
    """Returns the test cases, among `case_ids`, that have ever failed or passed only on a retry, except in broken
    builds.
    """
    query = (
        f"SELECT s.case_id FROM {SuspectRow.table} s WHERE s.case_id = ANY (%(cases)s)"
        f" AND EXISTS (SELECT FROM {NotableRunRow.table} n"
        f"  LEFT JOIN {BuildOutcomeRow.table} o ON o.build_id = n.id & %(builds)s"
        "  WHERE n.id >= (s.case_id << 32) AND n.id < ((s.case_id + 1) << 32)"
        f"  AND n.flags & %(failing)s <> 0 AND ({IS_BROKEN}) IS NOT TRUE)"
    )
    return set(await fetch_column(source, query, {"cases": list(case_ids), **_CONSTANTS}))


_CONSTANTS: Mapping[str, Any] = {"builds": build_of(-1), "failing": FAILED | RETRIED}


async def find_by_name(source: Source, project_id: int, search: str) -> set[int]:
    """Returns the test cases of a project whose node ids contain a text, ignoring case."""
    # PostgreSQL changes the case of ASCII letters much faster if it may ignore all others.
    collation = ' COLLATE "C"' if search.isascii() else ""
    query = (
        f"SELECT array_send(array_agg(id::int)) FROM {TestCaseRow.table} WHERE project_id = %(project)s"
        f" AND strpos(lower(node_id{collation}), lower(%(search)s::text{collation})) > 0"
    )
    ((sent,),) = await fetch_rows(source, query, {"project": project_id, "search": search})
    return set() if sent is None else set(unpack_array(sent, "i"))


async def find_builds_of_job(source: Source, build_ids: Iterable[int], job_id: int) -> set[int]:
    """Returns the builds, among `build_ids`, that belong to a job. Includes deleted builds."""
    query = f"SELECT build_id FROM {BuildOutcomeRow.table} WHERE build_id = ANY (%(builds)s) AND job_id = %(job)s"
    return set(await fetch_column(source, query, {"builds": list(build_ids), "job": job_id}))


async def fetch_names(source: Source, case_ids: Sequence[int]) -> dict[int, TestCaseRow]:
    query = f"SELECT * FROM {TestCaseRow.table} WHERE id = ANY (%(cases)s)"
    parameters: Mapping[str, Any] = {"cases": list(case_ids)}
    return {row.id: row for row in await fetch_all(source, TestCaseRow, query, parameters)}
