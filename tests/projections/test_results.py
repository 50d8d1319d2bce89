"""Results, reports and test cases as rows."""

from datetime import UTC, datetime
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from domain.builds import ReportRecorded
from domain.core.columns import Int16s, Int32s
from domain.core.events import Event
from domain.jobs import JobDeleted
from domain.results import (
    DIFFERED,
    FAILED,
    FLIPPED,
    PASSED,
    SKIPPED,
    CasesSeen,
    Replaced,
    ResultsRecorded,
    ResultsReplaced,
    ResultText,
    commit_number,
)
from projections.results import PROJECTION, OutputsRow, ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import ATTEMPT, FLAKY, KNOWN_ISSUE, BlockRow
from projections.results_cases import CaseStatsRow, CatalogueRow, TestCaseRow, add_result
from tests.support.spec import given

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def block(build_id: int, *statuses: int, **columns: Any) -> ResultsRecorded:
    """Results of cases 1, 2, ... of this build, all of them final unless said otherwise."""
    count = len(statuses)
    given_columns: dict[str, Any] = {
        "first_result_id": build_id * 100,
        "case_ids": Int32s(range(1, count + 1)),
        "suites": Int16s([0] * count),
        "durations_ms": Int32s([10] * count),
        "attempts": b"\1" * count,
        "finals": b"\1" * count,
        "known_issues": bytes(count),
        "flaky": bytes(count),
    }
    ids: dict[str, Any] = {"build_id": build_id, "job_id": 5, "project_id": 1}
    return ResultsRecorded(statuses=bytes(statuses), **(ids | given_columns | columns))


def replaced(event: ResultsRecorded) -> ResultsReplaced:
    return ResultsReplaced(
        build_id=event.build_id,
        job_id=event.job_id,
        project_id=event.project_id,
        case_ids=event.case_ids,
        statuses=event.statuses,
        flaky=event.flaky,
        outages=event.outages,
    )


def stats(*events: Event) -> CaseStatsRow:
    return given(*events).when(PROJECTION).one(CaseStatsRow)


def test_cases_are_numbered_in_their_order() -> None:
    first = CasesSeen(project_id=1, first_case_id=10, node_ids=["a", "b"], suites=["s", ""])
    second = CasesSeen(project_id=1, first_case_id=30, node_ids=["c"], suites=["s"])
    rows = given(first, second).when(PROJECTION)
    assert rows.all(TestCaseRow) == [
        TestCaseRow(10, 1, "a", "s"),
        TestCaseRow(11, 1, "b", ""),
        TestCaseRow(30, 1, "c", "s"),
    ]
    assert rows.one(CatalogueRow) == CatalogueRow(1, version=2, cases=3)


def test_results_are_columns() -> None:
    event = block(
        7,
        FAILED,
        FAILED,
        PASSED,
        case_ids=Int32s([1, 2, 1]),
        attempts=b"\1\1\2",
        finals=b"\0\1\1",
        known_issues=b"\0\1\0",
        flaky=b"\0\0\1",
        suites=Int16s([3, 4, 3]),
    )
    row = given(event).when(PROJECTION).one(BlockRow)
    assert (row.first_result_id, row.results, row.job_id) == (700, 3, 5)
    assert [*map(list, (row.cases, row.suites or (), row.durations_ms))] == [[1, 2, 1], [3, 4, 3], [10, 10, 10]]
    earlier, known, flaky = row.facts
    assert earlier == ~(FAILED | ATTEMPT)
    assert known == FAILED | KNOWN_ISSUE | ATTEMPT
    assert flaky == PASSED | FLAKY | 2 * ATTEMPT


def test_consecutive_tests_of_one_suite_are_not_listed() -> None:
    row = given(block(7, PASSED, PASSED, case_ids=Int32s([4, 5]), suites=Int16s([3, 3]))).when(PROJECTION).one(BlockRow)
    assert (row.first_case_id, row.case_ids, row.suite, row.suites) == (4, None, 3, None)
    assert list(row.cases) == [4, 5]


def test_facts_fit_their_column() -> None:
    event = block(7, SKIPPED, SKIPPED, attempts=b"\xff\xff", finals=b"\1\0", known_issues=b"\1\1", flaky=b"\1\1")
    assert all(-(2**15) <= facts < 2**15 for facts in given(event).when(PROJECTION).one(BlockRow).facts)


@pytest.mark.parametrize("column", ["durations_ms", "suites", "attempts", "finals", "flaky"])
def test_columns_have_one_length(column: str) -> None:
    event = block(7, PASSED, PASSED)
    short = msgspec.structs.replace(event, **{column: getattr(event, column)[:1]})
    with pytest.raises(ValueError, match=r"length|shorter"):
        given(short).when(PROJECTION)


def test_texts_lie_apart() -> None:
    texts = [ResultText(0, "boom", "trace", system_out="out"), ResultText(2, system_err="err")]
    rows = given(block(7, FAILED, PASSED, PASSED, texts=texts)).when(PROJECTION)
    text = rows.one(ResultTextRow)
    assert (text.id, text.message, text.trace) == (700, "boom", "trace")
    assert rows.one(OutputsRow) == OutputsRow(700, 5, {"0": ("out", ""), "2": ("", "err")})


