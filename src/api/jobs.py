"""Jobs and their configurations."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.di import Provide
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.http.as_of import as_of
from api.http.configurations import Branch, NewConfiguration, Repository, check_repository
from api.http.permissions import Level, User
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, Paged, next_page, provide_paged, to_view
from api.nodes import Tags
from api.pools import Label, check_labels
from api.templates import check_secrets_lendable
from commands.jobs import ConfigureJob, CreateJob, DeleteJob, UpdateJob
from domain.core.errors import NotFound
from domain.jobs import JOB, Clearable, QuarantineMode
from projections import jobs
from projections.jobs import JobDetail, JobRow
from projections.time_travel.historical_reads import CONFIGURATION_HISTORY, JOB_HISTORY

Minutes = Annotated[int, Meta(ge=1, le=10_080)]
Parallel = Annotated[int, Meta(ge=1, le=1_000)]


class NewJob(msgspec.Struct):
    name: Name
    project_id: Id
    node_pool_id: Id | None = None
    timeout_minutes: Minutes = 60
    max_parallel: Parallel = 1
    pipeline_template_id: Id | None = None
    repository: Repository | None = None
    default_branch: Branch = "main"
    required_tags: Tags = []
    """Tags that a node must have, all of them."""
    pool_labels: dict[Label, Label] = {}
    """Instead of `node_pool_id`: builds run in any pool that has all of these labels."""
    quarantine_mode: QuarantineMode = "run"


class JobChanges(msgspec.Struct):
    """Fields that are left out stay as they are; null removes the pool, the template or the repository."""

    name: Name | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    node_pool_id: Id | UnsetType | None = UNSET
    timeout_minutes: Minutes | UnsetType = UNSET
    max_parallel: Parallel | UnsetType = UNSET
    pipeline_template_id: Id | UnsetType | None = UNSET
    repository: Repository | UnsetType | None = UNSET
    default_branch: Branch | UnsetType = UNSET
    required_tags: Tags | UnsetType = UNSET
    pool_labels: dict[Label, Label] | UnsetType = UNSET
    quarantine_mode: QuarantineMode | UnsetType = UNSET


class JobItem(msgspec.Struct):
    id: int
    name: str
    project_id: int
    node_pool_id: int | None
    enabled: bool
    timeout_minutes: int
    max_parallel: int


class ConfigurationView(msgspec.Struct):
    setup: list[str]
    command: str
    env: dict[str, str]
    artifacts: list[str]
    secrets: list[str]
    """Names of the secrets; values are never returned."""
    updated_at: datetime | None


class Configured(msgspec.Struct):
    job_id: int
    updated_at: datetime


class JobController(Controller):
    path = "/jobs"
    tags = ["Jobs"]

    @get(dependencies={"paged": Provide(provide_paged, sync_to_thread=False)})
    async def list_jobs(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by project")] = None,
        search: Annotated[str | None, Parameter(max_length=200, description="Filter by job name")] = None,
        enabled: Annotated[bool | None, Parameter(description="Filter by enabled state")] = None,
    ) -> Response[list[JobItem]]:
        """The jobs of the caller's projects, by id."""
        async with ctx.reading() as connection:
            found = await jobs.fetch_page(
                connection,
                projects=request.user.projects,
                project_id=project_id,
                search=search or None,
                enabled=enabled,
                after=paged.after,
                offset=paged.offset,
                limit=paged.limit,
            )
        return Response(
            [to_view(JobItem, row) for row in found], headers=next_page(request, paged, [row.id for row in found])
        )

    @post()
    async def create(self, request: Request[User, Any, Any], ctx: RequestContext, data: NewJob) -> JobDetail:
        request.user.must("write", data.project_id, f"project {data.project_id}")
        if data.repository is not None:
            check_repository(data.repository)
        check_labels("pool_labels", data.pool_labels)
        await check_secrets_lendable(request.user, ctx, data.pipeline_template_id)
        required_tags = list(dict.fromkeys(data.required_tags))
        job_id = await ctx.services.ids.draw("jobs")
        receipt = await ctx(
            CreateJob(
                job_id=job_id,
                project_id=data.project_id,
                title=data.name,
                node_pool_id=data.node_pool_id,
                timeout_minutes=data.timeout_minutes,
                max_parallel=data.max_parallel,
                pipeline_template_id=data.pipeline_template_id,
                repository=data.repository,
                default_branch=data.default_branch,
                required_tags=required_tags,
                pool_labels=data.pool_labels,
                quarantine_mode=data.quarantine_mode,
            )
        )
        job = receipt.existing(JOB.at(job_id))
        return to_view(JobDetail, job, id=job_id, name=job.title, created_at=receipt.at)

    @get("/{job_id:int}", **as_of(JOB_HISTORY, "job_id"))
    async def get_job(self, request: Request[User, Any, Any], ctx: RequestContext, job_id: int) -> JobDetail:
        return await find_visible_detail(request.user, ctx, job_id)

    @put("/{job_id:int}")
    async def update(
        self, request: Request[User, Any, Any], ctx: RequestContext, job_id: int, data: JobChanges
    ) -> JobDetail:
        """Changes a job. Builds that are already queued keep what they were queued with."""
        await find_visible_job(request.user, ctx, job_id, "write")
        if isinstance(data.repository, str):
            check_repository(data.repository)
        if not isinstance(data.pool_labels, UnsetType):
            check_labels("pool_labels", data.pool_labels)
        if isinstance(data.pipeline_template_id, int):
            await check_secrets_lendable(request.user, ctx, data.pipeline_template_id)
        given: Mapping[str, Any] = {
            "title": data.name,
            "enabled": data.enabled,
            "node_pool_id": data.node_pool_id,
            "timeout_minutes": data.timeout_minutes,
            "max_parallel": data.max_parallel,
            "pipeline_template_id": data.pipeline_template_id,
            "repository": data.repository,
            "default_branch": data.default_branch,
            "required_tags": UNSET
            if isinstance(data.required_tags, UnsetType)
            else list(dict.fromkeys(data.required_tags)),
            "pool_labels": data.pool_labels,
            "quarantine_mode": data.quarantine_mode,
        }
        clearable: tuple[Clearable, ...] = ("node_pool_id", "pipeline_template_id", "repository")
        await ctx(
            UpdateJob(
                job_id,
                **{name: value for name, value in given.items() if value is not UNSET},
                cleared=tuple(name for name in clearable if given[name] is None),
            )
        )
        return await find_visible_detail(request.user, ctx, job_id)

    @delete("/{job_id:int}")
    async def delete_job(self, request: Request[User, Any, Any], ctx: RequestContext, job_id: int) -> None:
        """Deletes the job with all its builds; queued and running ones are aborted."""
        await find_visible_job(request.user, ctx, job_id, "admin")
        await ctx(DeleteJob(job_id))

    @get("/{job_id:int}/configuration", **as_of(CONFIGURATION_HISTORY, "job_id"))
    async def get_configuration(
        self, request: Request[User, Any, Any], ctx: RequestContext, job_id: int
    ) -> ConfigurationView:
        async with ctx.reading() as connection:
            await find_visible_job(request.user, ctx, job_id)
            found = await jobs.find_configuration(connection, job_id)
        if found is None:
            return ConfigurationView([], "", {}, [], [], None)
        return to_view(ConfigurationView, found)

    @put("/{job_id:int}/configuration", opt={"representation": ConfigurationView})
    async def configure(
        self, request: Request[User, Any, Any], ctx: RequestContext, job_id: int, data: NewConfiguration
    ) -> Configured:
        """Replaces the configuration, used from the next build on. Secrets that are not sent stay; null removes one."""
        job = await find_visible_job(request.user, ctx, job_id, "write")
        data.check()
        seal = ctx.services.secrets.seal
        receipt = await ctx(
            ConfigureJob(
                job_id,
                command=data.command,
                setup=data.setup,
                env=data.env,
                artifacts=data.artifacts,
                secrets={name: None if value is None else seal(value) for name, value in data.secret_values.items()},
            )
        )
        if receipt.events:
            return Configured(job_id, receipt.at)
        async with ctx.reading() as connection:
            stored = await jobs.find_configuration(connection, job_id)
        return Configured(job_id, job.created_at if stored is None else stored.updated_at)


async def find_visible_job(user: User, ctx: RequestContext, job_id: int, level: Level = "read") -> JobRow:
    """Returns the job. Raises NotFound for a job that the user cannot see, Forbidden for too little access."""
    async with ctx.reading() as connection:
        found = await jobs.find(connection, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id}.")
    user.must(level, found.project_id, f"job {job_id}")
    return found


async def find_visible_detail(user: User, ctx: RequestContext, job_id: int) -> JobDetail:
    async with ctx.reading() as connection:
        found = await jobs.find_detail(connection, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id}.")
    user.must("read", found.project_id, f"job {job_id}")
    return found
