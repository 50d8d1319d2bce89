"""Users, as admins manage them."""

from typing import Any

from litestar import Controller, Request, delete

from api.http.permissions import User
from api.http.request_context import RequestContext
from commands.users import DeleteUser
from domain.core.errors import Forbidden


class UserController(Controller):
    path = "/users"
    tags = ["Users"]

    @delete("/{user_id:int}")
    async def delete_user(self, request: Request[User, Any, Any], ctx: RequestContext, user_id: int) -> None:
        """Deletes the account for good: name, address, credentials. Sessions and API tokens end at once."""
        if not request.user.is_admin:
            raise Forbidden("Only admins delete users.")
        await ctx(DeleteUser(user_id, request.user.user_id))
