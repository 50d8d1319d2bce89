"""Groups of builds: all that one start of a job with a matrix has queued, and their restarts.

The id of a group is that of its first build. Of each combination, the newest build that runs all tests counts.
"""

from collections.abc import Collection

from domain.builds import VisibleStatus

WORST_FIRST: tuple[VisibleStatus, ...] = ("failed", "aborted", "running", "queued", "passed")


def find_worst(statuses: Collection[VisibleStatus]) -> VisibleStatus:
    """Returns the status of a group whose counting builds have these statuses, of which there is at least one."""
    return min(statuses, key=WORST_FIRST.index)
