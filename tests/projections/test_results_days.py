"""Numbers of runs since a day, and the tests of lists that never failed, as queries find them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from psycopg import AsyncConnection

from domain.core.columns import Int32s
from domain.core.events import Event, Recorded
from domain.results import FAILED, PASSED, SKIPPED, ResultsRecorded
from projections import results, test_cases, test_health
from projections.engine.engine import Engine
from projections.engine.schemas import connect
from projections.results_days import CHUNK, day_of
from testhide.processes import Core
from tests.projections.test_results import NOW, block, replaced
from tests.projections.test_results_runs import report
from tests.support.read_models import begin_read_models

TODAY = day_of(NOW)
FIRST = CHUNK - 1
"""The first of two test cases, which are counted in two rows."""


@pytest.fixture
async def connection(parts: Core) -> AsyncIterator[AsyncConnection]:
    async with await connect(parts.conninfo) as connection:
        await begin_read_models(connection)
        yield connection


async def happens(connection: AsyncConnection, *events: Event) -> None:
    events_of_log = [Recorded(event.stream, number, number, event) for number, event in enumerate(events, start=1)]
    await Engine(connection, [results.PROJECTION], announce=False).apply(events_of_log, 0)


def ran(build_id: int, *statuses: int, days_ago: int = 0, **columns: Any) -> ResultsRecorded:
    ids = Int32s(range(FIRST, FIRST + len(statuses)))
    return block(build_id, *statuses, case_ids=ids, at=NOW - timedelta(days=days_ago), **columns)


async def test_runs_since_a_day(connection: AsyncConnection) -> None:
    other = ran(4, PASSED, days_ago=2, durations_ms=Int32s([90]))
    await happens(
        connection,
        ran(1, PASSED, PASSED, days_ago=3),
        msgspec.structs.replace(other, job_id=6),
        ran(2, PASSED, SKIPPED, days_ago=1),
        ran(3, PASSED, PASSED, durations_ms=Int32s([7, 8])),
    )
    both = (FIRST, FIRST + 1)
    for days, expected, of_job in ((3, (4, 2), (3, 2)), (2, (3, 1), (2, 1)), (1, (2, 1), (2, 1)), (0, (1, 1), (1, 1))):
        counts = await test_health.count_runs(connection, both, TODAY - days)
        assert tuple(counts[case_id] for case_id in both) == expected
        found = await test_cases.fetch_runs(connection, [5], TODAY - days)
        assert [found.find(case_id) for case_id in both] == [(of_job[0], 7), (of_job[1], 8)]
    assert await test_health.count_runs(connection, both, TODAY + 1) == dict.fromkeys(both, 0)
    assert (await test_cases.fetch_runs(connection, [5, 6], TODAY - 2)).find(FIRST) == (3, 90)
    assert (await test_cases.fetch_runs(connection, [5, 6], TODAY)).find(FIRST) == (1, 7)
    assert (await test_cases.fetch_runs(connection, [6], TODAY)).find(FIRST) == (0, None)


@pytest.mark.parametrize("is_broken", [False, True])
async def test_tests_that_have_failed(connection: AsyncConnection, is_broken: bool) -> None:
    """One failed before and one after a build that may be broken, one in that build only; the failure of one was
    withdrawn, and one passed.
    """
    withdrawn = ran(4, PASSED, PASSED, PASSED, FAILED, PASSED)
    await happens(
        connection,
        ran(1, FAILED, PASSED, PASSED, PASSED, PASSED),
        ran(2, FAILED, FAILED, FAILED, PASSED, PASSED),
        report(2, 0, 5 if is_broken else 4),
        ran(3, PASSED, FAILED, PASSED, PASSED, PASSED),
        withdrawn,
        replaced(withdrawn),
    )
    failed = {FIRST, FIRST + 1} if is_broken else {FIRST, FIRST + 1, FIRST + 2}
    for most in (0, 2_000):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(test_cases, "MAX_SINGLE", most)
            assert await test_cases.find_failed_of_project(connection, 1) == failed
    assert await test_cases.find_failed(connection, range(FIRST, FIRST + 5)) == failed
