"""Finds tests that passed in one build and failed in another build of the same job on the same commit.

Two results are compared only if they are from reports with the same path and from suites with the same name. If a build
has several results of a test under one path and suite and their outcomes differ, these results are not compared with
other builds: nothing says which result corresponds to which. This happens, for example, when the reports of shards are
merged. Failures that an outage caused are not compared.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import compress

from commands.reports.reading import ReportRead
from domain.flakiness import OtherResult
from domain.results import DIFFERED, FAILED, FLIPPED, PASSED, SKIPPED

OPPOSITE = {PASSED: FAILED, FAILED: PASSED}


def find_failed_cases(report: ReportRead, case_ids: Sequence[int]) -> list[int]:
    """Returns the ids of the test cases whose result in the report is a failure. Of several attempts at a test, only
    the one that counts is looked at. `case_ids` has one id for each of the report's `node_ids`, in the same order.
    """
    columns = zip(report.tests, report.statuses, report.finals, strict=True)
    return sorted({case_ids[test] for test, status, final in columns if final and status == FAILED})


def find_flips(report: ReportRead, case_ids: Sequence[int], others: Iterable[OtherResult]) -> bytes:
    """Returns one byte for each row of the report: FLIPPED if the newest comparable result in `others` is the opposite
    of the row's result, DIFFERED if only an older one is, and otherwise 0. Returns empty bytes if all are 0. `others`
    must be ordered from the newest build to the oldest.
    """
    earlier: dict[tuple[str, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for other in others:
        earlier[other.suite, other.case_id][other.build_id].add(other.status)
    if not earlier:
        return b""
    rows: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row, (test, suite, status, final) in enumerate(
        zip(report.tests, report.row_suites, report.statuses, report.finals, strict=True)
    ):
        key = report.suites[suite], case_ids[test]
        if final and status != SKIPPED and key in earlier:
            rows[key].append(row)
    for row in compress(range(report.rows), report.outages):
        if report.statuses[row] == FAILED:
            rows.pop((report.suites[report.row_suites[row]], case_ids[report.tests[row]]), None)
    flips = bytearray(report.rows)
    for key, same in rows.items():
        flip = _compare({report.statuses[row] for row in same}, earlier[key].values())
        for row in same:
            flips[row] = flip
    return bytes(flips) if any(flips) else b""


def _compare(statuses: Collection[int], others: Iterable[Collection[int]]) -> int:
    if len(statuses) > 1:
        return 0
    (status,) = statuses
    outcomes = [outcome for found in others if len(found) == 1 for outcome in found]
    if OPPOSITE[status] not in outcomes:
        return 0
    return FLIPPED if outcomes[0] == OPPOSITE[status] else DIFFERED
