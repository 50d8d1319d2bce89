"""Groups of builds: the builds that one start of a job with a matrix queued, and the restarts of these builds.

The id of a group is the id of its first build. For each combination, the newest build that runs all tests counts for
the status of the group. All builds of a group test the same commit.
"""

from collections.abc import Collection, Iterable
from typing import ClassVar

import msgspec

from domain.builds import AnyBuild, VisibleStatus, status_of
from domain.core.data_keys import build_key
from domain.core.events import Category, Event
from domain.results import commit_number

WORST_FIRST: tuple[VisibleStatus, ...] = ("failed", "aborted", "running", "queued", "passed")


def find_worst(statuses: Collection[VisibleStatus]) -> VisibleStatus:
    """Returns the status of a group: the worst of `statuses`, which are the statuses of the builds that count. Raises
    ValueError if `statuses` is empty.
    """
    return min(statuses, key=WORST_FIRST.index)


def find_counting_statuses(builds: Iterable[AnyBuild]) -> list[VisibleStatus]:
    """Returns the statuses of the builds that count: for each combination, the newest build that runs all tests. Leaves
    out deleted builds.
    """
    newest: dict[tuple[tuple[str, str], ...], VisibleStatus] = {}
    for build in sorted(builds, key=lambda build: build.build_id):
        status = status_of(build)
        if status != "deleted" and build.queued.test_ids is None:
            newest[tuple(sorted(build.queued.matrix.items()))] = status
    return list(newest.values())


class BuildGroupCommitChosen(Event, frozen=True):
    """A build of the group was the first to check out a commit, or the first after the build that had done so was
    deleted. The other builds of the group test this commit too, even if their branch has moved on.
    """

    name: ClassVar[str] = "build_group.commit_chosen"
    sealed: ClassVar[tuple[str, ...]] = ("commit_sha",)
    group_id: int
    build_id: int
    """The build that checked out the commit."""
    job_id: int
    project_id: int
    commit_sha: str | None = None
    commit_number: int = 0
    """`domain.results.commit_number` of the commit. It is not sealed, so that the commit binds the group even after the
    build was deleted. 0 in older events.
    """

    @property
    def stream(self) -> str:
        return f"build_group-{self.group_id}"

    @property
    def data_key(self) -> str | None:
        return build_key(self.project_id, self.job_id, self.build_id)


class ChosenCommit(msgspec.Struct, frozen=True):
    """The commit that the builds of a group test. `commit_sha` is None until a build has checked out a commit. It is
    None again after that build was deleted, until another build has checked out the same commit.
    """

    commit_sha: str | None = None
    commit_number: int | None = None
    """`domain.results.commit_number` of the commit; None until a build has checked out a commit. 0 if the commit is
    unknown, since an older server has not stored the number, and the build was deleted.
    """


def evolve(state: ChosenCommit, event: Event) -> ChosenCommit:
    if not isinstance(event, BuildGroupCommitChosen):
        return state
    return ChosenCommit(event.commit_sha, event.commit_number or commit_number(event.commit_sha or ""))


BUILD_GROUP = Category("build_group", ChosenCommit(), evolve)
EVENTS = (BuildGroupCommitChosen,)
