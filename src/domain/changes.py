"""Changes of repositories that were reported to the server, by the hook of a host or by `git-notify`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event
from domain.triggers import RepositoryChange, without_paths

Reporter = Literal["github", "gitlab", "bitbucket", "git-notify"]
EVALUATION = "start_builds_of_a_change"
"""Name of the reaction that decides which jobs a change starts."""


class ChangeEvent(Event, frozen=True):
    change_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"change-{self.change_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class ChangeReceived(ChangeEvent, frozen=True):
    """A change of a repository was reported. Whether the change starts a build is decided later, for each job
    separately.
    """

    name: ClassVar[str] = "change.received"
    sealed: ClassVar[tuple[str, ...]] = ("change", "delivery_id")
    reporter: Reporter
    delivery_id: str = ""
    """Id that the host gave to its message; empty if it gave none."""
    change: RepositoryChange = RepositoryChange()


class ChangePathsDropped(ChangeEvent, frozen=True):
    """The reported paths of a change are ignored, since the push may have dropped commits that had changed other
    paths.
    """

    name: ClassVar[str] = "change.paths_dropped"
    sealed: ClassVar[tuple[str, ...]] = ("why",)
    why: str = ""


def evolve(state: ChangeReceived | None, event: Event) -> ChangeReceived | None:
    match event:
        case ChangeReceived():
            return event
        case ChangePathsDropped() if state is not None:
            return msgspec.structs.replace(state, change=without_paths(state.change, event.why))
        case _:
            return state


def find_overtaking(received: Iterable[ChangeReceived]) -> dict[int, frozenset[int]]:
    """Returns, for each late push, the ids of the changes that are newer although they were received earlier. The keys
    are the ids of the late pushes.

    Hosts do not promise an order of their messages. A push is late if its commit is the one before a push that was
    received earlier, unless the branch has gone back to this commit, or was deleted in between. Of other pushes, the
    one received later is newer.
    """
    orders: dict[tuple[int, str, str], list[ChangeReceived]] = {}
    # The `before` of all pushes so far. Few pushes are of one of these commits, so few need a search for their index.
    predecessors: set[tuple[tuple[int, str, str], str | None]] = set()
    overtaking: dict[int, frozenset[int]] = {}
    for one in sorted(received, key=lambda one: one.change_id):
        change, branch = one.change, (one.project_id, one.change.repository, one.change.branch)
        if change.kind != "push":
            continue
        order = orders.setdefault(branch, [])
        if change.deleted:
            order.clear()
        elif change.commit is not None:
            index = _find_index(order, change) if (branch, change.commit) in predecessors else len(order)
            if newer := order[index:]:
                overtaking[one.change_id] = frozenset(other.change_id for other in newer)
            order.insert(index, one)
            predecessors.add((branch, change.before))
    return overtaking


def is_newer(change_id: int, other_id: int, overtaking: Mapping[int, Collection[int]]) -> bool:
    """Returns whether a change is newer than another one of the same branch. `overtaking` is what `find_overtaking`
    returns.
    """
    if change_id > other_id:
        return other_id not in overtaking.get(change_id, ())
    return change_id in overtaking.get(other_id, ())


def _find_index(order: Sequence[ChangeReceived], change: RepositoryChange) -> int:
    """Returns the index at which a push belongs among the earlier messages about its branch, which `order` contains in
    the order of the pushes.
    """
    for index, one in enumerate(order):
        if one.change.commit == change.commit:
            break  # A commit that was reported before may be the newest again.
        if one.change.before == change.commit:
            has_gone_back = any(later.change.commit == change.before for later in order[index:])
            return len(order) if has_gone_back else index
    return len(order)


class DeferralEvent(Event, frozen=True):
    key: str
    """Key of the stream. All changes that report one commit of a pull request have the same key."""
    change_id: int
    project_id: int
    job_id: int

    @property
    def stream(self) -> str:
        return f"deferrals-{self.key}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class JobDeferred(DeferralEvent, frozen=True):
    """A change starts a job, but the job's build waits until the jobs in `needs` have passed for the change."""

    name: ClassVar[str] = "change.job_deferred"
    needs: list[int] = []


class JobLeftOut(DeferralEvent, frozen=True):
    """A change does not start a job, although the job's own triggers match it. There are two reasons: a job that it
    needs does not start, or all needed jobs have passed but the server refused the build.
    """

    name: ClassVar[str] = "change.job_left_out"
    sealed: ClassVar[tuple[str, ...]] = ("why",)
    why: str = ""


class Deferrals(msgspec.Struct, frozen=True):
    """Jobs whose builds wait until other jobs have passed for a change, and jobs that were left out."""

    needs: Mapping[int, list[int]] = MappingProxyType({})
    """Job id -> ids of the jobs that it needs, for jobs that were deferred."""
    left_out: Mapping[int, str] = MappingProxyType({})
    """Job id -> why the job was left out."""


def evolve_deferrals(state: Deferrals, event: Event) -> Deferrals:
    match event:
        case JobDeferred():
            left_out = {job_id: why for job_id, why in state.left_out.items() if job_id != event.job_id}
            return Deferrals({**state.needs, event.job_id: event.needs}, left_out)
        case JobLeftOut():
            return Deferrals(state.needs, {**state.left_out, event.job_id: event.why})
        case _:
            return state


CHANGE = Category[ChangeReceived | None]("change", None, evolve)
DEFERRALS = Category("deferrals", Deferrals(), evolve_deferrals)
EVENTS = (ChangeReceived, ChangePathsDropped, JobDeferred, JobLeftOut)
