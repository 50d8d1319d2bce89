"""Commands on jobs: create, import, update, configure, delete."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.errors import Conflict, Forbidden, Invalid, NotFound
from domain.core.events import AnyStream, Event, changes_of
from domain.jobs import (
    DEFAULT_TIMEOUT_MINUTES,
    JOB,
    CheckoutOptions,
    Clearable,
    Configuration,
    DependencyCache,
    Job,
    JobConfigured,
    JobCreated,
    JobDeleted,
    JobTriggersChanged,
    JobUpdated,
    QuarantineMode,
    ShellName,
    merge_secrets,
)
from domain.matrix import Matrix
from domain.pools import POOL, Pool
from domain.projects import PROJECT, Project
from domain.templates import TEMPLATE, Template
from domain.triggers import Triggers


@dataclass(frozen=True)
class CreateJob(Command):
    job_id: int
    project_id: int
    title: str
    node_pool_id: int | None = None
    timeout_minutes: int = DEFAULT_TIMEOUT_MINUTES
    max_parallel: int = 1
    pipeline_template_id: int | None = None
    repository: str | None = None
    default_branch: str = "main"
    required_tags: Sequence[str] = ()
    pool_labels: Mapping[str, str] = field(default_factory=dict)
    quarantine_mode: QuarantineMode = "run"
    borrower_id: int | None = None
    """Id of the user who attaches the template; None for an admin, who may attach any template."""

    def reads(self) -> Sequence[AnyStream]:
        return JOB.at(self.job_id), PROJECT.at(self.project_id), *_named(self.node_pool_id, self.pipeline_template_id)

    def decide(
        self, job: Job | None, project: Project | None, pool: Pool | None, template: Template | None
    ) -> Iterable[Event]:
        if job is not None:
            return
        must_be_open(project, self.project_id)
        must_serve(self.node_pool_id, pool, self.project_id)
        _must_exist(self.pipeline_template_id, template)
        _must_lend(template, self.borrower_id)
        _must_route_one_way(self.node_pool_id, self.pool_labels)
        yield self.event(JobCreated)


@dataclass(frozen=True)
class ImportJob(CreateJob):
    """Creates a job with its whole configuration, which another server exported."""

    enabled: bool = True
    configuration: Configuration = field(default_factory=Configuration)
    triggers: Triggers = field(default_factory=Triggers)

    def decide(
        self, job: Job | None, project: Project | None, pool: Pool | None, template: Template | None
    ) -> Iterable[Event]:
        for created in super().decide(job, project, pool, template):
            yield created
            if not self.enabled:
                yield JobUpdated(job_id=self.job_id, project_id=self.project_id, enabled=False)
            if self.configuration != Configuration():
                yield self.event(JobConfigured)
            if self.triggers != Triggers():
                yield self.event(JobTriggersChanged)


@dataclass(frozen=True)
class UpdateJob(Command):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it."""

    job_id: int
    title: str | None = None
    enabled: bool | None = None
    node_pool_id: int | None = None
    timeout_minutes: int | None = None
    max_parallel: int | None = None
    pipeline_template_id: int | None = None
    repository: str | None = None
    default_branch: str | None = None
    required_tags: Sequence[str] | None = None
    pool_labels: Mapping[str, str] | None = None
    quarantine_mode: QuarantineMode | None = None
    managed: bool | None = None
    borrower_id: int | None = None
    """Id of the user who attaches the template; None for an admin, who may attach any template."""
    cleared: tuple[Clearable, ...] = ()

    def reads(self) -> Sequence[AnyStream]:
        return JOB.at(self.job_id), *_named(self.node_pool_id, self.pipeline_template_id)

    def decide(self, job: Job | None, pool: Pool | None, template: Template | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        must_serve(self.node_pool_id, pool, job.project_id)
        _must_exist(self.pipeline_template_id, template)
        _must_lend(template, self.borrower_id)
        for updated in self.update(JobUpdated, job, project_id=job.project_id):
            if self.managed is not False and changes_of(updated).keys() - {"enabled"}:
                must_be_free(job)
            after = msgspec.structs.replace(job, **changes_of(updated))
            _must_route_one_way(after.node_pool_id, after.pool_labels)
            yield updated


@dataclass(frozen=True)
class ConfigureJob(Command, of=JOB):
    """Replaces the configuration of a job, except its secrets. Each entry of `secrets` adds or replaces the secret of
    its name, or removes this secret if the value is None. The values of secrets are already encrypted.
    """

    job_id: int
    command: str
    setup: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[str] = ()
    secrets: Mapping[str, bytes | None] = field(default_factory=dict)
    shell: ShellName | None = None
    checkout: CheckoutOptions | None = None
    caches: Sequence[DependencyCache] = ()
    matrix: Matrix | None = None
    kept_secrets: Sequence[str] = ()
    """Names of secrets that the job must already have. If it lacks one of them, `decide` raises Invalid."""

    def decide(self, job: Job | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        for name in self.kept_secrets:
            if name not in job.configuration.secrets:
                raise Invalid.field(f"secrets.{name[:50]}", "is no secret of this job: send its value, by name")
        configuration = Configuration(
            command=self.command,
            setup=list(self.setup),
            env=dict(self.env),
            artifacts=list(self.artifacts),
            secrets=merge_secrets(self.secrets, job.configuration.secrets),
            shell=self.shell,
            checkout=self.checkout,
            caches=list(self.caches),
            needed_secrets=job.configuration.needed_secrets if job.managed else [],
            matrix=self.matrix,
        )
        if msgspec.structs.replace(configuration, secrets=job.configuration.secrets) != job.configuration:
            must_be_free(job)
        if configuration != job.configuration:
            yield JobConfigured(job_id=self.job_id, project_id=job.project_id, configuration=configuration)


@dataclass(frozen=True)
class DeleteJob(Command):
    job_id: int
    dependents: Sequence[int] = ()
    """Ids of jobs that may need this job. If one of them still does, `decide` raises Conflict."""

    def reads(self) -> Sequence[AnyStream]:
        return [JOB.at(job_id) for job_id in (self.job_id, *self.dependents)]

    def decide(self, job: Job | None, *others: Job | None) -> Iterable[Event]:
        if job is None:
            raise NotFound(f"There is no job {self.job_id}.")
        for other in others:
            if other is not None and not other.deleted and self.job_id in other.triggers.needs:
                raise Conflict(
                    f"Job {other.job_id} needs job {self.job_id}: first take that out of its `needs`, by PUT"
                    f" /api/v3/jobs/{other.job_id}/triggers or in the file of its repository."
                )
        if not job.deleted:
            yield JobDeleted(job_id=self.job_id, project_id=job.project_id)


def must_be_free(job: Job) -> None:
    """Raises Conflict for a managed job, which a file describes: the next sync would undo the change."""
    if job.managed:
        raise Conflict(
            f"Job {job.job_id} is managed by the file .testhide.yml of its repository: change that file, or take the"
            f' job from it by PUT /api/v3/jobs/{job.job_id} {{"managed": false}}. Without that, only `enabled` and the'
            " values of secrets can be changed here."
        )


def _named(pool_id: int | None, template_id: int | None) -> tuple[AnyStream, AnyStream]:
    return POOL.at(pool_id or 0), TEMPLATE.at(template_id or 0)


def must_serve(pool_id: int | None, pool: Pool | None, project_id: int) -> None:
    """Raises Invalid if the project may not use the pool."""
    # A pool of another project gets the same answer as an unknown one: callers may not learn that it exists.
    if pool_id is not None and (pool is None or not pool.serves(project_id)):
        raise Invalid.field("node_pool_id", f"there is no node pool {pool_id} that project {project_id} may use")


def _must_exist(template_id: int | None, template: Template | None) -> None:
    if template_id is not None and (template is None or template.deleted):
        raise Invalid.field("pipeline_template_id", f"there is no pipeline template {template_id}")


def _must_lend(template: Template | None, borrower_id: int | None) -> None:
    """Raises Forbidden if the template has secrets and another user than `borrower_id` created it, since builds of the
    job could print these secrets. Admins, for whom `borrower_id` is None, may attach any template.
    """
    if template is not None and template.configuration.secrets and borrower_id not in (None, template.creator_id):
        raise Forbidden(
            f"Template {template.template_id} has secrets, which your job could read; ask its creator or an admin to"
            " attach it."
        )


def _must_route_one_way(pool_id: int | None, labels: Mapping[str, str]) -> None:
    if pool_id is not None and labels:
        raise Invalid.field(
            "pool_labels", "are instead of node_pool_id: set either node_pool_id to null or pool_labels to {}"
        )
