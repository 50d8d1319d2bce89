"""Outages: runs of a test that failed since the machine, the network or another system failed, as their messages say.

An outage says little about the test, so it is left out of its health. But a test that cannot reach its server since a
commit changed the port fails with the same words. So outages count if they are frequent.
"""

from collections.abc import Sequence

import msgspec

from domain.run_histories import NotableRun
from domain.test_health import LEFT_OUT, OUTAGE

FREQUENT, WITHIN = 3, 10
"""Number of outages of a test, within a number of its runs in a row, from which on they count as failures of the test.
Of an outage that lasts longer, the failures are in a row: these are taken for broken code, and do not make the test
flaky.
"""


def count_frequent(runs: Sequence[NotableRun]) -> Sequence[NotableRun]:
    """Returns the notable runs of a test case, ordered by number, with the flag OUTAGE only at those that are left
    out.
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
