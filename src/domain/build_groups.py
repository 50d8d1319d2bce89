"""Groups of builds: the builds that one start of a job with a matrix queued, and the restarts of these builds.

The id of a group is the id of its first build. For each combination, the newest build that runs all tests counts for
the status of the group. All builds of a group test the same commit.
"""

from collections.abc import Collection
from typing import ClassVar

import msgspec

from domain.builds import VisibleStatus
from domain.core.data_keys import build_key
from domain.core.events import Category, Event

WORST_FIRST: tuple[VisibleStatus, ...] = ("failed", "aborted", "running", "queued", "passed")


def find_worst(statuses: Collection[VisibleStatus]) -> VisibleStatus:
    """Returns the status of a group: the worst of `statuses`, which are the statuses of the builds that count. Raises
    ValueError if `statuses` is empty.
    """
    return min(statuses, key=WORST_FIRST.index)


class BuildGroupCommitChosen(Event, frozen=True):
    """A build of the group was the first to check out a commit. The other builds of the group test this commit too,
    even if their branch has moved on.
    """

    name: ClassVar[str] = "build_group.commit_chosen"
    sealed: ClassVar[tuple[str, ...]] = ("commit_sha",)
    group_id: int
    build_id: int
    """The build that checked out the commit."""
    job_id: int
    project_id: int
    commit_sha: str | None = None

    @property
    def stream(self) -> str:
        return f"build_group-{self.group_id}"

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class ChosenCommit(msgspec.Struct, frozen=True):
    """The commit that the builds of a group test. `commit_sha` is None until a build has checked out a commit. It is
    None again after that build was deleted.
    """

    commit_sha: str | None = None
    is_chosen: bool = False


def evolve(state: ChosenCommit, event: Event) -> ChosenCommit:
    return ChosenCommit(event.commit_sha, True) if isinstance(event, BuildGroupCommitChosen) else state


BUILD_GROUP = Category("build_group", ChosenCommit(), evolve)
EVENTS = (BuildGroupCommitChosen,)
