"""Projects."""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.di import Provide
from msgspec import UNSET, Meta, UnsetType

from api.http.idempotency import SHOWN_ONCE
from api.http.permissions import User, developers_only
from api.http.request_context import RequestContext
from api.http.types import Id, Paged, next_page, provide_paged, to_view
from commands.pools import DeletePool
from commands.projects import CloseProject, CreateProject, DeleteProject, RotateWebhookSecret, UpdateProject
from domain.core.errors import Conflict, NotFound, Unavailable
from projections import jobs, pools, projects
from projections.projects import ProjectRow
from store.crypto.secrets import new_token

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]


class NewProject(msgspec.Struct):
    name: Name
    description: Annotated[str, Meta(max_length=10_000)] = ""
    scm_endpoint_id: Id | None = None


class ProjectChanges(msgspec.Struct):
    name: Name | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=10_000)] | UnsetType = UNSET
    scm_endpoint_id: Id | UnsetType = UNSET
    retention_days: Annotated[int, Meta(ge=0, le=36_500)] | UnsetType = UNSET
    """Days after which finished builds are deleted unless they are kept forever; 0 keeps them at any age."""
    retention_builds: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET
    """How many finished builds of each job are kept, the newest; 0 keeps all."""


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
    created_at: datetime
    webhook_url: str
    retention_days: int
    retention_builds: int


class NewSecret(msgspec.Struct):
    webhook_secret: str


class ProjectController(Controller):
    path = "/projects"
    tags = ["Projects"]

    @get(dependencies={"paged": Provide(provide_paged, sync_to_thread=False)})
    async def list_projects(
        self, request: Request[User, Any, Any], ctx: RequestContext, paged: Paged
    ) -> Response[list[ProjectItem]]:
        """The projects that the caller is a member of, by id."""
        member = None if request.user.is_admin else request.user.user_id
        async with ctx.reading() as connection:
            found = await projects.fetch_visible(
                connection, member, after=paged.after, offset=paged.offset, limit=paged.limit
            )
        items = [to_view(ProjectItem, row) for row in found]
        return Response(items, headers=next_page(request, paged, [row.id for row in found]))

    @post(opt=SHOWN_ONCE, guards=[developers_only])
    async def create(self, request: Request[User, Any, Any], ctx: RequestContext, data: NewProject) -> CreatedProject:
        """Creates a project with the caller as its admin. `webhook_secret` is shown only here."""
        project_id = await ctx.services.ids.draw("projects")
        secret = new_token("wh_sec_")
        secrets = ctx.services.secrets
        base = make_slug(data.name)
        candidates = [base or f"project-{project_id}", f"{base or 'project'}-{project_id}"]
        receipt = await ctx(
            CreateProject(
                project_id=project_id,
                title=data.name,
                creator_id=request.user.user_id,
                slugs=tuple((slug, secrets.claim("slug", slug)) for slug in candidates),
                sealed_webhook_secret=secrets.seal(secret),
                description=data.description,
                scm_endpoint_id=data.scm_endpoint_id,
            )
        )
        created = next(item.event for item in receipt.events if item.event.name == "project.created")
        return CreatedProject(project_id, data.name, getattr(created, "slug", base), secret)

    @get("/{project_id:int}")
    async def get_project(
        self, request: Request[User, Any, Any], ctx: RequestContext, project_id: int
    ) -> ProjectDetail:
        return to_detail(await find_visible_project(request.user, ctx, project_id), ctx.services.base_url)

    @put("/{project_id:int}")
    async def update(
        self, request: Request[User, Any, Any], ctx: RequestContext, project_id: int, data: ProjectChanges
    ) -> ProjectDetail:
        request.user.must("admin", project_id, f"project {project_id}")
        await find_visible_project(request.user, ctx, project_id)
        changes: dict[str, Any] = {
            "title": data.name,
            "description": data.description,
            "scm_endpoint_id": data.scm_endpoint_id,
            "retention_days": data.retention_days,
            "retention_builds": data.retention_builds,
        }
        await ctx(UpdateProject(project_id, **{name: value for name, value in changes.items() if value is not UNSET}))
        return to_detail(await find_visible_project(request.user, ctx, project_id), ctx.services.base_url)

    @post("/{project_id:int}/rotate-webhook-secret", status_code=200, opt=SHOWN_ONCE)
    async def rotate_webhook_secret(
        self, request: Request[User, Any, Any], ctx: RequestContext, project_id: int
    ) -> NewSecret:
        """Replaces the secret: the old one is refused from now on, the new one is shown only here."""
        request.user.must("admin", project_id, f"project {project_id}")
        await find_visible_project(request.user, ctx, project_id)
        secret = new_token("wh_sec_")
        await ctx(RotateWebhookSecret(project_id, ctx.services.secrets.seal(secret)))
        return NewSecret(secret)

    @delete("/{project_id:int}")
    async def delete_project(self, request: Request[User, Any, Any], ctx: RequestContext, project_id: int) -> None:
        """Deletes the project for good, with its jobs, their builds and all their data; queued and running builds are
        aborted. Refused while builds of other projects are queued or running in its node pools.
        """
        request.user.must("admin", project_id, f"project {project_id}")
        async with ctx.reading() as connection:
            await find_visible_project(request.user, ctx, project_id)
            guests = await pools.count_guest_builds(connection, project_id)
        if guests:
            what = "1 build of another project is" if guests == 1 else f"{guests} builds of other projects are"
            raise Conflict(f"{what} queued or running in node pools of this project; wait for them or stop them.")
        await ctx(CloseProject(project_id))
        # Refuses if the read models have not caught up: the lists of what to delete would lack jobs or pools.
        if not await ctx.wait_for_head():
            raise Unavailable(f"Project {project_id} takes nothing new now, but its contents are not listed yet.")
        async with ctx.reading() as connection:
            job_ids = await jobs.fetch_ids(connection, project_id)
            pool_ids = await pools.fetch_ids(connection, project_id)
            nodes = {pool_id: await pools.fetch_node_ids(connection, pool_id) for pool_id in pool_ids}
        for pool_id, node_ids in nodes.items():
            await ctx(DeletePool(pool_id, node_ids))
        await ctx(DeleteProject(project_id, job_ids))


async def find_visible_project(user: User, ctx: RequestContext, project_id: int) -> ProjectRow:
    """Returns the project. Raises NotFound for one that does not exist or that the user cannot see."""
    user.must("read", project_id, f"project {project_id}")
    async with ctx.reading() as connection:
        found = await projects.find(connection, project_id)
    if found is None:
        raise NotFound(f"There is no project {project_id}.")
    return found


def to_detail(row: ProjectRow, base_url: str) -> ProjectDetail:
    return to_view(ProjectDetail, row, webhook_url=f"{base_url}/webhook/proj/{row.id}")


def make_slug(name: str) -> str:
    """Returns `mobile-app` for `Mobile App`; an empty text when the name has no usable character."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60]
