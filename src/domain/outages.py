"""Outages: runs of a test that failed because the machine, the network or another system failed, as their messages say.

An outage says little about the test, so the test's health leaves it out. But a test that cannot reach its server, since
a commit changed the port, fails with the same words. So outages count if they are frequent.
"""

from collections.abc import Sequence

import msgspec

from domain.run_histories import NotableRun
from domain.test_health import LEFT_OUT, OUTAGE

FREQUENT = 3
"""Least number of outages among WITHIN consecutive runs of a test that makes these outages frequent. Frequent outages
count as failures of the test. A long outage makes the test fail in many runs in a row. Such failures are taken for
broken code, so they do not make the test flaky.
"""
WITHIN = 10
"""Number of consecutive runs of a test in which outages are counted. Their number is compared with FREQUENT."""


def count_frequent(runs: Sequence[NotableRun]) -> Sequence[NotableRun]:
    """Returns `runs`, the notable runs of a test case ordered by number, without the flag OUTAGE on frequent outages.
    So frequent outages count for the health of the test, and other outages do not.
    """
    outages = [index for index, run in enumerate(runs) if run.flags & LEFT_OUT == OUTAGE]
    frequent: set[int] = set()
    for start in range(len(outages) - FREQUENT + 1):
        near = outages[start : start + FREQUENT]
        if runs[near[-1]].number - runs[near[0]].number < WITHIN:
            frequent.update(near)
    if not frequent:
        return runs
    return [
        msgspec.structs.replace(run, flags=run.flags & ~OUTAGE) if index in frequent else run
        for index, run in enumerate(runs)
    ]
