"""Activity of test cases, by which their lists are sorted and filtered."""

from collections.abc import Iterable
from itertools import pairwise
from typing import get_args

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from domain.case_activity import GONE_AFTER, NO_DURATION, Activity, CaseActivity, CaseRuns, JobRuns, Only, Sort, sum_up
from domain.run_histories import NotableRun, RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, OTHER_BRANCH, OUTAGE, RETRIED


def activity(*runs: int, duration_ms: int | None = None) -> CaseActivity:
    """Returns the activity of a test whose n-th run, in build n, has the n-th of these flags."""
    notable = [NotableRun(number, number, 0, flags) for number, flags in enumerate(runs, start=1) if flags]
    return sum_up(7, RunHistory(notable, len(runs)), len(runs), duration_ms)


def test_failures_flips_and_the_streak() -> None:
    found = activity(0, FAILED, 0, 0, FAILED, FAILED, duration_ms=10)
    assert (found.runs, found.failed_runs, found.flips) == (6, 3, 3)
    assert (found.failing_streak, found.failing_since) == (2, 5)
    assert found.time_lost_ms == 30
    assert found.is_flaky


def test_a_test_that_passes_again_does_not_fail() -> None:
    found = activity(FAILED, FAILED, 0)
    assert (found.failing_streak, found.failing_since, found.flips) == (0, None, 1)
    assert not found.is_flaky


def test_a_new_test_that_failed_in_all_runs_began_to_fail_with_its_first_run() -> None:
    found = activity(FAILED, FAILED)
    assert (found.failing_streak, found.failing_since, found.flips) == (2, 1, 0)


def test_a_test_that_failed_in_all_runs_of_the_window_may_have_begun_before() -> None:
    notable = [NotableRun(number, number, 0, FAILED) for number in (8, 9)]
    found = sum_up(7, RunHistory(notable, 9), 2, None)
    assert (found.failing_streak, found.failing_since, found.flips) == (2, None, 0)


def test_a_failing_test_that_does_not_run_any_more_is_not_new() -> None:
    failing = activity(0, 0, FAILED, FAILED)
    assert failing.last_failed_build == 4
    assert activity(FAILED, 0).last_failed_build is None
    cases = CaseRuns([0], 10, [0] * 7 + [4, 0, 0], [NO_DURATION] * 10)
    for missed, is_new in ((0, True), (GONE_AFTER - 1, True), (GONE_AFTER, False)):
        found = Activity(cases, {7: failing})
        assert found.find_failing_builds() == {4}
        found.mark_missed({4: missed, 5: 99})
        (shown,) = found.select("newly_failing", "failing", None, 9)[1]
        assert shown.missed_builds == missed
        assert found.select("newly_failing", "newly_failing", None, 9)[0] == is_new


@pytest.mark.parametrize("reason", [BROKEN_BUILD, OUTAGE])
def test_a_test_fails_now_whatever_the_reason(reason: int) -> None:
    found = activity(0, 0, FAILED | reason, FAILED | reason)
    assert (found.failing_streak, found.failing_since) == (2, 3)
    assert found.matches("failing")
    assert found.matches("newly_failing")
    assert not found.matches("never_failing")
    assert (found.flips, found.is_flaky) == (0, False)
    assert activity(0, FAILED | reason, 0).failing_streak == 0
    assert activity(0, FAILED, FAILED | reason | OTHER_BRANCH).failing_streak == 1


def test_broken_builds_are_left_out() -> None:
    assert activity(0, RETRIED | BROKEN_BUILD).retried_runs == 0
    found = activity(0, FAILED | BROKEN_BUILD, 0, FAILED, FAILED | BROKEN_BUILD)
    assert (found.runs, found.failed_runs, found.flips, found.failing_since) == (3, 1, 1, 4)
    assert found.failing_streak == 2


def test_failures_of_other_jobs_are_not_those_of_a_job() -> None:
    flags = (0, FAILED, 0, FAILED, FAILED, FAILED | BROKEN_BUILD, FAILED)
    notable = [NotableRun(number, number, 0, one) for number, one in enumerate(flags, start=1) if one]
    history = RunHistory(notable, len(flags))
    failing = sum_up(7, history, 7, None, JobRuns({4, 6, 7}, 4))
    assert (failing.runs, failing.failed_runs, failing.flips) == (3, 2, 1)
    assert (failing.failing_streak, failing.failing_since) == (3, 4)
    mended = sum_up(7, history, 7, None, JobRuns({2}, 3))
    assert (mended.runs, mended.failed_runs, mended.flips) == (3, 1, 2)
    assert (mended.failing_streak, mended.failing_since) == (0, None)
    steady = sum_up(7, history, 7, None, JobRuns(set(), 2))
    assert steady == CaseActivity(7, 2)


