"""What is asked of jobs, and what follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.handler import Decision
from domain.base import AnyStream, Event
from domain.errors import Invalid, NotFound
from domain.jobs import (
    JOB,
    UPDATABLE,
    Clearable,
    Configuration,
    Job,
    JobConfigured,
    JobCreated,
    JobDeleted,
    JobUpdated,
)
from domain.pools import POOL, Pool
from domain.projects import PROJECT, Project


@dataclass(frozen=True)
class CreateJob(Decision):
    job_id: int
    project_id: int
    title: str
    node_pool_id: int | None = None
    timeout_minutes: int = 60
    max_parallel: int = 1
    repository: str | None = None
    default_branch: str = "main"

    def reads(self) -> Sequence[AnyStream]:
        return (JOB.at(self.job_id), PROJECT.at(self.project_id), *_pools(self.node_pool_id))

    def decide(self, job: Job | None, project: Project | None, pool: Pool | None = None) -> Iterable[Event]:
        if job is not None:
            return
        if project is None:
            raise NotFound(f"There is no project {self.project_id}.")
        _must_serve(self.node_pool_id, pool, self.project_id)
        yield JobCreated(
            job_id=self.job_id,
            project_id=self.project_id,
            title=self.title,
            node_pool_id=self.node_pool_id,
            timeout_minutes=self.timeout_minutes,
            max_parallel=self.max_parallel,
            repository=self.repository,
            default_branch=self.default_branch,
        )


@dataclass(frozen=True)
class UpdateJob(Decision):
    """None leaves a field as it is; `cleared` names those to set back to None."""

    job_id: int
    title: str | None = None
    enabled: bool | None = None
    node_pool_id: int | None = None
    timeout_minutes: int | None = None
    max_parallel: int | None = None
    repository: str | None = None
    default_branch: str | None = None
    cleared: tuple[Clearable, ...] = ()

    def reads(self) -> Sequence[AnyStream]:
        return (JOB.at(self.job_id), *_pools(self.node_pool_id))

    def decide(self, job: Job | None, pool: Pool | None = None) -> Iterable[Event]:
        job = _existing(job, self.job_id)
        _must_serve(self.node_pool_id, pool, job.project_id)
        changed: dict[str, Any] = {
            name: value
            for name in UPDATABLE
            if name not in self.cleared and (value := getattr(self, name)) not in (None, getattr(job, name))
        }
        cleared: tuple[Clearable, ...] = tuple(name for name in self.cleared if getattr(job, name) is not None)
        if changed or cleared:
            yield JobUpdated(job_id=self.job_id, project_id=job.project_id, cleared=cleared, **changed)


@dataclass(frozen=True)
class ConfigureJob(Decision):
    """Replaces the whole configuration. `secrets` are sealed values; None keeps the stored one."""

    job_id: int
    command: str
    setup: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[str] = ()
    secrets: Mapping[str, bytes | None] = field(default_factory=dict)

    def reads(self) -> Sequence[AnyStream]:
        return (JOB.at(self.job_id),)

    def decide(self, job: Job | None) -> Iterable[Event]:
        job = _existing(job, self.job_id)
        stored = job.configuration.secrets
        if unknown := sorted(name for name, value in self.secrets.items() if value is None and name not in stored):
            raise Invalid.field(f"secrets.{unknown[0]}", "has no stored value that could be kept; give one")
        configuration = Configuration(
            command=self.command,
            setup=list(self.setup),
            env=dict(self.env),
            artifacts=list(self.artifacts),
            secrets={name: stored[name] if value is None else value for name, value in self.secrets.items()},
        )
        if configuration != job.configuration:
            yield JobConfigured(job_id=self.job_id, project_id=job.project_id, configuration=configuration)


@dataclass(frozen=True)
class DeleteJob(Decision):
    job_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (JOB.at(self.job_id),)

    def decide(self, job: Job | None) -> Iterable[Event]:
        if job is None:
            raise NotFound(f"There is no job {self.job_id}.")
        if not job.deleted:
            yield JobDeleted(job_id=self.job_id, project_id=job.project_id)


def _existing(job: Job | None, job_id: int) -> Job:
    if job is None or job.deleted:
        raise NotFound(f"There is no job {job_id}.")
    return job


def _pools(pool_id: int | None) -> Sequence[AnyStream]:
    return () if pool_id is None else (POOL.at(pool_id),)


def _must_serve(pool_id: int | None, pool: Pool | None, project_id: int) -> None:
    # A pool of another project is not told apart from none: that it exists is not the caller's to know.
    if pool_id is not None and (pool is None or not (pool.shared or pool.project_id == project_id)):
        raise Invalid.field("node_pool_id", f"there is no node pool {pool_id} that project {project_id} may use")
