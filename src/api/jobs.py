"""Jobs and their configurations."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, UnsetType

from api.http.as_of import as_of
from api.http.configurations import NewConfiguration, seal_values
from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, CAN_WRITE, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, changes_in, fields_of, to_view
from commands.configurations import Branch, Labels, Minutes, Parallel, Repository, Tags
from commands.jobs import ConfigureJob, CreateJob, DeleteJob, UpdateJob
from domain.core.errors import Invalid
from domain.jobs import (
    DEFAULT_TIMEOUT_MINUTES,
    JOB,
    CheckoutOptions,
    Configuration,
    DependencyCache,
    QuarantineMode,
    ShellName,
)
from domain.matrix import Matrix
from domain.templates import overlaid
from projections import jobs, templates, triggers
from projections.jobs import JobDetail, JobRow
from projections.templates import TemplateView
from projections.time_travel.historical_reads import CONFIGURATION_HISTORY, JOB_HISTORY

ValueSource = Literal["job", "template", "default"]
"""Source of a value in an effective configuration: the job, its template, or the server's default."""


class NewJob(msgspec.Struct):
    name: Name
    project_id: Id
    node_pool_id: Id | None = None
    timeout_minutes: Minutes = DEFAULT_TIMEOUT_MINUTES
    max_parallel: Parallel = 1
    pipeline_template_id: Id | None = None
    repository: Repository | None = None
    default_branch: Branch = "main"
    required_tags: Tags = []
    """Tags, all of which a node must have to run builds of the job."""
    pool_labels: Labels = {}
    """Labels, all of which a pool must have to run builds of the job. An alternative to `node_pool_id`."""
    quarantine_mode: QuarantineMode = "run"


class JobChanges(msgspec.Struct):
    """Changes of a job. Fields that are left out stay unchanged; null removes the pool, the template or the
    repository.
    """

    name: Name | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    node_pool_id: Id | UnsetType | None = UNSET
    timeout_minutes: Minutes | UnsetType = UNSET
    max_parallel: Parallel | UnsetType = UNSET
    pipeline_template_id: Id | UnsetType | None = UNSET
    repository: Repository | UnsetType | None = UNSET
    default_branch: Branch | UnsetType = UNSET
    required_tags: Tags | UnsetType = UNSET
    pool_labels: Labels | UnsetType = UNSET
    quarantine_mode: QuarantineMode | UnsetType = UNSET
    managed: bool | UnsetType = UNSET
    """Whether the file `.testhide.yml` of the repository describes the job. True lets the file take the job over; false
    takes the job from the file, which then no longer changes it.
    """


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
    """Names of the secrets. Values are never returned."""
    updated_at: datetime | None
    shell: ShellName | None = None
    checkout: CheckoutOptions | None = None
    caches: list[DependencyCache] = []
    matrix: Matrix | None = None
    sources: dict[str, ValueSource] | None = None
    """Only with `effective`: name of each value -> its source. The names of variables are `env.NAME`, those of secrets
    `secrets.NAME`.
    """


class Configured(msgspec.Struct):
    job_id: int
    updated_at: datetime


