"""Tests that fail in the same builds, again and again, are found whatever their traces say."""

import pytest

from commands.reports.causes import EqualFailures, find_causes
from domain.failures.shared_failures import (
    FailingRuns,
    compare,
    find_builds_together,
    find_chance,
    find_failing,
    group,
)
from domain.run_histories import NotableRun, RunHistory
from domain.test_health import BROKEN_BUILD, FAILED, RETRIED


def failing(*builds: int, runs: int = 60) -> FailingRuns:
    """Returns the runs of a test that failed in these builds, and ran once in each build."""
    notable = [NotableRun(build, build, 0, FAILED) for build in builds]
    return find_failing(RunHistory(notable, runs), up_to=1_000)


def test_tests_that_fail_and_pass_together_are_one_cluster() -> None:
    tests = [failing(5, 20, 40), failing(7, 9, 50), failing(5, 20, 40, 41), failing(1), failing(5, 20, 33, 40)]
    assert group(tests) == [0, 1, 0, 3, 0]
    assert find_builds_together([tests[0], tests[2], tests[4]]) == [40, 20, 5]


def test_two_builds_may_be_chance() -> None:
    assert compare(failing(5, 20), failing(5, 20)) == 0


def test_tests_that_broke_one_after_the_other_have_two_causes() -> None:
    assert compare(failing(40, 41, 42, 43), failing(41, 42, 43)) == 0
    assert compare(failing(8, 41, 42, 43), failing(8, 41, 42, 43)) == 1


def test_tests_that_fail_often_meet_by_chance() -> None:
    every_second, odd_ones = range(0, 60, 2), range(0, 60, 3)
    assert compare(failing(*every_second), failing(*odd_ones)) == 0
    assert compare(failing(*every_second), failing(*every_second)) == 0  # a lift of 2 only


def test_a_test_that_fails_often_joins_no_cluster_by_chance() -> None:
    pair, random = failing(10, 17, 31, 38, 42, runs=46), failing(12, 17, 29, 38, 42, runs=26)
    assert group([pair, random, pair]) == [0, 1, 0]
    assert find_chance(3, 5, 5, 26) == pytest.approx(0.0335, abs=0.0001)
    assert find_chance(5, 5, 5, 26) < 0.0001
    assert find_chance(0, 5, 5, 26) == pytest.approx(1)
    assert find_chance(2, 5, 9, 9) == pytest.approx(1)  # the other test failed in all runs
    assert find_chance(3, 90, 5, 26) == pytest.approx(1)  # runs of tests are counted apart
    assert find_chance(300, 300, 300, 5_000) < 1e-9


def test_broken_builds_and_later_builds_do_not_count() -> None:
    flags = {1: FAILED, 3: FAILED | BROKEN_BUILD, 5: RETRIED, 6: FAILED, 9: FAILED}
    history = RunHistory([NotableRun(build, build, 0, flag) for build, flag in flags.items()], 9)
    assert find_failing(history, up_to=6).streaks == {1: 1, 5: 2, 6: 2}


def test_failures_with_different_traces_and_shared_builds_are_one_cause() -> None:
    messages = ("wrong total", "no such page", "not signed in")
    failures = [EqualFailures(str(n), 1, [n], message, "", case_id=n) for n, message in enumerate(messages)]
    together = {0: failing(5, 20, 40), 1: failing(7, 9, 40), 2: failing(5, 20, 40)}
    causes = find_causes(failures, together)
    assert [(cause.result_ids, cause.failed_together) for cause in causes] == [([0, 2], [40, 20, 5]), ([1], [])]
    assert [cause.result_ids for cause in find_causes(failures)] == [[0], [1], [2]]


def test_failures_with_equal_traces_need_no_builds_to_be_one_cause() -> None:
    failures = [EqualFailures("s", 1, [n], "wrong total", "", case_id=n) for n in range(2)]
    (cause,) = find_causes(failures, {0: failing(5, 20, 40), 1: failing(5, 20, 40)})
    assert (cause.result_ids, cause.failed_together) == ([0, 1], [])


def test_tests_that_have_hardly_failed_are_not_compared() -> None:
    tests = [FailingRuns({1: 1}, 9)] * 5_000  # to compare each pair of them takes 20 s
    assert group(tests) == list(range(5_000))


def test_equal_messages_are_one_cause_whatever_the_traces() -> None:
    def fail(number: int, function: str, message: str) -> EqualFailures:
        return EqualFailures(f"s{number}", 1, [number], message, f'File "/ci/t.py", line 3, in {function}')

    full = "OSError: [Errno 28] No space left on device: '/tmp/{}'"
    (cause,) = find_causes([fail(number, "abc"[number], full.format(number)) for number in range(3)])
    assert (cause.results, cause.failed_together) == (3, [])
    assert len(find_causes([fail(number, "ab"[number], "AssertionError: assert 1 == 2") for number in range(2)])) == 2
