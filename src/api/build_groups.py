"""Shows, aborts and restarts build groups: the builds that one start of a job with a matrix queued."""

from datetime import datetime

import msgspec
from litestar import Controller, get, post

from api.http.permissions import CAN_BUILD, CAN_READ
from api.http.request_context import RequestContext
from commands.build_actions import RestartBuild
from commands.build_groups import AbortGroup, RestartGroup
from commands.scm import find_project_repository
from domain.build_groups import find_worst
from domain.builds import VisibleStatus
from domain.core.errors import Conflict, NotFound
from projections import build_groups
from projections.build_views import BuildItem, item
from projections.builds import BuildRow


class BuildGroup(msgspec.Struct):
    id: int
    """Id of the group. It is the id of the build that was queued first."""
    job_id: int
    project_id: int
    status: VisibleStatus
    """Worst status of the builds. From the worst to the best: failed, aborted, running, queued, passed."""
    commit_sha: str | None
    """Commit that all builds of the group test; null while none has checked one out."""
    created_at: datetime
    finished_at: datetime | None
    """Time at which the last build ended; null while a build has not ended."""
    builds: list[BuildItem]
    """For each combination of the matrix, the newest build that runs all tests."""


class GroupRestart(msgspec.Struct):
    failed_only: bool = False
    """Whether to restart only the builds that failed or were aborted, instead of all builds."""


class BuildGroupController(Controller):
    path = "/build-groups/{group_id:int}"
    tags = ["Builds"]

    @get(guards=[CAN_READ])
    async def get_build_group(self, ctx: RequestContext, group_id: int) -> BuildGroup:
        """Returns the builds that one start of a job with a matrix has queued, and their common status. A restart that
        runs all tests of a build replaces that build.
        """
        return to_group(group_id, await find_visible_group(ctx, group_id))

    @post("/abort", status_code=200, guards=[CAN_BUILD])
    async def abort_build_group(self, ctx: RequestContext, group_id: int) -> BuildGroup:
        """Aborts all queued and running builds of a group. Returns the group as it is afterwards."""
        await find_visible_group(ctx, group_id)
        build_ids = await build_groups.fetch_unfinished(ctx.source, group_id)
        logs = {build_id: await ctx.services.build_logs.fetch_ends(build_id) for build_id in build_ids}
        await ctx(AbortGroup(group_id, build_ids, logs))
        return to_group(group_id, await build_groups.fetch_counting(ctx.source, group_id))

    @post("/restart", guards=[CAN_BUILD])
    async def restart_build_group(
        self, ctx: RequestContext, group_id: int, data: GroupRestart | None = None
    ) -> BuildGroup:
        """Restarts all builds of a group or, with `failed_only`, those that failed or were aborted. The builds to
        restart must have ended. The new builds run all tests and replace the older ones. Returns the group with the new
        builds.
        """
        rows = await find_visible_group(ctx, group_id)
        if data is not None and data.failed_only:
            rows = [row for row in rows if row.status in ("failed", "aborted")]
            if not rows:
                raise Conflict(f"No build of group {group_id} has failed, so there is nothing to restart.")
        first = await ctx.services.ids.draw_range("builds", len(rows))
        repository = await find_project_repository(ctx.log, rows[0].project_id)
        restarts = [
            RestartBuild(new, row.id, row.job_id, by_admin=ctx.user.is_admin, project_repository=repository)
            for new, row in enumerate(rows, first)
        ]
        claims = [ctx.services.secrets.claim("restart-of-group", str(row.id)) for row in rows]
        await ctx(RestartGroup(restarts, claims))
        return to_group(group_id, await build_groups.fetch_counting(ctx.source, group_id))


async def find_visible_group(ctx: RequestContext, group_id: int) -> list[BuildRow]:
    """Returns the builds that count for a group: for each combination, the newest build that runs all tests. Raises
    NotFound if there is no such group or the user cannot see it.
    """
    rows = await build_groups.fetch_counting(ctx.source, group_id)
    if not rows:
        await ctx.services.wait_for_missing()
        rows = await build_groups.fetch_counting(ctx.source, group_id)
    if not rows:
        raise NotFound(f"There is no build group {group_id}.")
    await ctx.must_access(rows[0].project_id, f"build group {group_id}")
    return rows


def to_group(group_id: int, rows: list[BuildRow]) -> BuildGroup:
    items = [item(row) for row in rows]
    ended = [row.finished_at for row in rows if row.finished_at is not None]
    return BuildGroup(
        id=group_id,
        job_id=rows[0].job_id,
        project_id=rows[0].project_id,
        status=find_worst([shown.status for shown in items]),
        commit_sha=next((row.commit_sha for row in rows if row.commit_sha is not None), None),
        created_at=min(row.created_at for row in rows),
        finished_at=max(ended) if len(ended) == len(rows) else None,
        builds=items,
    )
