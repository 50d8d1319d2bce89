"""Queries for the durations of a job's tests, by which they are split."""

from collections.abc import Sequence
from typing import Literal

from domain.results import SKIPPED
from projections.builds import BuildRow
from projections.results import ReportRow
from projections.results_blocks import STATUS, BlockRow, select_each
from projections.results_cases import TestCaseRow
from store.postgres.queries import Source, fetch_rows

MAX_BUILDS = 20
"""Number of builds whose durations are used. It is enough for a median even if a test runs only in every fourth of
them.
"""
RUNS_OF_SHARDS = 5
"""For each shard, the durations of this many builds are used, so that every shard has run several times even if each
build runs only one shard. If this gives fewer than MAX_BUILDS builds, MAX_BUILDS are used.
"""
MAX_SEARCHED_BUILDS = 1_000
"""Number of a job's newest builds from which those with usable durations are chosen."""
MAX_RESULTS = 300_000
"""Number of results at which no further report is read for durations."""

NAMES = {"tests": "c.node_id", "files": "split_part(split_part(c.node_id, '::', 1), ' > ', 1)"}
"""Kind of name -> SQL expression for this name of a test case `c`: its node id, or its file, which is the beginning of
most node ids.
"""

_BLOCKS = f"reports r JOIN {BlockRow.table} b ON b.first_result_id >= r.low AND b.first_result_id < r.high"
"""SQL for the blocks `b` of the reports whose durations are used."""
_MEDIANS = (
    f"WITH builds AS (SELECT id, branch = %(branch)s::text AS first FROM"
    f"   (SELECT * FROM {BuildRow.table} WHERE job_id = %(job)s ORDER BY id DESC"
    f"   LIMIT {MAX_SEARCHED_BUILDS}) newest"
    "   WHERE NOT untrusted AND passed + failed > 0 ORDER BY first DESC, id DESC"
    "  LIMIT %(builds)s),"
    " reports AS MATERIALIZED (SELECT * FROM (SELECT r.first_result_id AS low, r.first_result_id + r.cases AS high,"
    "   sum(r.cases) OVER (ORDER BY b.first DESC, b.id DESC, r.first_result_id DESC) - r.cases AS before"
    f"  FROM builds b JOIN {ReportRow.table} r ON r.build_id = b.id WHERE NOT r.is_replaced) r"
    f"  WHERE before < {MAX_RESULTS}),"
    f" results AS {select_each('case_id', 'duration_ms', blocks=_BLOCKS)},"
    " medians AS MATERIALIZED (SELECT case_id,"
    "   percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms::float) AS duration_ms FROM results"
    f"  WHERE facts >= 0 AND facts & {STATUS} <> {SKIPPED} GROUP BY case_id)"
)
"""SQL for the median durations of a job's test cases. It uses final results, passed or failed, of the newest `builds`
builds on the branch. If the branch has fewer builds, it also uses builds on other branches.
"""


async def fetch_durations(
    source: Source, job_id: int, branch: str, kind: Literal["tests", "files"], names: Sequence[str]
) -> dict[str, float]:
    """Returns name -> duration in milliseconds, for the names with known durations: for a test the median, for a file
    the sum of the medians of its tests.
    """
    query = (
        f"{_MEDIANS} SELECT {NAMES[kind]} AS name, sum(m.duration_ms) FROM medians m"
        f" JOIN {TestCaseRow.table} c ON c.id = m.case_id"
        # PostgreSQL evaluates this condition with one hash table, however many rows the planner expects.
        f" WHERE ({NAMES[kind]} IN (SELECT unnest(%(names)s::text[]))) IS TRUE GROUP BY name"
    )
    parameters = {"job": job_id, "branch": branch, "names": list(names), "builds": MAX_BUILDS}
    return dict(await fetch_rows(source, query, parameters))


async def fetch_cases(source: Source, job_id: int, branch: str, shards: int) -> list[tuple[int, str, float]]:
    """Returns the id, node id and median duration in milliseconds of each test case with a known duration. Uses the
    durations of RUNS_OF_SHARDS builds for each shard, or of MAX_BUILDS builds if these are more.
    """
    query = (
        f"{_MEDIANS} SELECT c.id, c.node_id, m.duration_ms FROM medians m"
        f" JOIN {TestCaseRow.table} c ON c.id = m.case_id"
    )
    parameters = {"job": job_id, "branch": branch, "builds": max(MAX_BUILDS, RUNS_OF_SHARDS * shards)}
    return [(case_id, node_id, duration) for case_id, node_id, duration in await fetch_rows(source, query, parameters)]


async def fetch_node_ids(source: Source, case_ids: Sequence[int]) -> dict[int, str]:
    """Returns test case id -> node id, for the test cases that exist."""
    query = f"SELECT id, node_id FROM {TestCaseRow.table} WHERE id = ANY(%(ids)s)"
    return dict(await fetch_rows(source, query, {"ids": list(case_ids)}))
