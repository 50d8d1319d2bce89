"""Tests that have had flaky runs, out of what the results' projection keeps of each test."""

from collections.abc import Sequence

import msgspec
from psycopg import AsyncConnection

from projections.engine.queries import all_rows
from projections.test_cases import CaseStatsRow, TestCaseRow


class FlakyCase(msgspec.Struct, frozen=True):
    test_case_id: int
    runs: int
    flaky_runs: int
    node_id: str
    suite: str


async def with_flaky_runs(connection: AsyncConnection, case_ids: Sequence[int]) -> list[FlakyCase]:
    """Those of the test cases that ever had one."""
    return await all_rows(
        connection,
        FlakyCase,
        f"SELECT s.case_id, s.runs, s.flaky_runs, c.node_id, c.suite FROM {CaseStatsRow.table} s"
        f" JOIN {TestCaseRow.table} c ON c.id = s.case_id WHERE s.case_id = ANY (%(cases)s) AND s.flaky_runs > 0"
        " ORDER BY s.case_id",
        {"cases": list(case_ids)},
    )


async def all_counts(connection: AsyncConnection) -> list[tuple[int, int, int]]:
    """Of every test that ever had a flaky run: its id, runs, flaky runs."""
    query = f"SELECT case_id, runs, flaky_runs FROM {CaseStatsRow.table} WHERE flaky_runs > 0"
    return await (await connection.execute(query.encode())).fetchall()