def test_retries_are_flaky() -> None:
    found = activity(0, RETRIED, 0, duration_ms=4)
    assert (found.retried_runs, found.flips, found.time_lost_ms) == (1, 0, 4)
    assert found.is_flaky


@hypothesis.given(st.lists(st.sampled_from([0, 0, FAILED, RETRIED, FAILED | BROKEN_BUILD]), max_size=20))
def test_numbers_are_those_of_the_runs_one_by_one(runs: list[int]) -> None:
    counted = [run & FAILED for run in runs if not run & BROKEN_BUILD]
    found = activity(*runs)
    assert (found.runs, found.failed_runs) == (len(counted), sum(counted))
    assert found.flips == sum(one != other for one, other in pairwise(counted))
    streak = next((number for number, run in enumerate(reversed(runs)) if not run & FAILED), len(runs))
    assert found.failing_streak == streak


@hypothesis.given(
    st.lists(st.sampled_from([0, 0, FAILED, RETRIED, FAILED | BROKEN_BUILD]), max_size=20), st.integers(0, 20)
)
def test_only_the_runs_of_the_window_count(runs: list[int], before: int) -> None:
    notable = [NotableRun(number, number, 0, flags) for number, flags in enumerate(runs, start=1) if flags]
    later = [NotableRun(before + run.number, run.build_id, 0, run.flags) for run in notable]
    found, alone = sum_up(7, RunHistory(later, before + len(runs)), len(runs), 3), activity(*runs, duration_ms=3)
    if before and alone.failing_streak == len(runs):
        alone = msgspec.structs.replace(alone, failing_since=None)
    assert found == alone


def test_test_cases_are_left_out() -> None:
    quiet = [CaseActivity(number, 5, duration_ms=number) for number in range(1, 6)]
    shaky = CaseActivity(6, 5, failed_runs=1)
    listed = Activity(columns_of([*quiet, shaky]), {6: shaky})
    listed.keep({2, 3, 5, 6, 9})
    assert listed.select("slowest", None, None, 2) == (4, [quiet[4], quiet[2]])
    assert listed.select("failures", "never_failing", None, 1) == (3, [quiet[1]])
    listed.drop({3, 6})
    assert listed.select("failures", None, None, 9) == (2, [quiet[1], quiet[4]])


def test_the_most_striking_comes_first() -> None:
    steady = CaseActivity(1, 9, duration_ms=5)
    shaky = activity(0, FAILED, 0, FAILED, 0, duration_ms=1)
    broken = activity(0, 0, 0, FAILED, FAILED, duration_ms=50)
    cases = {"steady": steady, "shaky": shaky, "broken": broken}

    def order(sort: Sort) -> list[str]:
        return sorted(cases, key=lambda name: cases[name].key(sort))

    assert order("flaky") == ["shaky", "broken", "steady"]
    assert order("newly_failing")[0] == "broken"
    assert order("cost") == ["broken", "shaky", "steady"]
    assert order("slowest") == ["broken", "steady", "shaky"]
    assert order("runs")[0] == "steady"
    matching = {only: [one for one in (steady, shaky, broken) if one.matches(only)] for only in get_args(Only)}
    assert matching == {"failing": [broken], "flaky": [shaky], "newly_failing": [broken], "never_failing": [steady]}


def columns_of(found: Iterable[CaseActivity]) -> CaseRuns:
    """Returns the columns of test cases with ids below 24, with gaps."""
    known = {case.id: case for case in found}
    firsts = sorted({case_id - case_id % 4 for case_id in known})
    cases = [known.get(first + number, CaseActivity(0, 0)) for first in firsts for number in range(4)]
    durations = [NO_DURATION if case.duration_ms is None else case.duration_ms for case in cases]
    return CaseRuns(firsts, 4, [case.runs for case in cases], durations)


cases = st.builds(
    CaseActivity,
    id=st.integers(1, 20),
    runs=st.integers(1, 3),
    failed_runs=st.integers(0, 2),
    flips=st.integers(0, 2),
    duration_ms=st.none() | st.integers(0, 3),
)


@hypothesis.given(
    st.lists(cases, unique_by=lambda case: case.id, max_size=8), st.integers(0, 8), st.sampled_from(get_args(Sort))
)
def test_pages_join_to_the_sorted_list(found: list[CaseActivity], notable: int, sort: Sort) -> None:
    quiet = [CaseActivity(case.id, case.runs, duration_ms=case.duration_ms) for case in found[notable:]]
    listed = Activity(columns_of(found), {case.id: case for case in found[:notable]})
    expected = sorted([*found[:notable], *quiet], key=lambda case: case.key(sort))
    position, pages = None, []
    while page := listed.select(sort, None, position, 3)[1]:
        pages += page
        position = page[-1].key(sort)
    assert pages == expected
    assert listed.select(sort, None, None, 3)[0] == len(found)
