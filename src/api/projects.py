"""Projects: they contain jobs and node pools, and users are their members."""

import re
import unicodedata
from datetime import datetime
from secrets import token_hex
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.http.idempotency import SHOWN_ONCE
from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, DEVELOPERS, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import Id, Name, changes_in, fields_of, to_view
from commands.pools import DeletePool
from commands.projects import (
    CloseProject,
    CreateProject,
    DeleteProject,
    RotateWebhookSecret,
    UpdateProject,
    unknown_scm_endpoint,
)
from domain.core.errors import Conflict, Unavailable
from domain.scm import SCM_ENDPOINT
from projections import artifacts, jobs, pools, projects
from projections.projects import ProjectRow
from store.crypto.secrets import new_token


class NewProject(msgspec.Struct):
    name: Name
    description: Annotated[str, Meta(max_length=10_000)] = ""
    scm_endpoint_id: Id | None = None


class ProjectChanges(msgspec.Struct):
    name: Name | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=10_000)] | UnsetType = UNSET
    scm_endpoint_id: Id | UnsetType | None = UNSET
    """Id of the SCM endpoint whose repository is used by those jobs of the project that name no repository; null for
    none.
    """
    retention_days: Annotated[int, Meta(ge=0, le=36_500)] | UnsetType = UNSET
    """Days after which finished builds are deleted, unless they are kept forever; 0 keeps builds of any age."""
    retention_builds: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET
    """Number of each job's newest finished builds that are kept; 0 keeps all."""


class ProjectItem(msgspec.Struct):
    id: int
    name: str
    slug: str
    jobs_count: int


class CreatedProject(msgspec.Struct):
    id: int
    name: str
    slug: str
    webhook_secret: str


class ProjectDetail(msgspec.Struct):
    id: int
    name: str
    slug: str
    description: str
    scm_endpoint_id: int | None
    jobs_count: int
    last_build_at: datetime | None
    """Time at which the last build was queued; null before the first build."""
    created_at: datetime
    webhook_url: str
    """URL to enter in a hook at the source code host. The host sends its reports about changes to this URL."""
    retention_days: int
    """Days after which finished builds are deleted; 0 keeps builds of any age."""
    retention_builds: int
    """Number of each job's newest finished builds that are kept; 0 keeps all."""
    artifact_bytes: int
    """Bytes of all artifacts of the project. Each artifact counts as at least 4,096 bytes."""
    artifact_quota: int
    """Largest number of bytes that all artifacts of the project may have together. An upload that would exceed this
    limit is refused with 413.
    """


class NewSecret(msgspec.Struct):
    webhook_secret: str