def test_a_report_says_where_its_results_are() -> None:
    event = ReportRecorded(
        at=NOW,
        build_id=7,
        job_id=5,
        project_id=1,
        attempt=1,
        path="r.xml",
        first_result_id=700,
        cases=3,
        passed=1,
        failed=1,
        skipped=0,
        known_issues=0,
        duration_ms=20,
        blocks=1,
        suites=["s"],
        warnings=["w"],
    )
    row = given(event).when(PROJECTION).one(ReportRow)
    assert row == ReportRow(700, 7, 5, 1, 1, "r.xml", 3, ["s"], ["w"], NOW)


def test_runs_flips_and_failures() -> None:
    events = [block(build, status) for build, status in enumerate([PASSED, FAILED, SKIPPED, FAILED, PASSED], start=1)]
    row = stats(*events)
    assert (row.runs, row.failures, row.flips, row.flaky_runs) == (4, 2, 2, 0)
    assert (row.outcome, row.last_build_id) == (PASSED, 5)


def test_passing_again_and_again_is_not_flaky() -> None:
    row = stats(*(block(build, PASSED, commit=commit_number("abc")) for build in range(1, 6)))
    assert (row.runs, row.flips, row.flaky_runs) == (5, 0, 0)


def test_a_flip_on_the_same_commit_is_flaky() -> None:
    same = [block(1, PASSED, commit=commit_number("abc123")), block(2, FAILED, commit=commit_number("abc123"))]
    assert (stats(*same).flips, stats(*same).flaky_runs) == (1, 1)
    other = [block(1, PASSED, commit=commit_number("abc123")), block(2, FAILED, commit=commit_number("def456"))]
    assert (stats(*other).flips, stats(*other).flaky_runs) == (1, 0)
    unknown = [block(1, PASSED), block(2, FAILED)]
    assert (stats(*unknown).flips, stats(*unknown).flaky_runs) == (1, 0)


def test_what_two_jobs_make_of_a_test_is_no_flip() -> None:
    """It may pass on Linux and fail on Windows, every time."""
    commit = commit_number("abc")
    linux, windows = {"job_id": 5, "commit": commit}, {"job_id": 6, "commit": commit}
    row = stats(*(block(build, build % 2, **(windows if build % 2 else linux)) for build in range(1, 7)))
    assert (row.runs, row.failures, row.flips, row.flaky_runs) == (6, 3, 0, 0)


def test_a_result_that_flipped_makes_its_run_flaky() -> None:
    row = stats(block(1, PASSED), block(2, FAILED, flips=bytes([FLIPPED])), block(3, PASSED, flips=bytes([DIFFERED])))
    assert (row.runs, row.flaky_runs) == (3, 1)


def test_results_that_differ_on_their_commit_are_flaky() -> None:
    event = block(7, PASSED, FAILED, PASSED, PASSED, flips=bytes([0, FLIPPED, DIFFERED, 0]), flaky=b"\0\0\0\1")
    row = given(event).when(PROJECTION).one(BlockRow)
    assert [facts & FLAKY != 0 for facts in row.facts] == [False, True, True, True]


@pytest.mark.parametrize("outcomes", [(FAILED, PASSED), (PASSED, FAILED)])
def test_a_test_in_two_suites_of_a_block_has_failed_when_it_failed_in_one(outcomes: tuple[int, int]) -> None:
    row = stats(block(1, *outcomes, case_ids=Int32s([1, 1]), suites=Int16s([0, 1])))
    assert (row.runs, row.failures, row.passed, row.failed) == (1, 1, 1, 1)


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([PASSED, FAILED]), st.booleans()), max_size=4),
    st.lists(st.tuples(st.sampled_from([PASSED, FAILED]), st.booleans(), st.booleans()), max_size=5),
    st.integers(1, 4),
)
def test_results_that_were_replaced_leave_no_trace(
    before: list[tuple[int, int, bool]], last: list[tuple[int, bool, bool]], later: int
) -> None:
    """In whichever order the reports of the last build came, and the replacements of some of them."""
    commit = commit_number("abc")
    earlier = [block(number, status, flaky=bytes([flaky]), commit=commit) for number, status, flaky in before]
    reports = [block(9, status, flaky=bytes([flaky]), commit=commit) for status, flaky, _ in last]
    gone = [replaced(event) for event, (_, _, is_replaced) in zip(reports, last, strict=True) if is_replaced]
    kept = [event for event, (_, _, is_replaced) in zip(reports, last, strict=True) if not is_replaced]
    after = block(9 + later % 2, FAILED, commit=commit)
    found, expected = (
        given(*earlier, *of_build, after).when(PROJECTION).one(CaseStatsRow) for of_build in ([*reports, *gone], kept)
    )
    assert found == expected


