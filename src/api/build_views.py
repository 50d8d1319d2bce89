"""Who sees a build, and pages of them."""

from typing import Literal

import msgspec

from api.http.permissions import User
from api.http.request_context import RequestContext
from domain.core.errors import NotFound
from projections import builds
from projections.builds import BuildRow
from projections.builds_views import BuildItem


class BuildPage(msgspec.Struct):
    total: int
    results: list[BuildItem]


async def visible_build(
    user: User, ctx: RequestContext, build_id: int, level: Literal["read", "write", "admin"] = "read"
) -> BuildRow:
    """Raises NotFound for a build that does not exist or lies in a project that the caller cannot see."""
    async with ctx.reading() as connection:
        row = await builds.find(connection, build_id)
    if row is None and not ctx.is_past and await ctx.services.waiter.wait(await ctx.services.log.read_head()):
        # It may only not have been shown yet: the read models were behind when it was started.
        async with ctx.reading() as connection:
            row = await builds.find(connection, build_id)
    if row is None:
        raise NotFound(f"There is no build {build_id}.")
    user.must(level, row.project_id, f"build {build_id}")
    return row