class ProjectController(Controller):
    path = "/projects"
    tags = ["Projects"]

    @get(guards=[CAN_READ])
    async def list_projects(self, ctx: RequestContext, paged: Paged) -> Response[list[ProjectItem]]:
        """Returns a page of the projects that the caller sees, ordered by id. Admins see all projects; other users see
        the projects that they are members of.
        """
        found = await projects.fetch_visible(ctx.source, ctx.user.projects, **paged.window)
        return paginate(ctx.request, paged, [to_view(ProjectItem, row) for row in found])

    @post(opt=SHOWN_ONCE, guards=[DEVELOPERS])
    async def create_project(self, ctx: RequestContext, data: NewProject) -> CreatedProject:
        """Creates a project and makes the caller its admin. Only this answer shows `webhook_secret`."""
        await must_be_attachable(ctx, data.scm_endpoint_id)
        project_id = await ctx.services.ids.draw("projects")
        secret = new_token("wh_sec_")
        secrets = ctx.services.secrets
        base = make_slug(data.name)
        # Another project may be called like the second one, too: `Mobile App 7` before project 7 is `Mobile App`.
        numbered = f"{base or 'project'}-{project_id}"
        candidates = [base or numbered, numbered, f"{numbered}-{token_hex(4)}"]
        receipt = await ctx(
            CreateProject(
                project_id=project_id,
                creator_id=ctx.user.user_id,
                slugs=tuple((slug, secrets.claim("slug", slug)) for slug in candidates),
                sealed_webhook_secret=secrets.seal(secret),
                **fields_of(data, name="title"),
            )
        )
        created = next(item.event for item in receipt.events if item.event.name == "project.created")
        return CreatedProject(project_id, data.name, getattr(created, "slug", base), secret)

    @get("/{project_id:int}", guards=[CAN_READ])
    async def get_project(self, ctx: RequestContext, project_id: int) -> ProjectDetail:
        """Returns a project."""
        return await show_project(ctx, project_id)

    @put("/{project_id:int}", guards=[PROJECT_ADMINS])
    async def update_project(self, ctx: RequestContext, project_id: int, data: ProjectChanges) -> ProjectDetail:
        """Changes a project. Fields that are left out stay unchanged."""
        await find_visible_project(ctx, project_id)
        await must_be_attachable(ctx, None if data.scm_endpoint_id is UNSET else data.scm_endpoint_id)
        await ctx(UpdateProject(project_id, **changes_in(data, name="title")))
        return await show_project(ctx, project_id)

    @post("/{project_id:int}/rotate-webhook-secret", status_code=200, opt=SHOWN_ONCE, guards=[PROJECT_ADMINS])
    async def rotate_webhook_secret(self, ctx: RequestContext, project_id: int) -> NewSecret:
        """Gives a project a new webhook secret, which only this answer shows. The server refuses the old secret from
        now on.
        """
        await find_visible_project(ctx, project_id)
        secret = new_token("wh_sec_")
        await ctx(RotateWebhookSecret(project_id, ctx.services.secrets.seal(secret)))
        return NewSecret(secret)

    @delete("/{project_id:int}", guards=[PROJECT_ADMINS])
    async def delete_project(self, ctx: RequestContext, project_id: int) -> None:
        """Deletes a project for good, with its jobs, their builds and all their data. Aborts queued and running builds.
        Answers 409 while builds of other projects are queued or running in node pools of this project.
        """
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            guests = await pools.count_guest_builds(connection, project_id)
        if guests:
            what = "1 build of another project is" if guests == 1 else f"{guests} builds of other projects are"
            raise Conflict(f"{what} queued or running in node pools of this project; wait for them or stop them.")
        await ctx(CloseProject(project_id))
        # Refuse if the read models have not caught up: the lists of jobs and pools to delete would be incomplete.
        if not await ctx.wait_for_head():
            raise Unavailable(f"Project {project_id} takes nothing new now, but its contents are not listed yet.")
        async with ctx.reading() as connection:
            job_ids = await jobs.fetch_ids(connection, project_id)
            pool_ids = await pools.fetch_ids(connection, project_id)
            nodes = {pool_id: await pools.fetch_node_ids(connection, pool_id) for pool_id in pool_ids}
        for pool_id, node_ids in nodes.items():
            await ctx(DeletePool(pool_id, node_ids))
        await ctx(DeleteProject(project_id, job_ids))


async def find_visible_project(ctx: RequestContext, project_id: int) -> ProjectRow:
    """Returns the project. Raises NotFound if the user cannot see the project, and Forbidden if the user's access is
    lower than the route requires.
    """
    await ctx.must_access(project_id)
    return await ctx.find(projects.find, "project", project_id)


async def must_be_attachable(ctx: RequestContext, scm_endpoint_id: int | None) -> None:
    """Raises Invalid if the SCM endpoint does not exist, or if the user is not an admin of the project that owns it:
    builds of another project would otherwise get the endpoint's token. Does nothing if the id is None.
    """
    if scm_endpoint_id is None:
        return
    endpoint = await ctx.log.load_state(SCM_ENDPOINT.at(scm_endpoint_id))
    if endpoint is None or endpoint.deleted or not ctx.user.may("admin", endpoint.project_id):
        raise unknown_scm_endpoint(scm_endpoint_id)


async def show_project(ctx: RequestContext, project_id: int) -> ProjectDetail:
    row = await find_visible_project(ctx, project_id)
    return to_view(
        ProjectDetail,
        row,
        webhook_url=f"{ctx.services.base_url}/webhook/proj/{row.id}",
        artifact_bytes=await artifacts.fetch_usage(ctx.source, project_id),
        artifact_quota=ctx.services.artifact_quota,
    )


def make_slug(name: str) -> str:
    """Returns a slug for a name: `mobile-app` for `Mobile App`. Returns an empty text if no character of the name can
    be used.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60]
