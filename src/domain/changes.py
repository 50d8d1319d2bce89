"""Changes of repositories that were reported to the server, by the hook of a host or by `git-notify`."""

from collections.abc import Mapping
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
