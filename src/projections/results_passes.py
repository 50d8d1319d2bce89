"""Counts the passes of a whole block of results at once, in the columns of `case_stats`.

Nearly all results of a report are passes of tests that passed before, in the order of the test cases' ids. A bulk load
keeps the counters in columns, where a few operations count the passes of hundreds of tests. The passes must all begin a
new run of their test, or must all add to the newest run of their test, as a report from another platform does. All
other results are counted one by one (`results_cases.add_result`), and so are all results that the live tables get.
"""

import sys
from array import array
from collections.abc import Mapping
from functools import lru_cache
from itertools import compress, pairwise
from typing import NamedTuple

from domain.core.columns import Int32s
from domain.results import PASSED, SKIPPED, ResultsRecorded
from projections.engine.model import PRESENT, Columns, ColumnsByKey, Rows
from projections.results_cases import CaseStatsRow

MIN_CASES = 12
"""Least number of test cases with consecutive ids whose passes are counted in columns. For fewer, counting one by one
is faster.
"""
NOT_FINAL = 4
"""Mark of a result that does not count, since its test was retried."""
MAX_NUMBER = (1 << 31) - 1
"""Largest number that a column of type Int can hold."""
_IS_ZERO = b"\1" + bytes(255)
"""Table for `bytes.translate`: 1 for a byte that is 0, else 0."""

Stretches = list[tuple[int, int]]
"""Ranges of rows (results) of an event whose test cases have consecutive ids. Each range is (first row, row after the
last one).
"""


class Passes(NamedTuple):
    changes: list[ColumnsByKey]
    counted: bytearray
    """One byte for each result: 1 if it is counted as a new run of its test case, else 0."""
    left: list[int]
    """Rows of the event whose results have to be counted one by one."""


def count_passes(event: ResultsRecorded, stretches: Stretches, marks: bytes, rows: Rows) -> Passes:
    """Counts the passes that can be counted in columns.

    `marks` has one byte for each result:
    - 0: it passed, and is an ordinary result: neither flaky nor retried, and no replacement of another result;
    - SKIPPED: it was skipped, and is an ordinary result;
    - NOT_FINAL or more: it does not count, since it was retried;
    - any other number: it counts, but is no ordinary pass.
    """
    passes = Passes([], bytearray(len(marks)), [])
    ids = event.case_ids
    has_each_once = are_ascending(ids, stretches) or len(set(compress(ids, event.finals))) == sum(event.finals)
    is_countable = has_each_once and 0 <= event.job_id <= MAX_NUMBER
    for start, end in stretches:
        before = None
        if is_countable and end - start >= MIN_CASES:
            before = rows.get_columns(CaseStatsRow, ids[start], end - start)
        if before is None:
            passes.left.extend(row for row in range(start, end) if marks[row] < NOT_FINAL)
        else:
            _count(event, marks[start:end], before, start, passes)
    return passes


def _count(event: ResultsRecorded, marks: bytes, before: Columns, start: int, passes: Passes) -> None:
    """Counts passes of the stretch that begins at row `start`. `marks` has the marks of its results, and `before` the
    counters of its test cases. Passes either begin a new run of their test case or add to its newest run. The more
    frequent of the two kinds is counted; the rows of all other results are added to `passes.left`.
    """
    count, states = len(marks), before.states
    excluded = bytearray((int.from_bytes(marks) | int.from_bytes(states)).to_bytes(count))
    """One byte for each result: 0 if it can be counted in columns."""
    builds = before["last_build_id"]
    seen = builds.count(event.build_id)
    is_new_run = 2 * seen <= count
    if 0 < seen < count:
        for index, build in enumerate(builds):
            excluded[index] |= (build == event.build_id) == is_new_run
    others = list(compress(range(count), excluded))
    if is_new_run:
        jobs = before["job_id"]
        for index in others:
            jobs[index] = event.job_id
        if jobs != array("i", [event.job_id]) * count:
            for index, job in enumerate(jobs):
                excluded[index] |= job != event.job_id
            others = list(compress(range(count), excluded))
    else:  # another result in the same run, which may be notable if it comes after a failure
        for index, outcome in enumerate(before["outcome_before"]):
            excluded[index] |= outcome > PASSED
        for index in compress(range(count), event.outages[start : start + count]):
            excluded[index] |= 1
        others = list(compress(range(count), excluded))
    if count - len(others) < MIN_CASES:
        others = list(range(count))
    else:
        passes.changes.append(
            ColumnsByKey(CaseStatsRow, event.case_ids[start], count, _after(event, before, is_new_run), others)
        )
        if is_new_run:
            passes.counted[start : start + count] = excluded.translate(_IS_ZERO)
    for index in others:
        mark = marks[index]
        if mark < NOT_FINAL and not (mark == SKIPPED and states[index] <= PRESENT):
            passes.left.append(start + index)


def _after(event: ResultsRecorded, before: Columns, is_new_run: bool) -> "Mapping[str, int | array[int]]":
    """Returns the columns of the counters that change when each test case passes once more. With `is_new_run`, the pass
    begins a new run.
    """
    if not is_new_run:
        return {"passed": _increment(before["passed"])}
    return {
        "last_build_id": event.build_id,
        "commit": event.commit,
        "runs": _increment(before["runs"]),
        "passed": 1,
        "outcome_before": PASSED,
        "commit_before": before["commit"],
    }


def find_stretches(case_ids: Int32s) -> Stretches:
    """Splits a column of test case ids into ranges of rows with consecutive ids."""
    if not case_ids:
        return []
    # Ids follow each other if they are equal once their rows are subtracted.
    digits = int.from_bytes(case_ids.stored, "little") + _less_rows(len(case_ids))
    if digits == (case_ids[0] + (1 << 31)) * _ones(len(case_ids)):
        return [(0, len(case_ids))]
    differing = (digits ^ digits >> 32).to_bytes(4 * len(case_ids), "little")[:-4]
    return list(pairwise([0, *compress(range(1, len(case_ids)), Int32s.of(differing)), len(case_ids)]))


def are_ascending(case_ids: Int32s, stretches: Stretches) -> bool:
    """Returns whether the ids of a column ascend strictly. `stretches` are the result of `find_stretches` for the
    column.
    """
    return all(case_ids[start - 1] < case_ids[start] for start, _ in stretches[1:])


@lru_cache(5_000)
def _less_rows(count: int) -> int:
    """Returns a long integer. Added to a column of ids, it subtracts from each id the id's row: for the rows from 0 on,
    its digits are `2**31 - row`. The 2**31 keeps the digits of the sum from becoming negative.
    """
    return (_ones(count) << 31) - int.from_bytes(Int32s(range(count)).stored, "little")


@lru_cache(5_000)
def _ones(count: int) -> int:
    return _join(array("i", [1]) * count)


def _join(column: "array[int]") -> int:
    """Returns a long integer whose digits are the numbers of a column."""
    return int.from_bytes(column.tobytes(), sys.byteorder)


def _increment(column: "array[int]") -> "array[int]":
    """Returns the numbers of a column, each plus one."""
    ones = _ones(len(column))
    # Without the signs, -1 plus one would carry into the next digit. The number of runs is negative if several results
    # of one older run were withdrawn.
    signs = ones << 31
    digits = ((_join(column) ^ signs) + ones) ^ signs
    return array("i", digits.to_bytes(4 * len(column), sys.byteorder))
