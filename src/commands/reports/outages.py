"""Finds outages: results of a report that failed because the machine, the network or another system failed. A match
with a known issue, a classification rule or the statistics decides that; without a match, the words of the message do.
"""

from collections import defaultdict

from commands.reports.reading import ReportRead
from domain.failures.infrastructure_failures import MAX_LENGTH, MAX_TRACE, is_infrastructure
from domain.results import FAILED

MAX_SEARCHED = 1_000_000
"""Largest number of characters of different messages that are searched in one report, which takes 0.7 s. Failures with
further messages are not taken for outages.
"""


def find_outages(report: ReportRead) -> bytes:
    """Returns the value of `ResultsRecorded.outages` for all rows of the report, or empty bytes if it has no outage."""
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
