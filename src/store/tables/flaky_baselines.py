"""Flaky baselines: how often each flaky test had been flaky when the flakiness watch last looked at it.

State of that worker, not events. A test counts as newly flaky by the runs since its baseline.
"""

from collections.abc import Iterable, Sequence

from psycopg import AsyncConnection

from store.postgres.queries import fetch_rows


async def fetch(connection: AsyncConnection, case_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Returns (runs, flaky runs) by test case; without those that have no baseline."""
    query = "SELECT test_case_id, runs, flaky_runs FROM flaky_tests WHERE test_case_id = ANY (%s)"
    return {row[0]: (row[1], row[2]) for row in await fetch_rows(connection, query, (list(case_ids),))}


async def store(connection: AsyncConnection, counts: Iterable[tuple[int, int, int]]) -> None:
    """Stores baselines: (test case, runs, flaky runs)."""
    cases = list(zip(*counts, strict=True))
    if cases:
        await connection.execute(
            "INSERT INTO flaky_tests SELECT * FROM unnest(%s::bigint[], %s::int[], %s::int[])"
            " ON CONFLICT (test_case_id) DO UPDATE SET runs = EXCLUDED.runs, flaky_runs = EXCLUDED.flaky_runs",
            tuple(map(list, cases)),
        )
