"""Notable runs, counts of runs by day and outcomes of builds, as rows of `results`."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import msgspec
from hypothesis import strategies as st

from domain.builds import BuildDeleted, BuildRequeued, ReportRecorded
from domain.case_activity import NO_DURATION
from domain.core.columns import Int32s
from domain.core.events import Event
from domain.jobs import JobDeleted
from domain.results import FAILED as FAILED_RESULT
from domain.results import FLIPPED, PASSED, SKIPPED, Replaced, commit_number
from domain.run_histories import KEPT_RUNS, NotableRun, RunHistory
from domain.test_health import FAILED, OUTAGE, RETRIED, SAME_COMMIT
from projections.results import PROJECTION
from projections.results_cases import CaseStatsRow
from projections.results_days import CHUNK, CaseDayRow, CaseRunsRow, RunTotals, day_of
from projections.results_passes import find_stretches
from projections.results_runs import BuildOutcomeRow, NotableRunRow, SuspectRow, build_of, minute_of, run_id
from tests.projections.test_results import NOW, block, replaced
from tests.support.memory_rows import MemoryRows
from tests.support.spec import given

COMMITS = {"": 0, "a": commit_number("aaa"), "b": commit_number("bbb")}
Outcome = tuple[int, bool]
"""Status of a result, and whether it passed on a retry."""
OUTCOMES: list[Outcome] = [
    (PASSED, False),
    (PASSED, False),
    (PASSED, True),
    (FAILED_RESULT, False),
    (SKIPPED, False),
]


@dataclass
class Run:
    build_id: int
    commit: int
    results: list[Outcome] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        return any(status == FAILED_RESULT for status, _ in self.results)

    def flags(self, before: "Run | None") -> int:
        flags = FAILED if self.has_failed else RETRIED if any(retried for _, retried in self.results) else 0
        if before is not None and self.commit != 0 and self.commit == before.commit:
            flags |= SAME_COMMIT
        return flags if flags & (FAILED | RETRIED) or (flags and before is not None and before.has_failed) else 0


class Batch:
    """Recomputes from a list of results what the read model has counted one by one."""

    def __init__(self) -> None:
        self.runs: dict[int, list[Run]] = {}
        self.days: dict[tuple[int, int], int] = {}

    def add(self, day: int, case_id: int, build_id: int, commit: int, outcome: Outcome) -> None:
        if outcome[0] == SKIPPED:
            return
        runs = self.runs.setdefault(case_id, [])
        if not runs or runs[-1].build_id != build_id:
            runs.append(Run(build_id, commit))
            self.days[day, case_id] = self.days.get((day, case_id), 0) + 1
        runs[-1].results.append(outcome)

    def withdraw(self, day: int, case_id: int, outcome: Outcome) -> None:
        if outcome[0] == SKIPPED:
            return
        runs = self.runs[case_id]
        runs[-1].results.remove(outcome)
        if not runs[-1].results:
            runs.pop()
            self.days[day, case_id] = self.days.get((day, case_id), 0) - 1

    def flags(self, case_id: int) -> list[int]:
        runs = self.runs.get(case_id, [])
        return [run.flags(before) for run, before in zip(runs, [None, *runs], strict=False)]


def history_of(rows: MemoryRows, case_id: int) -> RunHistory:
    runs = {row.case_id: row.runs for row in rows.all(CaseStatsRow)}
    notable = [
        NotableRun(row.number, build_of(row.id), row.minute, row.flags)
        for row in rows.all(NotableRunRow)
        if row.id >> 32 == case_id
    ]
    notable.sort(key=lambda run: run.number)
    return RunHistory(notable, runs.get(case_id, 0))


def runs_by_day(rows: MemoryRows) -> dict[tuple[int, int], int]:
    """Returns (day, test case) -> number of runs, of test cases of one job."""
    found: dict[tuple[int, int], int] = {}
    for whole in rows.all(CaseRunsRow):
        after = Int32s.of(whole.runs)
        days = [row for row in rows.all(CaseDayRow) if row.chunk == whole.chunk]
        assert max(row.day for row in days) == whole.day
        for row in sorted(days, key=lambda row: row.day, reverse=True):
            before = Int32s.of(row.runs_before)
            for index, (number, earlier) in enumerate(zip(after, before, strict=True)):
                if number != earlier:
                    found[row.day, row.chunk * CHUNK + index] = number - earlier
            after = before
        assert not any(after)
    return found


def recorded_at(event: Event) -> int:
    return day_of(event.at)


reports = st.lists(
    st.tuples(
        st.integers(1, 5),  # build
        st.sampled_from(sorted(COMMITS)),
        st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=3),
        st.booleans(),  # whether it is withdrawn later, while its build is the last one
        st.integers(0, 2),  # days after the report before
    ),
    max_size=10,
)


@hypothesis.given(reports)
def test_runs_are_counted_like_in_one_go(found: list[tuple[int, str, list[Outcome], bool, int]]) -> None:
    """Builds report one after the other, each with several reports, some of which are replaced."""
    batch, at = Batch(), NOW
    events: list[Event] = []
    in_order = sorted(found, key=lambda report: report[0])
    commits = {build_id: COMMITS[commit] for build_id, commit, *_ in in_order}
    for build_id in commits:
        later: list[list[Outcome]] = []
        for number, (_, _, outcomes, is_withdrawn, days) in enumerate(
            report for report in in_order if report[0] == build_id
        ):
            at += timedelta(days=days)
            event = block(
                build_id,
                *(status for status, _ in outcomes),
                at=at,
                flaky=bytes(retried for _, retried in outcomes),
                commit=commits[build_id],
                first_result_id=build_id * 100 + number * 10,
            )
            events.append(event)
            for case_id, outcome in enumerate(outcomes, start=1):
                batch.add(day_of(at), case_id, build_id, commits[build_id], outcome)
            if is_withdrawn:
                later.append(outcomes)
        for outcomes in later:
            at += timedelta(days=len(outcomes) % 2)
            kept = [outcome for outcome in outcomes if outcome[0] != SKIPPED]
            cases = [case for case, outcome in enumerate(outcomes, start=1) if outcome[0] != SKIPPED]
            events.append(
                msgspec.structs.replace(
                    replaced(
                        block(
                            build_id,
                            *(status for status, _ in kept),
                            case_ids=Int32s(cases),
                            flaky=bytes(retried for _, retried in kept),
                        )
                    ),
                    at=at,
                )
            )
            for case_id, outcome in zip(cases, kept, strict=True):
                batch.withdraw(recorded_at(events[-1]), case_id, outcome)
    rows = given(*events).when(PROJECTION)
    for case_id in (1, 2, 3):
        history = history_of(rows, case_id)
        assert [*history.to_bytes()] == batch.flags(case_id)
        assert {run.build_id for run in history.notable} == {
            run.build_id for run, flags in zip(batch.runs.get(case_id, []), batch.flags(case_id), strict=True) if flags
        }
    assert runs_by_day(rows) == {key: runs for key, runs in batch.days.items() if runs}


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([PASSED, PASSED, FAILED_RESULT, SKIPPED])), max_size=12)
)
def test_failures_are_found_whatever_the_order_of_builds(results: list[tuple[int, int]]) -> None:
    events = [
        block(build_id, status, first_result_id=1_000 + number) for number, (build_id, status) in enumerate(results)
    ]
    rows = given(*events).when(PROJECTION)
    history = history_of(rows, 1)
    failed = {build_id for build_id, status in results if status == FAILED_RESULT}
    assert {run.build_id for run in history.notable} == failed
    assert {row.case_id for row in rows.all(SuspectRow)} == ({1} if failed else set())
    assert sum(runs_by_day(rows).values()) == history.runs
    assert all(1 <= run.number <= history.runs for run in history.notable)


chunks = st.lists(st.integers(-3, 3), min_size=CHUNK, max_size=CHUNK)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 1), chunks, chunks), max_size=4))
def test_runs_of_a_chunk_are_added_up(rows: list[tuple[int, list[int], list[int]]]) -> None:
    """Also negative ones: a report that was replaced may be of another day than its replacement."""
    totals = RunTotals()
    totals.add((chunk, Int32s(runs).stored, Int32s(before).stored) for chunk, runs, before in rows)
    expected: dict[int, list[int]] = {}
    for chunk, runs, before in rows:
        columns = zip(expected.get(chunk, [0] * CHUNK), runs, before, strict=True)
        expected[chunk] = [total + number - earlier for total, number, earlier in columns]
    assert {chunk: list(numbers) for chunk, numbers in totals.of_chunks().items()} == expected


@hypothesis.given(st.lists(st.one_of(st.integers(0, 2), st.integers(0, 2**31 - 1)), max_size=9))
def test_stretches_have_consecutive_ids(steps: list[int]) -> None:
    ids = Int32s(step if step > 2 else row + step for row, step in enumerate(steps))
    starts = [row for row in range(len(ids)) if row == 0 or ids[row] != ids[row - 1] + 1]
    assert find_stretches(ids) == list(zip(starts, [*starts[1:], len(ids)], strict=False))


def test_a_test_that_always_passes_has_only_counts() -> None:
    rows = given(*(block(build, PASSED, PASSED, at=NOW) for build in range(1, 4))).when(PROJECTION)
    assert rows.all(NotableRunRow) == []
    assert rows.all(SuspectRow) == []
    assert runs_by_day(rows) == {(day_of(NOW), 1): 3, (day_of(NOW), 2): 3}


def test_durations_are_those_of_the_newest_results() -> None:
    def durations(*events: Event) -> dict[int, int]:
        rows = given(*events).when(PROJECTION)
        return {
            row.chunk * CHUNK + index: duration
            for row in rows.all(CaseRunsRow)
            for index, duration in enumerate(Int32s.of(row.durations_ms))
            if duration != NO_DURATION
        }

    ids = [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 7]
    first = block(1, *[PASSED] * 5, case_ids=Int32s(ids), durations_ms=Int32s([1, 2, 3, 4, 5]))
    assert durations(first) == dict(zip(ids, [1, 2, 3, 4, 5], strict=True))
    second = block(
        2,
        *(FAILED_RESULT, PASSED, SKIPPED),
        case_ids=Int32s([CHUNK, CHUNK, CHUNK + 1]),
        durations_ms=Int32s([60, 70, 0]),
        attempts=b"\1\2\1",
        finals=b"\0\1\1",
        flaky=b"\0\1\0",
    )
    assert durations(first, second) == {CHUNK - 1: 1, CHUNK: 70, 3 * CHUNK: 4, 7: 5}


def test_a_failure_is_a_notable_run() -> None:
    rows = given(block(1, PASSED, at=NOW), block(2, FAILED_RESULT, at=NOW)).when(PROJECTION)
    assert rows.one(NotableRunRow) == NotableRunRow(run_id(1, 2), 1, number=2, minute=minute_of(NOW), flags=FAILED)
    assert rows.one(SuspectRow) == SuspectRow(1, 1, minute_of(NOW), 2, 1, 2)


def test_a_pass_on_the_commit_of_a_failure_is_notable() -> None:
    commit = commit_number("abc")
    rows = given(*(block(build, build % 2, commit=commit) for build in range(1, 4))).when(PROJECTION)
    assert [row.flags for row in rows.all(NotableRunRow)] == [FAILED, SAME_COMMIT, FAILED | SAME_COMMIT]


def test_a_pass_is_not_failing_because_another_build_of_its_commit_failed() -> None:
    rows = given(block(1, PASSED), block(2, PASSED, flips=bytes([FLIPPED]))).when(PROJECTION)
    assert rows.all(NotableRunRow) == []
    assert rows.all(SuspectRow) == []


def flags_of(*events: Event) -> list[int]:
    return [row.flags for row in given(*events).when(PROJECTION).all(NotableRunRow)]


def test_a_run_is_an_outage_if_nothing_else_failed() -> None:
    outage = block(7, FAILED_RESULT, outages=b"\1")
    assert flags_of(outage) == [FAILED | OUTAGE]
    assert flags_of(outage, block(7, PASSED, first_result_id=710)) == [FAILED | OUTAGE]
    other = block(7, FAILED_RESULT, first_result_id=710)
    assert flags_of(outage, other) == flags_of(other, outage) == [FAILED]
    assert flags_of(outage, other, replaced(other)) == [FAILED | OUTAGE]
    assert flags_of(outage, other, replaced(outage)) == [FAILED]
    assert flags_of(block(7, PASSED, flaky=b"\1", outages=b"\1")) == [RETRIED | OUTAGE]


def test_an_outage_is_no_flip() -> None:
    commit = commit_number("abc")
    outage = block(2, FAILED_RESULT, commit=commit, outages=b"\1")
    before, after = block(1, PASSED, commit=commit), block(3, PASSED, commit=commit)
    rows = given(before, outage, after).when(PROJECTION)
    assert [row.flags for row in rows.all(NotableRunRow)] == [FAILED | OUTAGE | SAME_COMMIT]
    stats = rows.one(CaseStatsRow)
    assert (stats.runs, stats.failures, stats.flips, stats.flaky_runs, stats.outages) == (3, 1, 0, 0, 0)
    flipped = given(before, block(2, FAILED_RESULT, commit=commit), after).when(PROJECTION).one(CaseStatsRow)
    assert (flipped.flips, flipped.flaky_runs) == (2, 2)


def test_results_of_a_lost_attempt_leave_no_run() -> None:
    lost, again = block(7, FAILED_RESULT), block(7, PASSED, first_result_id=750)
    rows = given(block(1, PASSED), lost, replaced(lost), again).when(PROJECTION)
    assert rows.all(NotableRunRow) == []
    assert history_of(rows, 1).runs == 2
    rows = given(block(1, PASSED), lost, block(8, PASSED), replaced(lost)).when(PROJECTION)
    assert rows.all(NotableRunRow) == [], "also after a later build"


def test_old_runs_are_dropped() -> None:
    """At least KEPT_RUNS failures are kept, and at most twice as many."""
    events = [block(build, FAILED_RESULT) for build in range(1, 5 * KEPT_RUNS)]
    memory = MemoryRows(PROJECTION)
    for number, event in enumerate(events, start=1):
        memory.apply(event)
        if number % 50 == 0:
            kept = [build_of(row.id) for row in memory.all(NotableRunRow)]
            assert kept == list(range(kept[0], number + 1))
            assert min(number, KEPT_RUNS) <= len(kept) <= 2 * KEPT_RUNS


def test_deletions_keep_the_statistics() -> None:
    events: list[Event] = [block(1, FAILED_RESULT), block(2, PASSED)]
    before = given(*events).when(PROJECTION)
    events += [
        BuildDeleted(build_id=1, job_id=5, project_id=1, results=[(100, 1)], reason="retention"),
        JobDeleted(job_id=5, project_id=1),
    ]
    after = given(*events).when(PROJECTION)
    for row in (NotableRunRow, SuspectRow, CaseRunsRow, CaseDayRow, CaseStatsRow):
        assert after.all(row) == before.all(row)


def report(build_id: int, passed: int, failed: int, **fields: Any) -> ReportRecorded:
    ids: dict[str, Any] = {"build_id": build_id, "job_id": 5, "project_id": 1, "at": datetime(2026, 5, 20, tzinfo=UTC)}
    counts: dict[str, Any] = {"skipped": 0, "known_issues": 0, "duration_ms": 1, "blocks": 0, "attempt": 1}
    return ReportRecorded(
        first_result_id=build_id * 100, cases=passed + failed, passed=passed, failed=failed, **ids, **counts, **fields
    )


def test_a_build_with_withdrawn_results_is_corrected() -> None:
    failed = block(1, FAILED_RESULT)
    rows = given(failed, report(1, 0, 1), replaced(failed)).when(PROJECTION)
    assert rows.one(BuildOutcomeRow) == BuildOutcomeRow(1, 5, 1, 0, 1, is_corrected=True)
    rows = given(failed, block(1, PASSED, replaced=[Replaced(0, 100, FAILED_RESULT)]), report(1, 1, 0)).when(PROJECTION)
    assert rows.one(BuildOutcomeRow) == BuildOutcomeRow(1, 5, 1, 1, 0, is_corrected=True)


def test_reports_add_up_to_the_outcome_of_a_build() -> None:
    reports = report(1, 3, 1, line=77), report(1, 0, 4), report(1, 2, -2, replaces=100)
    rows = given(*reports).when(PROJECTION)
    assert rows.one(BuildOutcomeRow) == BuildOutcomeRow(1, 5, 1, 5, 3, line=77)
    lost = BuildRequeued(build_id=1, job_id=5, project_id=1, node_id=1, attempt=1, reason="agent_lost")
    after = given(report(1, 0, 9, line=77), lost, report(1, 9, 0)).when(PROJECTION)
    assert after.one(BuildOutcomeRow) == BuildOutcomeRow(1, 5, 1, 9, 0, line=77)
