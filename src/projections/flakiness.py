"""Queries for test cases that had flaky runs. They read the tables of the projection `results`."""

from collections.abc import Sequence

import msgspec

from projections.engine.queries import fetch_all
from projections.results_cases import CaseStatsRow, TestCaseRow
from store.postgres.queries import Source, fetch_rows


class FlakyCase(msgspec.Struct, frozen=True):
    test_case_id: int
    runs: int
    flaky_runs: int
    node_id: str
    suite: str


async def fetch_flaky_cases(source: Source, case_ids: Sequence[int]) -> list[FlakyCase]:
    """Returns the test cases in `case_ids` that have had a flaky run, ordered by id."""
    return await fetch_all(
        source,
        FlakyCase,
        f"SELECT s.case_id, s.runs, s.flaky_runs, c.node_id, c.suite FROM {CaseStatsRow.table} s"
        f" JOIN {TestCaseRow.table} c ON c.id = s.case_id WHERE s.case_id = ANY (%(cases)s) AND s.flaky_runs > 0"
        " ORDER BY s.case_id",
        {"cases": list(case_ids)},
    )


async def fetch_flaky_counts(source: Source) -> list[tuple[int, int, int]]:
    """Returns (case id, runs, flaky runs) for each test case with a flaky run."""
    query = f"SELECT case_id, runs, flaky_runs FROM {CaseStatsRow.table} WHERE flaky_runs > 0"
    return await fetch_rows(source, query)
