"""Exports jobs as bundles, and imports bundles on another server or into another project.

A bundle can be used elsewhere, because it contains names of pools and secrets instead of ids and values.
"""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, post
from msgspec import Meta

from api.http.body_limits import LARGE_BYTES
from api.http.permissions import CAN_READ, CAN_WRITE, User
from api.http.request_context import RequestContext
from api.http.types import Id, Name, fields_of, to_view
from api.jobs import find_visible_job
from api.templates import Command, Description, may_lend_secrets
from commands.configurations import (
    Artifacts,
    Branch,
    BuildOptions,
    Labels,
    Minutes,
    Parallel,
    Repository,
    SetupLine,
    Tags,
    Variables,
    check_variables,
)
from commands.jobs import ImportJob
from commands.matrix_values import check_matrix
from commands.trigger_values import MAX_NEEDS, NewTriggers, check_triggers, show_time_tables
from commands.validation import convert_body
from commands.value_checks import ValueCheck
from domain.core.errors import FieldError, Invalid
from domain.jobs import DEFAULT_TIMEOUT_MINUTES, Configuration, QuarantineMode
from domain.matrix import Matrix
from domain.templates import overlaid
from domain.triggers import Triggers
from projections import jobs, pools, templates, triggers
from projections.templates import NamedTemplate, TemplateView

VERSION: Literal["1"] = "1"
IMPORTED = " (imported)"
MAX_NAME = 200


