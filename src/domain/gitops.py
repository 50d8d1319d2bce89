"""GitOps: jobs of a project that a file in its repository describes. A sync makes the jobs match the file."""

from datetime import datetime
from typing import ClassVar

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import UNSTAMPED, Category, Event
from domain.scm import ScmEndpoint
from domain.triggers import RepositoryChange, find_repository_path, may_be_repository

FILE_NAME = ".testhide.yml"
"""Path of the file in the repository."""
DEFAULT_BRANCH = "main"
"""Branch that a project follows until a sync chooses another one."""


class GitopsEvent(Event, frozen=True):
    project_id: int

    @property
    def stream(self) -> str:
        return f"gitops-{self.project_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class GitopsSynced(GitopsEvent, frozen=True):
    """A sync made the jobs match the file at `commit`. The events that changed the jobs were appended together with
    this event.
    """

    name: ClassVar[str] = "gitops.synced"
    sealed: ClassVar[tuple[str, ...]] = ("branch", "commit", "jobs")
    branch: str = ""
    """Branch that the project follows from now on."""
    commit: str = ""
    jobs: dict[str, int] = {}
    """Name -> id, for each job that the file describes."""
    jobs_created: int = 0
    jobs_updated: int = 0
    jobs_removed: int = 0
    disabled: list[int] = []
    """Ids of the jobs that this sync or an earlier one has disabled because the file no longer describes them."""


class GitopsSyncFailed(GitopsEvent, frozen=True):
    """A sync that a push had caused failed, and changed nothing."""

    name: ClassVar[str] = "gitops.sync_failed"
    sealed: ClassVar[tuple[str, ...]] = ("branch", "commit", "problem")
    branch: str = ""
    commit: str | None = None
    """Commit of the push; None if the host did not say."""
    problem: str = ""
    """Why the sync failed: the mistakes in the file with their line numbers, or sentences about another problem."""


class SyncedPipelines(msgspec.Struct, frozen=True):
    """State of a project's GitOps stream: the last successful sync, and why a later sync failed."""

    branch: str = DEFAULT_BRANCH
    commit: str | None = None
    """Commit of the last successful sync; None before the first."""
    synced_at: datetime = UNSTAMPED
    jobs: dict[str, int] = {}
    disabled: list[int] = []
    problem: str | None = None
    """Why the latest sync failed; None if it succeeded."""
    failed_at: datetime = UNSTAMPED


def evolve(state: SyncedPipelines, event: Event) -> SyncedPipelines:
    match event:
        case GitopsSynced():
            return SyncedPipelines(event.branch, event.commit, event.at, event.jobs, event.disabled)
        case GitopsSyncFailed():
            return msgspec.structs.replace(state, problem=event.problem, failed_at=event.at)
        case _:
            return state


def asks_for_sync(change: RepositoryChange, synced: SyncedPipelines, endpoint: ScmEndpoint | None) -> bool:
    """Returns whether the server must sync because of this change: a push that may have changed `.testhide.yml` on the
    branch that the project follows. Always False for a project without an SCM endpoint (None).
    """
    return (
        endpoint is not None
        and not endpoint.deleted
        and (change.kind, change.branch, change.deleted) == ("push", synced.branch, False)
        and (change.paths is None or FILE_NAME in change.paths or not change.fast_forward)
        and may_be_repository(find_repository_path(endpoint.repo), change.repository)
    )


GITOPS = Category[SyncedPipelines]("gitops", SyncedPipelines(), evolve)
EVENTS = (GitopsSynced, GitopsSyncFailed)