def test_a_pass_after_a_failure_in_one_report_is_flaky() -> None:
    row = stats(block(1, FAILED, PASSED, case_ids=Int32s([1, 1]), attempts=b"\1\2", finals=b"\0\1", flaky=b"\0\1"))
    assert (row.runs, row.failures, row.flips, row.flaky_runs) == (1, 0, 0, 1)


def test_another_file_of_the_build_does_not_count_twice() -> None:
    again = block(2, PASSED, first_result_id=250, replaced=[Replaced(0, 200, FAILED)])
    rows = given(block(1, PASSED), block(2, FAILED), again).when(PROJECTION)
    assert rows.one(SupersededRow) == SupersededRow(200, 5)
    row = rows.one(CaseStatsRow)
    # It failed and then passed in one build: that is flaky, and no change from the build before.
    assert (row.runs, row.failures, row.flips, row.flaky_runs) == (2, 0, 0, 1)


def test_a_late_file_of_an_older_build() -> None:
    late = block(1, FAILED, first_result_id=150, replaced=[Replaced(0, 100, PASSED)])
    row = stats(block(1, PASSED), block(2, PASSED), late)
    assert (row.runs, row.failures, row.last_build_id, row.outcome) == (2, 1, 2, PASSED)


def test_results_of_one_build_are_one_run() -> None:
    row = stats(block(1, PASSED), block(2, FAILED), block(2, FAILED, first_result_id=250))
    assert (row.runs, row.failures, row.flips) == (2, 1, 1)


@pytest.mark.parametrize("outcomes", [(FAILED, PASSED), (PASSED, FAILED), (FAILED, SKIPPED, PASSED)])
def test_a_run_that_failed_in_one_report_has_failed_and_is_not_flaky(outcomes: tuple[int, ...]) -> None:
    commit = commit_number("abc")
    run = [block(2, status, first_result_id=250 + n, commit=commit) for n, status in enumerate(outcomes)]
    again = [block(3, status, first_result_id=350 + n, commit=commit) for n, status in enumerate(outcomes)]
    row = stats(block(1, PASSED), *run, *again)
    assert (row.runs, row.failures, row.flips, row.flaky_runs) == (3, 2, 0, 0)


def test_a_retried_test_stays_flaky_beside_another_report() -> None:
    retried = block(1, FAILED, PASSED, case_ids=Int32s([1, 1]), attempts=b"\1\2", finals=b"\0\1", flaky=b"\0\1")
    assert stats(retried, block(1, FAILED, first_result_id=150)).flaky_runs == 1


def test_a_deleted_job_leaves_no_results() -> None:
    texts = [ResultText(0, "boom", system_out="out")]
    recorded = block(7, FAILED, texts=texts, replaced=[Replaced(0, 600, FAILED)])
    rows = given(recorded, JobDeleted(job_id=5, project_id=1)).when(PROJECTION)
    for row in (ResultTextRow, OutputsRow, SupersededRow, ReportRow):
        assert rows.all(row) == []


@hypothesis.given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([PASSED, FAILED, SKIPPED])), max_size=12))
def test_numbers_hold_together(runs: list[tuple[int, int]]) -> None:
    """Whatever builds report in whatever order: never more failures or flips than runs, nothing below zero."""
    events = [
        block(build_id, status, first_result_id=1_000 + number, commit=commit_number("abc"))
        for number, (build_id, status) in enumerate(runs)
    ]
    for row in given(*events).when(PROJECTION).all(CaseStatsRow):
        assert 0 <= row.failures <= row.runs <= len(runs)
        assert 0 <= row.flips <= row.runs
        assert 0 <= row.flaky_runs <= row.runs


@hypothesis.given(
    st.lists(st.sampled_from([PASSED, FAILED, SKIPPED]), min_size=1, max_size=6), st.sampled_from([PASSED, FAILED])
)
def test_a_replaced_last_run_leaves_no_trace_but_flakiness(statuses: list[int], wrong: int) -> None:
    *before, last = statuses
    events = [block(build, status) for build, status in enumerate(before, start=1)]
    build = len(statuses)
    replacing = block(build, last, first_result_id=9_000, replaced=[Replaced(0, build * 100, wrong)])
    direct, corrected = stats(*events, block(build, last)), stats(*events, block(build, wrong), replacing)
    numbers = [(row.runs, row.failures, row.flips) for row in (direct, corrected)]
    assert numbers[0] == numbers[1]


@hypothesis.given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([PASSED, PASSED, FAILED, SKIPPED]), st.booleans()), max_size=12
    )
)
def test_a_case_fares_as_its_runs_one_after_the_other(runs: list[tuple[int, int, bool]]) -> None:
    """Builds 3 and 4 are of another job than 1 and 2."""
    commit = commit_number("abc")
    expected = CaseStatsRow(1)
    events = []
    for build_id, status, is_flaky in runs:
        job_id = 5 + build_id // 3
        expected = add_result(expected, build_id, job_id, commit, status, flaky=is_flaky)
        events.append(block(build_id, status, job_id=job_id, flaky=bytes([is_flaky]), commit=commit))
    assert given(*events).when(PROJECTION).all(CaseStatsRow) == ([expected] if runs else [])
