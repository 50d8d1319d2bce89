"""Finds outages: results of a report that failed because the machine, the network or another system failed. If a known
issue, a classification rule or the statistics match a failure, their classification decides whether it is an outage.
Otherwise the words of its message decide.
"""

from collections import defaultdict

from commands.reports.reading import ReportRead
from domain.failures.infrastructure_failures import MAX_LENGTH, MAX_TRACE, is_infrastructure
from domain.results import FAILED

MAX_SEARCHED = 1_000_000
"""Largest number of characters of messages that are searched in one report, where equal messages count once. Searching
so many takes 0.7 s. Failures with further messages are not taken for outages.
"""


def find_outages(report: ReportRead) -> bytes:
    """Returns one byte for each row of the report. It is 1 if an outage made the attempt that counts fail. It is also 1
    if this attempt passed on a retry, and outages made all earlier failed attempts fail. Otherwise it is 0. Returns
    empty bytes if all are 0.
    """
    classified = {match.row: match.classification for match in report.matches}
    searched: dict[tuple[str, str], bool] = {}
    left = MAX_SEARCHED
    failed: set[int] = set()
    for text in report.texts:
        row = text.row
        if report.statuses[row] != FAILED:
            continue
        if row in classified:
            is_outage = classified[row] == "infra"
        else:
            key = text.message[:MAX_LENGTH], "" if text.message else text.trace[-MAX_TRACE:]
            if key not in searched and left > 0:
                searched[key] = is_infrastructure(*key)
                left -= sum(map(len, key))
            is_outage = searched.get(key, False)
        if is_outage:
            failed.add(row)
    if not failed:
        return b""
    outages = bytearray(report.rows)
    others: dict[tuple[int, int], bool] = defaultdict(bool)
    """(test, suite) -> whether one of the earlier attempts failed for another reason than an outage."""
    for row, (status, final, flaky) in enumerate(zip(report.statuses, report.finals, report.flaky, strict=True)):
        test = report.tests[row], report.row_suites[row]
        if not final and status == FAILED:
            others[test] |= row not in failed
        elif flaky:
            outages[row] = not others[test]
        elif final:
            outages[row] = row in failed
    return bytes(outages) if any(outages) else b""
