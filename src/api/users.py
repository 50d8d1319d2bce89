"""Users: what they may do, and the deletion of their accounts."""

import msgspec
from litestar import Controller, delete, get

from api.auth import Permissions, permissions
from api.http.as_of import as_of
from api.http.permissions import User, admins_only
from api.http.request_context import RequestContext
from commands.users import DeleteUser
from domain.core.errors import Forbidden, NotFound
from projections import auth, projects
from projections.time_travel.historical_reads import PERMISSIONS_HISTORY


class UserPermissions(Permissions):
    user_id: int


class UserController(Controller):
    path = "/users/{user_id:int}"
    tags = ["Users"]

    @get("/permissions", **as_of(PERMISSIONS_HISTORY, "user_id"))
    async def get_user_permissions(self, ctx: RequestContext, user_id: int) -> UserPermissions:
        """Returns what a user may do in each project. For admins, and for the users themselves."""
        if not ctx.user.is_admin and ctx.user.user_id != user_id:
            raise Forbidden("Only admins see what others may; your own permissions are at GET /api/v3/me.")
        async with ctx.reading() as connection:
            row = await auth.find(connection, user_id)
            if row is None:
                raise NotFound(f"There is no user {user_id}.")
            access = await projects.fetch_access(connection, user_id)
            user = User(user_id, row.email, row.role, access)
            visible = user.projects
            if visible is None:
                visible = [project.id for project in await projects.fetch_visible(connection, None)]
        return UserPermissions(**msgspec.structs.asdict(permissions(user, visible)), user_id=user_id)

    @delete(guards=[admins_only("delete users")])
    async def delete_user(self, ctx: RequestContext, user_id: int) -> None:
        """Deletes the account for good: name, address, credentials. Its sessions and API tokens end."""
        await ctx(DeleteUser(user_id, ctx.user.user_id))
