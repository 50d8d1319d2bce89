"""Decides when flakiness emerges in tests, and when it is settled. `workers.flakiness` records the decisions.

For each block of results, only tests are looked at that have a failure or a retry in the block, or flakiness that is
not settled yet. Of these tests, only the notable runs are read, whose number is limited. So the cost of a result does
not grow with the history of its test.
"""

from itertools import compress

from psycopg import AsyncConnection

from domain.flakiness import FlakinessEmerged, FlakinessSettled
from domain.results import FAILED, PASSED, ResultsRecorded
from domain.run_histories import RunHistory, follow, is_broken, mark_broken
from projections import emerging, test_health
from projections.test_health import CaseHistory


async def find_changes(
    connection: AsyncConnection, event: ResultsRecorded
) -> list[FlakinessEmerged | FlakinessSettled]:
    """Returns the events to record after the results of one block: that the flakiness of a test has emerged, or that it
    is settled. Some of these events may be recorded already.
    """
    columns = (event.case_ids, event.statuses, event.flaky)
    finals = list(zip(*(compress(column, event.finals) for column in columns), strict=True))
    failing = {case_id for case_id, status, flaky in finals if status == FAILED or flaky}
    open_cases = await emerging.find_open(connection, event.case_ids)
    changed = failing | open_cases.keys()
    histories = await test_health.fetch_histories(connection, list(changed)) if changed else []
    # The read model may not have the totals of the report yet.
    statuses = [status for _, status, _ in finals]
    broken = {event.build_id} if is_broken(statuses.count(PASSED), statuses.count(FAILED)) else set()
    found: list[FlakinessEmerged | FlakinessSettled] = []
    for case in histories:
        history = RunHistory(mark_broken(case.history.notable, broken), case.history.runs)
        found += decide(case, history, event, is_open=case.id in open_cases)
    return found


def decide(
    case: CaseHistory, history: RunHistory, event: ResultsRecorded, *, is_open: bool
) -> list[FlakinessEmerged | FlakinessSettled]:
    """Returns, in a list, the event that the flakiness of one test has just emerged or is settled. Returns an empty
    list if there is nothing to record. `is_open` says whether the flakiness of the test is recorded as emerged, and not
    as settled since.
    """
    drift = follow(history.without_unknown())
    state = drift.state
    if is_open and not state.is_emerging:
        return [
            FlakinessSettled(
                test_case_id=case.id,
                project_id=case.project_id,
                job_id=event.job_id,
                build_id=event.build_id,
                runs=history.runs,
                node_id=case.node_id,
                suite=case.suite,
            )
        ]
    if not is_open and state.is_emerging:
        return [
            FlakinessEmerged(
                test_case_id=case.id,
                project_id=case.project_id,
                job_id=event.job_id,
                build_id=drift.detected_build_id or event.build_id,
                first_build_id=drift.first_build_id or event.build_id,
                runs=history.runs,
                baseline_runs=state.runs,
                baseline_failing=state.failures,
                recent_runs=state.recent_runs,
                recent_failing=state.recent_failures,
                node_id=case.node_id,
                suite=case.suite,
            )
        ]
    return []
