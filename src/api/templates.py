"""Pipeline templates: configurations that jobs share. All users can read templates, but not the values of their
secrets.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.http.configurations import seal_values
from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, DEVELOPERS, User
from api.http.request_context import RequestContext
from api.http.types import Name, changes_in, fields_of, to_view
from commands.configurations import Artifacts, BuildOptions, Caches, SecretChanges, SetupLine, Variables
from commands.templates import CreateTemplate, DeleteTemplate, UpdateTemplate
from domain.core.errors import Forbidden, Unavailable
from domain.jobs import CheckoutOptions, ShellName
from domain.templates import TEMPLATE
from projections import templates
from projections.templates import TemplateView

Description = Annotated[str, Meta(max_length=10_000)]
Command = Annotated[str, Meta(max_length=65_536)]
Setup = Annotated[list[SetupLine], Meta(max_length=100)]


class NewTemplate(BuildOptions):
    name: Name
    setup: Setup
    env: Variables
    description: Description = ""
    artifacts: Artifacts = []
    command: Command = ""
    """Command for jobs whose own configuration has none."""
    secrets: Variables = {}


class TemplateChanges(msgspec.Struct):
    """Changes of a template. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    setup: Setup | UnsetType = UNSET
    env: Variables | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    artifacts: Artifacts | UnsetType = UNSET
    shell: ShellName | UnsetType | None = UNSET
    checkout: CheckoutOptions | UnsetType | None = UNSET
    caches: Caches | UnsetType = UNSET
    command: Command | UnsetType = UNSET
    secrets: SecretChanges | UnsetType = UNSET
    """Values by name. A secret that is not sent keeps its value; null removes a secret. A list of names, as GET returns
    it, changes nothing.
    """

    @property
    def secret_values(self) -> Mapping[str, str | None] | UnsetType:
        return {} if isinstance(self.secrets, list) else self.secrets


class TemplateController(Controller):
    path = "/pipeline-templates"
    tags = ["Pipeline Templates"]

    @get(guards=[CAN_READ])
    async def list_templates(self, ctx: RequestContext, paged: Paged) -> Response[list[TemplateView]]:
        """Returns a page of all templates, ordered by id."""
        found = await templates.fetch_page(ctx.source, **paged.window)
        return paginate(ctx.request, paged, found)

    @post(guards=[DEVELOPERS])
    async def create_template(self, ctx: RequestContext, data: NewTemplate) -> TemplateView:
        """Creates a template for the configurations of jobs."""
        template_id = await ctx.services.ids.draw("templates")
        fields = fields_of(data, name="title")
        fields["secrets"] = seal_values(ctx.services.secrets, data.secrets)
        receipt = await ctx(CreateTemplate(template_id, ctx.user.user_id, **fields))
        template = receipt.existing(TEMPLATE.at(template_id))
        return to_view(
            TemplateView,
            template.configuration,
            id=template_id,
            name=template.title,
            description=template.description,
            jobs_using=0,
            secrets=sorted(template.configuration.secrets),
            created_at=receipt.at,
            updated_at=receipt.at,
            creator_id=ctx.user.user_id,
        )

    @get("/{template_id:int}", guards=[CAN_READ])
    async def get_template(self, ctx: RequestContext, template_id: int) -> TemplateView:
        """Returns a template, with the names of its secrets but without their values."""
        return await find_template(ctx, template_id)

    @put("/{template_id:int}", guards=[DEVELOPERS])
    async def update_template(self, ctx: RequestContext, template_id: int, data: TemplateChanges) -> TemplateView:
        """Changes a template. The change applies to future builds of all jobs that use the template."""
        check_ownership(ctx.user, await find_template(ctx, template_id))
        await check_write_where_used(ctx, template_id)
        changes = changes_in(data, name="title")
        changes["cleared_options"] = changes.pop("cleared", ())
        if not isinstance(data.secret_values, UnsetType):
            changes["secrets"] = seal_values(ctx.services.secrets, data.secret_values)
        await ctx(UpdateTemplate(template_id, **changes))
        return await find_template(ctx, template_id)

    @delete("/{template_id:int}", guards=[DEVELOPERS])
    async def delete_template(self, ctx: RequestContext, template_id: int) -> None:
        """Deletes a template. Answers 409 while jobs use it."""
        template = await find_template(ctx, template_id)
        check_ownership(ctx.user, template)
        await ctx(DeleteTemplate(template_id, template.jobs_using))


async def check_write_where_used(ctx: RequestContext, template_id: int) -> None:
    """Raises Forbidden if a job in a project to which the user may not write uses the template: builds of this job
    would run the changed template with the job's secrets. Raises Unavailable if the read models are behind the log.
    """
    # A job that the read models do not show yet would run the change without its project's consent.
    if not await ctx.wait_for_head():
        raise Unavailable("Which jobs use this template is not up to date; try again.")
    used_in = await templates.fetch_project_ids(ctx.source, template_id)
    if foreign := [project_id for project_id in used_in if not ctx.user.may("write", project_id)]:
        raise Forbidden(
            f"Jobs of {len(foreign)} projects that you may not write to use this template; ask an admin to change it."
        )


def may_lend_secrets(user: User, template: TemplateView) -> bool:
    """Returns whether the user may attach the template to jobs. A job's builds can read the template's secrets."""
    return not template.secrets or user.is_admin or user.user_id == template.creator_id


async def find_template(ctx: RequestContext, template_id: int) -> TemplateView:
    return await ctx.find(templates.find, "pipeline template", template_id)


def check_ownership(user: User, template: TemplateView) -> None:
    if not user.is_admin and user.user_id != template.creator_id:
        raise Forbidden("Only who made a pipeline template, or an admin, changes it; make one of your own.")
