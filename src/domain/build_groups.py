"""Groups of builds: the builds that one start of a job with a matrix queued, and the restarts of these builds.

The id of a group is the id of its first build. One build of each combination counts for the status of the group: the
newest that runs all tests.
"""

from collections.abc import Collection

from domain.builds import VisibleStatus

WORST_FIRST: tuple[VisibleStatus, ...] = ("failed", "aborted", "running", "queued", "passed")


def find_worst(statuses: Collection[VisibleStatus]) -> VisibleStatus:
    """Returns the status of a group: the worst of `statuses`, which are the statuses of the builds that count. Raises
    ValueError if `statuses` is empty.
    """
    return min(statuses, key=WORST_FIRST.index)
