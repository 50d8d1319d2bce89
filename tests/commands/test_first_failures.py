"""The commit that broke a test is between the last build that passed and the first that failed."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from domain.failures.first_failures import BuildOutcome, find_first_failure
from domain.results import FAILED, PASSED, SKIPPED


def test_between_the_last_good_and_the_first_bad() -> None:
    results = [(9, "d", FAILED), (8, "c", FAILED), (7, "b", SKIPPED), (6, "a", PASSED), (5, "0", FAILED)]
    found = find_first_failure(results)
    assert found is not None
    assert (found.first_bad, found.last_good) == (BuildOutcome(8, "c", True), BuildOutcome(6, "a", False))
    assert (found.failed_builds, found.cause) == (2, "commit")


def test_without_a_good_build_or_a_commit_the_cause_is_unknown() -> None:
    never_passed = find_first_failure([(9, "d", FAILED), (8, "c", FAILED)])
    assert never_passed is not None
    assert (never_passed.last_good, never_passed.failed_builds, never_passed.cause) == (None, 2, "unknown")
    no_commit = find_first_failure([(9, None, FAILED), (8, "c", PASSED)])
    assert no_commit is not None
    assert no_commit.cause == "unknown"


def test_on_one_commit_no_commit_is_to_blame() -> None:
    found = find_first_failure([(9, "c", FAILED), (8, "c", PASSED)])
    assert found is not None
    assert found.cause == "same_commit"


def test_a_commit_with_which_the_test_passed_elsewhere_is_not_to_blame() -> None:
    once, kept = (find_first_failure([(9 - n, str(n), FAILED) for n in range(n)] + [(1, "x", PASSED)]) for n in (2, 3))
    assert once is not None
    assert kept is not None
    assert [one.cause for one in (once, kept)] == ["commit", "commit"]
    causes = [msgspec.structs.replace(one, passed_in=4).cause for one in (once, kept)]
    assert causes == ["same_commit", "unknown"], "on a branch where it keeps failing, it is not flaky"


def test_a_new_test_that_passed_on_the_same_commit_blames_no_commit() -> None:
    found = find_first_failure([(9, "c", FAILED)], is_complete=True)
    assert found is not None
    assert found.cause == "unknown"
    assert msgspec.structs.replace(found, passed_in=10).cause == "same_commit"


def test_a_build_failed_if_one_of_its_results_did() -> None:
    assert find_first_failure([(9, "c", PASSED), (9, "c", FAILED), (8, "b", PASSED)]) is not None
    assert find_first_failure([(9, "c", PASSED), (8, "b", FAILED)]) is None
    assert find_first_failure([]) is None


def test_reports_of_builds_that_ran_at_the_same_time_may_alternate() -> None:
    """A build is not better than another since one of its earlier reports has the test as passed."""
    at_once = [(9, "d", FAILED), (8, "c", FAILED), (9, "d", PASSED), (8, "c", PASSED)]
    found = find_first_failure([*at_once, (7, "b", PASSED)])
    assert found is not None
    assert (found.first_bad, found.last_good) == (BuildOutcome(8, "c", True), BuildOutcome(7, "b", False))
    assert found.failed_builds == 2


def test_failures_in_broken_builds_do_not_count() -> None:
    results = [(9, "c", FAILED), (8, "c", FAILED), (7, "b", FAILED), (6, "b", PASSED)]
    found = find_first_failure(results, left_out={7})
    assert found is not None
    assert (found.first_bad.build_id, found.last_good, found.failed_builds) == (8, BuildOutcome(6, "b", False), 2)
    assert found.cause == "commit"


@given(st.lists(st.sampled_from([PASSED, FAILED, SKIPPED]), max_size=30))
def test_the_answer_is_that_of_a_plain_search(statuses: list[int]) -> None:
    results = [(1000 - number, str(number), status) for number, status in enumerate(statuses)]
    runs = [(build, status) for build, _, status in results if status != SKIPPED]
    failures = next((index for index, (_, status) in enumerate(runs) if status == PASSED), len(runs))
    found = find_first_failure(results)
    assert (found is not None) == (failures > 0)
    if found is not None:
        assert found.failed_builds == failures
        assert found.first_bad.build_id == runs[failures - 1][0]
        assert (found.last_good.build_id if found.last_good else None) == (
            runs[failures][0] if failures < len(runs) else None
        )


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([PASSED, FAILED, SKIPPED])), max_size=20), st.data())
def test_what_the_newest_results_show_is_what_all_show(drawn: list[tuple[int, int]], data: st.DataObject) -> None:
    """The newest results are read first. Of the last build among them, there may be more."""
    rows = [(build, "c", status) for build, status in sorted(drawn, key=lambda row: -row[0])]
    newest = rows[: data.draw(st.integers(0, len(rows)))]
    found = find_first_failure([row for row in newest if row[0] != newest[-1][0]])
    if found is not None and found.last_good is not None:
        assert found == find_first_failure(rows)


def test_a_test_fails_since_its_first_run_only_if_all_runs_are_known() -> None:
    results = [(9, "c", FAILED), (8, "b", FAILED), (7, "a", SKIPPED)]
    found = [find_first_failure(results), find_first_failure(results, is_complete=True)]
    found.append(find_first_failure([*results, (6, "a", FAILED)], {6}, is_complete=True))
    assert [one is not None and one.is_first_run for one in found] == [False, True, False]
