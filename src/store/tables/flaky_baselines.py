"""Flaky baselines: for each test, how many runs and how many flaky runs the flakiness watch had counted at the test's
last flaky run.

The runs since the baseline decide whether a test has newly turned flaky. Baselines are state of the flakiness watch
(`workers.flakiness`), not events.
"""

from collections.abc import Iterable, Sequence

from psycopg import AsyncConnection

from store.postgres.queries import fetch_rows


async def fetch(connection: AsyncConnection, case_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Returns test case id -> (runs, flaky runs). Leaves out test cases without a baseline."""
    query = "SELECT test_case_id, runs, flaky_runs FROM flaky_tests WHERE test_case_id = ANY (%s)"
    return {row[0]: (row[1], row[2]) for row in await fetch_rows(connection, query, (list(case_ids),))}


async def store(connection: AsyncConnection, counts: Iterable[tuple[int, int, int]]) -> None:
    """Stores baselines: (id of the test case, runs, flaky runs)."""
    cases = list(zip(*counts, strict=True))
    if cases:
        await connection.execute(
            "INSERT INTO flaky_tests SELECT * FROM unnest(%s::bigint[], %s::int[], %s::int[])"
            " ON CONFLICT (test_case_id) DO UPDATE SET runs = EXCLUDED.runs, flaky_runs = EXCLUDED.flaky_runs",
            tuple(map(list, cases)),
        )
