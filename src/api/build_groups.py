"""Shows build groups: the builds that one start of a job with a matrix queued, with one status for all of them."""

from datetime import datetime

import msgspec
from litestar import Controller, get

from api.http.permissions import CAN_READ
from api.http.request_context import RequestContext
from domain.build_groups import find_worst
from domain.builds import VisibleStatus
from domain.core.errors import NotFound
from projections import builds
from projections.build_views import BuildItem, item
from projections.builds import BuildRow


class BuildGroup(msgspec.Struct):
    id: int
    """Id of the first build that was queued."""
    job_id: int
    project_id: int
    status: VisibleStatus
    """Worst status of the builds. From the worst to the best: failed, aborted, running, queued, passed."""
    created_at: datetime
    finished_at: datetime | None
    """Time at which the last build ended; null while a build has not ended."""
    builds: list[BuildItem]
    """For each combination of the matrix, the newest build that runs all tests."""


class BuildGroupController(Controller):
    path = "/build-groups"
    tags = ["Builds"]

    @get("/{group_id:int}", guards=[CAN_READ])
    async def get_build_group(self, ctx: RequestContext, group_id: int) -> BuildGroup:
        """Returns the builds that one start of a job with a matrix has queued, and their status as a whole. The restart
        of a build, if it runs all tests, replaces that build.
        """
        rows = await builds.fetch_counting(ctx.source, group_id)
        if not rows:
            await ctx.services.wait_for_missing()
            rows = await builds.fetch_counting(ctx.source, group_id)
        if not rows:
            raise NotFound(f"There is no build group {group_id}.")
        await ctx.must_access(rows[0].project_id, f"build group {group_id}")
        return to_group(group_id, rows)


def to_group(group_id: int, rows: list[BuildRow]) -> BuildGroup:
    items = [item(row) for row in rows]
    ended = [row.finished_at for row in rows if row.finished_at is not None]
    return BuildGroup(
        id=group_id,
        job_id=rows[0].job_id,
        project_id=rows[0].project_id,
        status=find_worst([shown.status for shown in items]),
        created_at=min(row.created_at for row in rows),
        finished_at=max(ended) if len(ended) == len(rows) else None,
        builds=items,
    )
