"""Histories of tests with builds of several branches and jobs."""

from typing import NamedTuple

import hypothesis
from hypothesis import strategies as st

from domain.case_activity import sum_up
from domain.run_histories import NotableRun, RunHistory, count_failing, is_broken
from domain.run_lines import OPEN_DAYS, OTHER_BRANCHES, BuildOnLine, Lines, line_number
from domain.test_health import BROKEN_BUILD, FAILED, LEFT_OUT, OTHER_BRANCH, RETRIED, SAME_COMMIT, assess

MAIN, WINDOWS = line_number(1, {}), line_number(1, {"os": "windows"})
FEATURE = OTHER_BRANCHES
P, F = 0, FAILED


class Build(NamedTuple):
    line: int
    flags: int
    job_id: int = 1
    is_broken: bool = False


def arrange(*builds: Build, asked: tuple[int, ...] = (), now: int = 0) -> RunHistory:
    """Returns the history of a test that ran in builds with the ids 1, 2, …"""
    numbered = list(enumerate(builds, 1))
    on_lines = {}
    for build_id, one in numbered:
        of_line = (n for n, other in numbered if n > build_id and other.line == one.line > 0 and not other.is_broken)
        on_lines[build_id] = BuildOnLine(one.job_id, one.line, one.is_broken, next(of_line, None))
    jobs = {one.job_id for one in builds if one.line > 0}
    runs = [NotableRun(number, number, 0, one.flags) for number, one in numbered if one.flags]
    return RunHistory(Lines(on_lines, jobs, asked, now).arrange(runs, len(builds)), len(builds))


def main(flags: int) -> Build:
    return Build(MAIN, flags)


def feature(flags: int) -> Build:
    return Build(FEATURE, flags)


def test_failures_on_other_branches_say_nothing_about_a_test() -> None:
    history = arrange(*[main(P)] * 20, feature(F), main(P), feature(F), main(P))
    assert [run.flags for run in history.notable] == [F | OTHER_BRANCH] * 2
    found = assess(history.to_bytes())
    assert found == assess(bytes(22))
    assert count_failing(history) == (0, 22)
    assert history.find_failing() is None


def test_passes_on_other_branches_do_not_mend_the_default_branch() -> None:
    history = arrange(*[main(P)] * 20, main(F), feature(P), feature(P), main(F), feature(P), main(F), feature(P))
    assert history.to_bytes() == bytes(24) + bytes([F, F, F])
    assert assess(history.to_bytes()).recommended_action == "investigate"
    failing = history.find_failing()
    assert failing is not None
    assert failing.build_id == 26
    assert sum_up(1, history, 27, None).failing_streak == 3


def test_a_pass_on_the_default_branch_ends_failures() -> None:
    history = arrange(main(F), feature(P), main(P), main(F), feature(P), main(P))
    assert history.to_bytes() == bytes([F, P, P, F, P, P])


def test_combinations_of_a_matrix_do_not_mend_each_other() -> None:
    windows = Build(WINDOWS, F)
    history = arrange(main(P), windows, main(P), windows, main(P), windows, main(P))
    assert history.to_bytes() == bytes([P, P, P, P, F, F, F])


def test_a_failure_on_another_branch_counts_if_the_test_passed_on_the_commit() -> None:
    again = arrange(main(P), feature(F), feature(SAME_COMMIT))
    assert again.to_bytes() == bytes([P, F, SAME_COMMIT])
    before = arrange(main(P), feature(F | SAME_COMMIT))
    assert before.to_bytes() == bytes([P, F | SAME_COMMIT])
    twice = arrange(main(P), feature(F), feature(F | SAME_COMMIT))
    assert all(run.flags & OTHER_BRANCH for run in twice.notable)
    assert arrange(main(P), feature(RETRIED)).to_bytes() == bytes([P, RETRIED])


def test_a_job_that_is_never_built_on_its_default_branch_counts_all_branches() -> None:
    assert arrange(feature(P), feature(F), feature(P)).to_bytes() == bytes([P, F, P])
    other = arrange(Build(line_number(2, {}), P, job_id=2), feature(F), feature(P))
    assert other.to_bytes() == bytes([P, F, P])


def test_the_branch_that_is_asked_about_counts() -> None:
    history = arrange(*[main(P)] * 9, feature(F), main(P), feature(F), feature(F), main(P), asked=(10, 12))
    assert history.to_bytes() == bytes(10) + bytes([F | OTHER_BRANCH, P, F, F])
    assert history.find_failing() is not None


def test_a_pass_on_the_branch_that_is_asked_about_ends_its_failures() -> None:
    history = arrange(main(P), feature(F), main(P), feature(P), main(P), feature(F), asked=(2, 4, 6))
    assert history.to_bytes() == bytes([P, F, P, P, P, F])


def test_a_line_that_was_given_up_does_not_fail_for_ever() -> None:
    builds = (main(P), Build(WINDOWS, F), main(P))
    days = OPEN_DAYS * 24 * 60
    assert arrange(*builds, now=days).to_bytes() == bytes([P, P, F])
    assert arrange(*builds, now=days + 1).to_bytes() == bytes([P, F, P])


def test_a_broken_build_does_not_end_failures() -> None:
    history = arrange(main(F), feature(P), Build(MAIN, F, is_broken=True), main(F))
    assert [run.flags for run in history.notable if not run.flags & LEFT_OUT] == [F, F]
    assert [run.build_id for run in history.notable if run.flags & BROKEN_BUILD] == [3]
    assert is_broken(1, 9)
    assert assess(history.to_bytes()) == assess(bytes([P, F, F]))


def test_a_run_that_moves_is_not_compared_with_the_commit_before_it() -> None:
    history = arrange(main(F), main(F | SAME_COMMIT), feature(P), main(F))
    assert history.to_bytes() == bytes([P, F, F | SAME_COMMIT, F])
    history = arrange(main(P), main(F | SAME_COMMIT), feature(P), main(F))
    assert history.to_bytes() == bytes([P, P, F, F])


BUILDS = st.tuples(st.sampled_from([MAIN, WINDOWS, FEATURE]), st.sampled_from([P, P, F, RETRIED]))


@hypothesis.given(st.lists(BUILDS.map(lambda one: Build(*one))))
def test_no_run_is_lost_and_each_line_keeps_its_order(builds: list[Build]) -> None:
    history = arrange(*builds)
    assert sorted(run.build_id for run in history.notable) == [n for n, one in enumerate(builds, 1) if one.flags]
    numbers = [run.number for run in history.notable]
    assert numbers == sorted(set(numbers))
    assert not numbers or 1 <= numbers[0] <= numbers[-1] <= len(builds)
    for line in (MAIN, WINDOWS, FEATURE):
        of_line = [run.build_id for run in history.notable if builds[run.build_id - 1].line == line]
        assert of_line == sorted(of_line)


@hypothesis.given(st.lists(st.sampled_from([P, F, RETRIED])))
def test_a_history_of_one_line_stays_as_it_is(flags: list[int]) -> None:
    assert arrange(*map(main, flags)).to_bytes() == bytes(flags)