class JobController(Controller):
    path = "/jobs"
    tags = ["Jobs"]

    @get(guards=[CAN_READ])
    async def list_jobs(
        self,
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by project")] = None,
        search: Annotated[str | None, Parameter(max_length=200, description="Filter by job name")] = None,
        enabled: Annotated[bool | None, Parameter(description="Filter by enabled state")] = None,
    ) -> Response[list[JobItem]]:
        """Returns a page of the jobs of the caller's projects, ordered by id."""
        found = await jobs.fetch_page(
            ctx.source,
            projects=ctx.user.projects,
            project_id=project_id,
            search=search or None,
            enabled=enabled,
            **paged.window,
        )
        return paginate(ctx.request, paged, [to_view(JobItem, row) for row in found])

    @post(guards=[CAN_WRITE])
    async def create_job(self, ctx: RequestContext, data: NewJob) -> JobDetail:
        """Creates a job. Before its first build, give it a command, in its configuration or in its template."""
        await ctx.must_access(data.project_id)
        job_id = await ctx.services.ids.draw("jobs")
        fields: dict[str, Any] = fields_of(data, name="title") | {
            "required_tags": list(dict.fromkeys(data.required_tags))
        }
        receipt = await ctx(CreateJob(job_id=job_id, borrower_id=ctx.user.borrower_id, **fields))
        job = receipt.existing(JOB.at(job_id))
        return to_view(JobDetail, job, id=job_id, name=job.title, created_at=receipt.at)

    @get("/{job_id:int}", guards=[CAN_READ], **as_of(JOB_HISTORY, "job_id"))
    async def get_job(self, ctx: RequestContext, job_id: int) -> JobDetail:
        """Returns a job."""
        return await find_visible_detail(ctx, job_id)

    @put("/{job_id:int}", guards=[CAN_WRITE])
    async def update_job(self, ctx: RequestContext, job_id: int, data: JobChanges) -> JobDetail:
        """Changes a job. Builds that are already queued stay unchanged."""
        await find_visible_job(ctx, job_id)
        changes = changes_in(data, name="title")
        if not isinstance(data.required_tags, UnsetType):
            changes["required_tags"] = list(dict.fromkeys(data.required_tags))
        await ctx(UpdateJob(job_id, borrower_id=ctx.user.borrower_id, **changes))
        return await find_visible_detail(ctx, job_id)

    @delete("/{job_id:int}", guards=[PROJECT_ADMINS])
    async def delete_job(self, ctx: RequestContext, job_id: int) -> None:
        """Deletes the job with all its builds. First aborts its queued and running builds. Answers 409 while other jobs
        need the job.
        """
        job = await find_visible_job(ctx, job_id)
        await ctx(DeleteJob(job_id, await triggers.find_dependents(ctx.source, job.project_id, job_id)))

    @get("/{job_id:int}/configuration", guards=[CAN_READ], **as_of(CONFIGURATION_HISTORY, "job_id"))
    async def get_job_configuration(
        self,
        ctx: RequestContext,
        job_id: int,
        effective: Annotated[
            bool, Parameter(description="Complete it by the job's template and the defaults, as builds do")
        ] = False,
    ) -> ConfigurationView:
        """Returns the job's configuration. With `effective`, adds the values of the job's template and the defaults, as
        a build gets them. Shows the names of secrets, but not their values.
        """
        if effective and ctx.is_historical:
            raise Invalid.field("effective", "is not possible with `as_of`, which shows the job without its template")
        async with ctx.reading() as connection:
            job = await find_visible_job(ctx, job_id)
            found = await jobs.find_configuration(connection, job_id)
            template_id = job.pipeline_template_id if effective else None
            template = None if template_id is None else await templates.find(connection, template_id)
        configured = ConfigurationView([], "", {}, [], [], None) if found is None else to_view(ConfigurationView, found)
        return complete(configured, template) if effective else configured

    @put("/{job_id:int}/configuration", opt={"representation": ConfigurationView}, guards=[CAN_WRITE])
    async def configure_job(self, ctx: RequestContext, job_id: int, data: NewConfiguration) -> Configured:
        """Replaces the job's configuration for future builds. A secret that is left out stays; a secret that is null is
        removed.
        """
        job = await find_visible_job(ctx, job_id)
        data.check()
        sealed = seal_values(ctx.services.secrets, data.secret_values)
        fields: dict[str, Any] = fields_of(data) | {"secrets": sealed, "kept_secrets": data.kept_secrets}
        receipt = await ctx(ConfigureJob(job_id, **fields))
        if receipt.events:
            return Configured(job_id, receipt.at)
        stored = await jobs.find_configuration(ctx.source, job_id)
        return Configured(job_id, job.created_at if stored is None else stored.updated_at)


def complete(configured: ConfigurationView, template: TemplateView | None) -> ConfigurationView:
    """Returns the job's configuration as builds get it: completed with the values of its template and the defaults.
    `sources` says where each value comes from.
    """
    given: list[tuple[ValueSource, ConfigurationView | TemplateView]] = [("job", configured)]
    if template is not None:
        given.append(("template", template))
    layers = [to_view(Configuration, view, secrets=dict.fromkeys(view.secrets, b"")) for _, view in given]
    merged = overlaid(layers[-1], layers[0])
    sources: dict[str, ValueSource] = {}
    for name in ("setup", "command", "artifacts", "shell", "checkout", "caches"):
        found: list[ValueSource] = [source for source, view in given if getattr(view, name)]
        found.append("default")
        sources[name] = found[0]
    for name in ("env", "secrets"):
        for key in getattr(merged, name):
            sources[f"{name}.{key}"] = next(source for source, view in given if key in getattr(view, name))
    return to_view(
        ConfigurationView,
        merged,
        secrets=sorted(merged.secrets),
        updated_at=configured.updated_at,
        shell=merged.shell or "sh",
        checkout=merged.checkout or CheckoutOptions(),
        sources=sources,
    )


async def find_visible_job(ctx: RequestContext, job_id: int) -> JobRow:
    return await ctx.find_visible(jobs.find, "job", job_id)


async def find_visible_detail(ctx: RequestContext, job_id: int) -> JobDetail:
    return await ctx.find_visible(jobs.find_detail, "job", job_id)