class JobPart(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    enabled: bool = True
    node_pool: Name | None = None
    """Name of the node pool."""
    pool_labels: Labels = {}
    required_tags: Tags = []
    timeout_minutes: Minutes = DEFAULT_TIMEOUT_MINUTES
    max_parallel: Parallel = 1
    repository: Repository | None = None
    default_branch: Branch = "main"
    quarantine_mode: QuarantineMode = "run"


class ConfigurationPart(BuildOptions, forbid_unknown_fields=True):
    setup: Annotated[list[SetupLine], Meta(max_length=100)] = []
    command: Command = ""
    env: Variables = {}
    artifacts: Artifacts = []
    secrets: Annotated[list[str], Meta(max_length=500), ValueCheck(check_variables)] = []
    """Names of the secrets."""

    @property
    def stored(self) -> Configuration:
        return to_view(Configuration, self, secrets={})


class JobConfigurationPart(ConfigurationPart, forbid_unknown_fields=True):
    matrix: Matrix | None = None


class TemplatePart(ConfigurationPart, forbid_unknown_fields=True, kw_only=True):
    name: Name
    description: Description = ""


class TriggerPart(NewTriggers, forbid_unknown_fields=True):
    needs: Annotated[list[Name], Meta(max_length=MAX_NEEDS)] = []
    """Names of the jobs that the job needs."""


class Bundle(msgspec.Struct, forbid_unknown_fields=True):
    export_version: Literal["1"]
    """Version of the bundle's format."""
    job: JobPart
    """Settings of the job, without ids."""
    configuration: JobConfigurationPart
    pipeline_template: TemplatePart | None = None
    """Pipeline template that the job uses; null if it uses none."""
    triggers: TriggerPart = msgspec.field(default_factory=TriggerPart)
    """Triggers of the job. Bundles of older servers have none."""


class ImportRequest(msgspec.Struct):
    project_id: Id
    bundle: dict[str, Any]
    """Bundle that the export returned."""


class ImportedJob(msgspec.Struct):
    id: int
    name: str
    project_id: int
    pipeline_template_id: int | None
    """Id of the pipeline template that the job uses; null if it uses none."""
    warnings: list[str]
    """Sentences about the parts of the job that differ from the exported job, and what to do about each."""


class JobBundleController(Controller):
    path = "/jobs"
    tags = ["Jobs"]

    @post("/{job_id:int}/export", status_code=200, guards=[CAN_READ])
    async def export_job(self, ctx: RequestContext, job_id: int) -> Bundle:
        """Returns the job, its configuration, its triggers and its template as a bundle, without values of secrets."""
        async with ctx.reading() as connection:
            job = await find_visible_job(ctx, job_id)
            configuration = await jobs.find_configuration(connection, job_id)
            pool = None if job.node_pool_id is None else await pools.find(connection, job.node_pool_id)
            template = (
                None if job.pipeline_template_id is None else await templates.find(connection, job.pipeline_template_id)
            )
            found = await triggers.find(connection, job_id)
            given = Triggers() if found is None else found.settings
            names = await jobs.fetch_names(connection, given.needs)
        return Bundle(
            export_version=VERSION,
            job=to_view(JobPart, job, node_pool=None if pool is None else pool.name),
            configuration=JobConfigurationPart()
            if configuration is None
            else to_view(JobConfigurationPart, configuration),
            pipeline_template=None if template is None else to_view(TemplatePart, template),
            triggers=to_view(
                TriggerPart,
                given,
                cron=show_time_tables(given),
                needs=[names[need] for need in given.needs if need in names],
            ),
        )

    @post("/import", guards=[CAN_WRITE], request_max_body_size=LARGE_BYTES)
    async def import_job(self, ctx: RequestContext, data: ImportRequest) -> ImportedJob:
        """Creates a job from a bundle. An existing pipeline template with the name of the bundle's template is used if
        it has the same content, or if the caller or an admin created it. Otherwise, the content of the bundle's
        template becomes a part of the job's configuration.
        """
        await ctx.must_access(data.project_id)
        bundle = read(data.bundle)
        job = bundle.job
        warnings: list[str] = []
        async with ctx.reading() as connection:
            part = bundle.pipeline_template
            named = [] if part is None else await templates.fetch_named(connection, part.name, ctx.user.user_id)
            pool_id = (
                None
                if job.node_pool is None
                else await pools.find_id_by_name(connection, data.project_id, job.node_pool)
            )
            needed = await jobs.fetch_named(connection, data.project_id, bundle.triggers.needs)
        if job.node_pool is not None and pool_id is None:
            warnings.append(
                f"Project {data.project_id} has no node pool {job.node_pool!r}: the job takes any that it may use."
            )
        configuration, secrets = bundle.configuration.stored, set(bundle.configuration.secrets)
        template = None if part is None else choose_template(part, named, ctx.user)
        if part is not None and template is None:
            configuration = overlaid(part.stored, configuration)
            secrets |= set(part.secrets)
            why = "is another one here, which somebody else created" if named else "is not on this server"
            warnings.append(
                f"Pipeline template {part.name!r} {why}: the job's own configuration has the contents of the bundle's."
            )
        elif part is not None and template is not None and not is_same(part, template):
            warnings.append(
                f"Pipeline template {template.id} ({part.name!r}) of this server has other contents than the bundle's:"
                " the job uses the one of this server."
            )
        job_id = await ctx.services.ids.draw("jobs")
        ids = {name: needed_id for needed_id, name in sorted(needed.items(), reverse=True)}
        if missing := [name for name in bundle.triggers.needs if name not in ids]:
            # Without the job that it needs, it would start too early.
            warnings.append(
                f"Project {data.project_id} has no job {missing[0]!r}, which the job needs: the job has no triggers;"
                f" set them by PUT /api/v3/jobs/{job_id}/triggers."
            )
            stored = Triggers()
        else:
            needs = {"needs": [ids[name] for name in bundle.triggers.needs]}
            stored = msgspec.convert(msgspec.to_builtins(bundle.triggers) | needs, Triggers)
        if secrets:
            warnings.append(
                f"Bundles hold no values of secrets: set {', '.join(sorted(secrets))} by"
                f" PUT /api/v3/jobs/{job_id}/configuration."
            )
        name = job.name[: MAX_NAME - len(IMPORTED)] + IMPORTED
        fields = {field: value for field, value in fields_of(job).items() if field not in ("name", "node_pool")}
        fields["required_tags"] = list(dict.fromkeys(job.required_tags))
        await ctx(
            ImportJob(
                job_id=job_id,
                project_id=data.project_id,
                title=name,
                node_pool_id=pool_id,
                pipeline_template_id=None if template is None else template.id,
                configuration=configuration,
                triggers=stored,
                borrower_id=ctx.user.borrower_id,
                **fields,
            )
        )
        return ImportedJob(job_id, name, data.project_id, None if template is None else template.id, warnings)


def choose_template(part: TemplatePart, named: list[NamedTemplate], user: User) -> NamedTemplate | None:
    """Returns the one of `named` that the job uses in place of the bundle's template; None if the job may use none of
    them. `named` are the templates with the same name as the bundle's template.

    A template runs with the job's secrets. So the job uses another user's template only if its content is that of the
    bundle's template, or if that user is an admin. Whoever changes the template later needs write access to the job's
    project.
    """
    usable = [template for template in named if may_lend_secrets(user, template)]
    same = [template for template in usable if is_same(part, template)]
    trusted = [template for template in usable if template.is_by_admin or template.creator_id == user.user_id]
    return next(iter(same + trusted), None)


def is_same(part: TemplatePart, template: TemplateView) -> bool:
    """Returns whether the bundle's template and `template` have the same effect on builds."""
    return part.stored == to_view(Configuration, template, secrets={}) and set(part.secrets) == set(template.secrets)


def read(given: dict[str, Any]) -> Bundle:
    """Returns the parsed bundle. Raises Invalid if the bundle has an unknown version or is not valid."""
    version = given.get("export_version")
    if version != VERSION:
        raise Invalid.field(
            "bundle.export_version",
            f'must be "{VERSION}", the version that this server reads;'
            " send what POST /api/v3/jobs/{id}/export answers",
        )
    bundle: Bundle = convert_body(given, Bundle, "bundle")
    configuration = bundle.configuration
    check_matrix(configuration.matrix, {*configuration.env, *configuration.secrets}, "bundle.configuration.")
    try:
        check_triggers(bundle.triggers)
    except Invalid as refused:
        errors = [FieldError(f"bundle.triggers.{field}", message) for field, message in refused.errors]
        raise Invalid.fields(errors) from None
    if bundle.job.node_pool is not None and bundle.job.pool_labels:
        raise Invalid.field("bundle.job.pool_labels", "are instead of node_pool; leave one of them out")
    return bundle
