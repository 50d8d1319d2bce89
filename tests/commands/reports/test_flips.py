"""Results of a report, compared with other builds of the job on the same commit."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.reports.flips import find_failed_cases, find_flips
from commands.reports.reading import ReportRead, read_chunks
from domain.flakiness import OtherResult
from domain.results import DIFFERED, FAILED, FLIPPED, PASSED, SKIPPED

INSIDES = {PASSED: "", FAILED: "<failure message='boom'/>", SKIPPED: "<skipped/>"}
Result = tuple[str, str, int]
"""Suite, test, status."""


def report(*results: Result) -> ReportRead:
    """Each result in an element of its own, so that none is an attempt of another."""
    suites = (
        f'<testsuite name="{suite}"><testcase name="test_{test}">{INSIDES[status]}</testcase></testsuite>'
        for suite, test, status in results
    )
    return read_chunks([f"<testsuites>{''.join(suites)}</testsuites>".encode()])


def case_ids(read: ReportRead) -> list[int]:
    return [ord(node_id[-1]) for node_id in read.node_ids]


def other(build_id: int, suite: str, test: str, status: int) -> OtherResult:
    return OtherResult(build_id, suite, ord(test), status)


def flips(results: list[Result], *others: OtherResult) -> list[int]:
    read = report(*results)
    return list(find_flips(read, case_ids(read), others))


@pytest.mark.parametrize("status", [PASSED, FAILED])
def test_the_opposite_of_the_last_build_is_a_flip(status: int) -> None:
    opposite = FAILED if status == PASSED else PASSED
    assert flips([("s", "a", status)], other(1, "s", "a", opposite)) == [FLIPPED]
    assert flips([("s", "a", status)], other(1, "s", "a", status)) == []


def test_an_older_difference_is_no_flip() -> None:
    older = other(2, "s", "a", PASSED), other(1, "s", "a", FAILED)
    assert flips([("s", "a", PASSED), ("s", "b", PASSED)], *older) == [DIFFERED, 0]


def test_only_the_same_suite_is_compared() -> None:
    assert flips([("s", "a", PASSED)], other(1, "u", "a", FAILED)) == []


def test_skipped_results_are_not_compared() -> None:
    assert flips([("s", "a", SKIPPED)], other(1, "s", "a", FAILED)) == []


def test_mixed_results_are_compared_with_nothing() -> None:
    """As when the reports of Python 3.11 and 3.12 are merged, and the test fails under one of them every time."""
    mixed = other(2, "s", "a", FAILED), other(2, "s", "a", PASSED)
    assert flips([("s", "a", PASSED)], *mixed) == []
    assert flips([("s", "a", PASSED), ("s", "a", FAILED)], other(1, "s", "a", PASSED)) == []
    assert flips([("s", "a", PASSED)], *mixed, other(1, "s", "a", FAILED)) == [FLIPPED]


def test_only_last_attempts_are_compared() -> None:
    twice = f'<testcase name="test_a">{INSIDES[FAILED]}</testcase><testcase name="test_a"/>'
    read = read_chunks([f'<testsuite name="s">{twice}</testsuite>'.encode()])
    assert find_flips(read, case_ids(read), [other(1, "s", "a", PASSED)]) == b""
    assert find_failed_cases(read, case_ids(read)) == []


def test_failed_cases() -> None:
    read = report(("s", "b", FAILED), ("s", "a", FAILED), ("u", "b", FAILED), ("s", "c", PASSED), ("s", "d", SKIPPED))
    assert find_failed_cases(read, case_ids(read)) == [ord("a"), ord("b")]


names = st.tuples(st.sampled_from("su"), st.sampled_from("ab"))
outcomes = st.sampled_from([PASSED, FAILED])


@given(
    st.lists(st.builds(lambda name, status: (*name, status), names, outcomes | st.just(SKIPPED)), max_size=6),
    st.lists(st.builds(lambda build, name, status: (build, *name, status), st.integers(1, 3), names, outcomes)),
)
def test_as_a_naive_reader_says(results: list[Result], earlier: list[tuple[int, str, str, int]]) -> None:
    earlier.sort(key=lambda result: -result[0])
    found = flips(results, *itertools.starmap(other, earlier))
    expected = []
    for suite, test, status in results:
        now = {s for u, t, s in results if (u, t) == (suite, test)} - {SKIPPED}
        before = [
            of_build.pop()
            for build in (3, 2, 1)
            if len(of_build := {s for b, u, t, s in earlier if (b, u, t) == (build, suite, test)}) == 1
        ]
        differs = status != SKIPPED and len(now) == 1 and any(s != status for s in before)
        expected.append(0 if not differs else FLIPPED if before[0] != status else DIFFERED)
    assert found == (expected if any(expected) else [])
