"""What follows the log: how far each reaction is, and what it failed to do."""

from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, get

from api.http.permissions import User
from api.http.request_context import RequestContext
from store.tables.reactions import ReactionStanding, fetch_standings


class ReactionController(Controller):
    path = "/reactions"
    tags = ["Reactions"]

    @get("")
    async def list_reactions(self, request: Request[User, Any, Any], ctx: RequestContext) -> Sequence[ReactionStanding]:
        """Every reaction. What an error says is for admins."""
        async with ctx.reading() as connection:
            found = await fetch_standings(connection)
        if not request.user.is_admin:
            for standing in found:
                standing.errors = []
        return found
