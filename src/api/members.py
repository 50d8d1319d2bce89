"""Members of a project, and their access to it."""

import msgspec
from litestar import Controller, Response, delete, get, post, put

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS, Level
from api.http.request_context import RequestContext
from api.http.types import Email
from api.projects import find_visible_project
from commands.projects import AdmitMember, RemoveMember
from domain.core.errors import NotFound
from projections import auth
from projections.auth import MemberView


class NewMember(msgspec.Struct):
    email: Email
    """Email address of the user."""
    access: Level


class MemberChanges(msgspec.Struct):
    access: Level


class MemberController(Controller):
    path = "/projects/{project_id:int}/members"
    tags = ["Projects"]

    @get(guards=[CAN_READ])
    async def list_members(self, ctx: RequestContext, project_id: int, paged: Paged) -> Response[list[MemberView]]:
        """Returns a page of a project's members, ordered by user id."""
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            found = await auth.fetch_members(connection, project_id, **paged.window)
        return paginate(ctx.request, paged, found)

    @post(guards=[PROJECT_ADMINS])
    async def add_member(self, ctx: RequestContext, project_id: int, data: NewMember) -> MemberView:
        """Makes a user a member of the project. If the user is a member already, changes their access. Only for the
        project's admins.
        """
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            user = await auth.find_by_email(connection, data.email)
        if user is None:
            raise NotFound(f"No user has the address {data.email}; an admin invites them by POST /api/v3/users.")
        return await admit(ctx, project_id, user.id, data.access)

    @put("/{user_id:int}", guards=[PROJECT_ADMINS])
    async def update_member(
        self, ctx: RequestContext, project_id: int, user_id: int, data: MemberChanges
    ) -> MemberView:
        """Changes the access of a member. Only for the project's admins."""
        async with ctx.reading():
            await find_visible_project(ctx, project_id)
            await find_member(ctx, project_id, user_id)
        return await admit(ctx, project_id, user_id, data.access)

    @delete("/{user_id:int}", guards=[PROJECT_ADMINS])
    async def remove_member(self, ctx: RequestContext, project_id: int, user_id: int) -> None:
        """Removes a member from the project. Only for the project's admins."""
        await find_visible_project(ctx, project_id)
        await ctx(RemoveMember(project_id, user_id))


async def admit(ctx: RequestContext, project_id: int, user_id: int, access: Level) -> MemberView:
    await ctx(AdmitMember(project_id, user_id, access))
    return await find_member(ctx, project_id, user_id)


async def find_member(ctx: RequestContext, project_id: int, user_id: int) -> MemberView:
    member = await ctx.find_row(lambda source: auth.find_member(source, project_id, user_id))
    if member is None:
        raise NotFound(f"User {user_id} is no member of project {project_id}.")
    return member
