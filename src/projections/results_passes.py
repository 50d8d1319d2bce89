"""Counts the passes of a whole block of results at once, in the columns of `case_stats`.

Nearly all results of a report are passes of tests that passed before, in the order of the test cases' ids. A bulk load
keeps the counters in columns, where a few operations count such passes of hundreds of tests: those that begin a new run
of each test, or those that add to the newest run of each, as the same tests on another platform do. All other results,
and all results that the live tables get, are counted one by one (`results_cases.add_result`).
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress, pairwise
from typing import NamedTuple

from domain.results import PASSED, SKIPPED, ResultsRecorded
from projections.engine.model import ColumnsByKey, Rows
from projections.results_cases import CaseStatsRow

MIN_CASES = 24
"""Number of consecutive test cases from which on it is faster to count in columns."""
MAX_NUMBER = (1 << 31) - 1
"""Largest number of a column of type Int."""


class Passes(NamedTuple):
    changes: list[ColumnsByKey]
    case_ids: list[int]
    """The test cases whose passes are counted as a new run."""
    left: list[int]
    """The rows of the other results."""


def count_passes(event: ResultsRecorded, stretches: Sequence[tuple[int, int]], others: bytes, rows: Rows) -> Passes:
    """Counts the passes that can be counted in columns. `stretches` are those of the event (`find_stretches`). `others`
    has one byte for each result: 0 for a pass that counts and is neither flaky nor replaces another result, and SKIPPED
    for such a result of a skipped test.
    """
    passes = Passes([], [], [])
    has_each_once = len(stretches) == 1 or len(set(compress(event.case_ids, event.finals))) == sum(event.finals)
    for start, end in stretches:
        if not (has_each_once and _count(event, others[start:end], rows, start, passes)):
            passes.left.extend(range(start, end))
    return passes


def _count(event: ResultsRecorded, others: bytes, rows: Rows, start: int, passes: Passes) -> bool:
    """Counts the passes among the results from row `start` on, which belong to consecutive test cases. Returns False if
    they have to be counted one by one.
    """
    first, count = event.case_ids[start], len(others)
    if count < MIN_CASES or not 0 <= event.job_id <= MAX_NUMBER:
        return False
    before = rows.get_columns(CaseStatsRow, first, count)
    if before is None:
        return False
    # The numbers of a column are the digits of one long integer.
    ones = _ones(count)
    signs = ones << 31
    have_passed = _join(before["passed"]) + (signs - ones)  # has the sign bit of each number that is not 0
    odd = (have_passed & signs ^ signs) | _join(before["failed"])
    seen = before["last_build_id"].count(event.build_id)
    is_new_run = 2 * seen <= count
    if is_new_run:
        odd |= _join(before["job_id"]) ^ event.job_id * ones
        after = {
            "last_build_id": array("q", [event.build_id]) * count,
            "commit": array("q", [event.commit]) * count,
            "runs": _split(_join(before["runs"]) + ones, count),
            "passed": array("i", [1]) * count,
            "flaky": array("i", [0]) * count,
            "outcome_before": array("h", [PASSED]) * count,
            "commit_before": before["commit"],
            "outages": array("i", [0]) * count,
        }
    else:  # another result in the same run
        odd |= _join(before["flaky"])
        after = {"passed": _split(_join(before["passed"]) + ones, count)}
    left = set(compress(range(count), others))
    if odd:  # the last run of some test did not just pass, or in another job
        left.update(compress(range(count), _split(odd, count)))
    if 0 < seen < count:
        left.update(n for n, build in enumerate(before["last_build_id"]) if (build != event.build_id) != is_new_run)
    if not is_new_run:  # a run may be notable that comes after a failure
        left.update(n for n, outcome in enumerate(before["outcome_before"]) if outcome > PASSED)
        left.update(compress(range(count), event.outages[start : start + count]))
    for name, column in after.items():
        unchanged = before[name]
        for index in left:
            column[index] = unchanged[index]
    passes.changes.append(ColumnsByKey(CaseStatsRow, first, after))
    if is_new_run:
        counted = bytearray(b"\1") * count
        for index in left:
            counted[index] = 0
        passes.case_ids.extend(compress(range(first, first + count), counted))
    passes.left.extend(start + index for index in sorted(left) if others[index] != SKIPPED)
    return True


def find_stretches(case_ids: "array[int]") -> Iterator[tuple[int, int]]:
    """Yields the stretches of a column in which each id follows the one before: the first index and the one after the
    last.
    """
    start, count = 0, len(case_ids)
    if count and _join(case_ids) != case_ids[0] * _ones(count) + _counting_up(count):
        for index, (one, following) in enumerate(pairwise(case_ids), 1):
            if following != one + 1:
                yield start, index
                start = index
    if count:
        yield start, count


@lru_cache(5_000)
def _counting_up(count: int) -> int:
    return _join(array("i", range(count)))


@lru_cache(5_000)
def _ones(count: int) -> int:
    return _join(array("i", [1]) * count)


def _join(column: "array[int]") -> int:
    return int.from_bytes(column.tobytes(), sys.byteorder)


def _split(digits: int, count: int) -> "array[int]":
    return array("i", digits.to_bytes(4 * count, sys.byteorder))
