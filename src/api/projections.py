"""The read models: how far they are, what is being built, what they could not take."""

from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, get

from api.http.permissions import User
from api.http.request_context import RequestContext
from projections.rebuild.status import Standing, overview
from projections.registry import PROJECTIONS


class ProjectionController(Controller):
    path = "/projections"
    tags = ["Projections"]

    @get("")
    async def list_projections(self, request: Request[User, Any, Any], ctx: RequestContext) -> Sequence[Standing]:
        """Every read model, in each version that stands. What an error says is for admins."""
        head = await ctx.services.log.read_head()
        async with ctx.reading() as connection:
            found = await overview(connection, PROJECTIONS, head)
        if not request.user.is_admin:
            for standing in found:
                standing.errors = []
        return found
