"""Operations on existing builds: run again, move to the top of the queue, keep, comment on, delete."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, delete, post
from msgspec import Meta

from api.builds import Commit, check_build, find_visible_build, read_build
from api.http.permissions import CAN_BUILD, CAN_WRITE, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import to_view
from commands.build_actions import CommentOnBuild, DeleteBuild, MoveBuildToTop, PinBuild, RestartBuild
from commands.scm import find_project_repository
from commands.untrusted_builds import ApproveBuild
from domain.builds import BUILD, VisibleStatus, status_of
from projections import build_groups, builds
from projections.builds import BuildRow, CommentView
from projections.results_queries import fetch_failed_node_ids, fetch_flaky_node_ids


class Restart(msgspec.Struct):
    failed_only: bool = False
    """Whether the new build runs only the tests that failed."""


class RestartedBuild(msgspec.Struct):
    id: int
    status: VisibleStatus
    restarted_from: int
    created_at: datetime


class RetriedBuild(RestartedBuild):
    test_count: int
    """Number of tests that the new build runs."""


class Approval(msgspec.Struct):
    commit_sha: Commit | None = None
    """Full id of the commit whose changes you have read. If the build is of another commit, the answer is 409."""


class ApprovedBuild(msgspec.Struct):
    id: int
    status: VisibleStatus
    commit_sha: str | None
    """Commit that the build runs. Later commits of the pull request need an approval of their own."""
    approved_by: str
    """Actor who approved the build first."""


class QueuePosition(msgspec.Struct):
    id: int
    queue_position: int
    """Position in the queue, from 1; 0 when the build no longer waits."""


class PinnedBuild(msgspec.Struct):
    id: int
    keep_forever: bool


class NewComment(msgspec.Struct):
    text: Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"\S")]


class BuildActionController(Controller):
    path = "/builds/{build_id:int}"
    tags = ["Builds"]

    @post("/restart", guards=[CAN_BUILD])
    async def restart_build(self, ctx: RequestContext, build_id: int, data: Restart | None = None) -> RestartedBuild:
        """Queues a new build of the same commit with the same configuration. If the build is external, an agent runs
        the command that the job has now.

        With `failed_only`, the new build runs only the tests that failed. The server refuses this if results of the
        build may be missing, because the new build would leave out the tests without a result (docs/agent-protocol.md).
        """
        failed_only = data is not None and data.failed_only
        async with read_build(ctx, build_id) as (connection, row):
            test_ids = tuple(await fetch_failed_node_ids(connection, build_id)) if failed_only else None
        new_id, created_at = await self._queue(ctx, row, test_ids, "failed")
        return RestartedBuild(new_id, "queued", build_id, created_at)

    @post("/retry-flaky", guards=[CAN_BUILD])
    async def retry_flaky_tests(self, ctx: RequestContext, build_id: int) -> RetriedBuild:
        """Queues a new build of the same commit that runs only those tests of this build that are flaky."""
        async with read_build(ctx, build_id) as (connection, row):
            test_ids = tuple(await fetch_flaky_node_ids(connection, build_id))
        new_id, created_at = await self._queue(ctx, row, test_ids, "flaky")
        return RetriedBuild(new_id, "queued", build_id, created_at, len(test_ids))

    @post("/approve", status_code=200, guards=[CAN_WRITE])
    async def approve_build(self, ctx: RequestContext, build_id: int, data: Approval | None = None) -> ApprovedBuild:
        """Approves a build of a pull request from a fork, so that it runs. The build gets no secrets, and runs only on
        nodes of pools whose `untrusted` is true. Read the changes first, since the build runs the commands of whoever
        wrote them, and send the `commit_sha` that you have read. Approves the other builds of the build's group too,
        since they test the same commit.
        """
        row = await find_visible_build(ctx, build_id)
        others = [] if row.group_id is None else await build_groups.fetch_unfinished(ctx.source, row.group_id)
        receipt = await ctx(ApproveBuild(build_id, data.commit_sha if data is not None else None, others))
        build = receipt.state(BUILD.at(build_id))
        assert build is not None
        return to_view(ApprovedBuild, build, id=build_id, status=status_of(build), commit_sha=build.queued.commit_sha)

    @post("/push_to_top", status_code=200, guards=[CAN_BUILD])
    async def push_build_to_top(self, ctx: RequestContext, build_id: int) -> QueuePosition:
        """Moves a queued build to the top of the queue, before all builds that are waiting now."""
        await check_build(ctx, build_id)
        await ctx(MoveBuildToTop(build_id))
        # The position is 0 if a node has got the build meanwhile.
        return QueuePosition(build_id, await builds.find_queue_position(ctx.source, build_id))

    @post("/keep-forever", status_code=200, guards=[CAN_BUILD])
    async def keep_build(self, ctx: RequestContext, build_id: int) -> PinnedBuild:
        """Marks a build to be kept: retention deletes neither the build nor its artifacts."""
        await check_build(ctx, build_id)
        await ctx(PinBuild(build_id, True))
        return PinnedBuild(build_id, True)

    @delete("/keep-forever", status_code=200, guards=[CAN_BUILD])
    async def stop_keeping_build(self, ctx: RequestContext, build_id: int) -> PinnedBuild:
        """Removes the mark that keeps a build: retention may delete the build and its artifacts again."""
        await check_build(ctx, build_id)
        await ctx(PinBuild(build_id, False))
        return PinnedBuild(build_id, False)

    @post("/comment", guards=[CAN_BUILD])
    async def comment_on_build(self, ctx: RequestContext, build_id: int, data: NewComment) -> CommentView:
        """Adds a comment to a build."""
        await check_build(ctx, build_id)
        comment_id = await ctx.services.ids.draw("comments")
        receipt = await ctx(CommentOnBuild(build_id, comment_id, data.text, ctx.user.user_id))
        return CommentView(comment_id, build_id, data.text, ctx.user.email, receipt.at)

    @delete(status_code=204, guards=[PROJECT_ADMINS])
    async def delete_build(self, ctx: RequestContext, build_id: int) -> None:
        """Deletes a finished build for good, with its results, artifacts and log. Answers 409 if the status of its
        build group, or of the original build and its restarts, would become better without this build. In that case,
        first restart the build, or delete the other builds that have a better status.
        """
        row = await find_visible_build(ctx, build_id)
        if row.group_id is None:
            ids = await build_groups.fetch_restart_ids(ctx.source, build_id)
        else:
            ids = await build_groups.fetch_ids(ctx.source, row.group_id)
        await ctx(DeleteBuild(build_id, others=[other_id for other_id in ids if other_id != build_id]))

    @staticmethod
    async def _queue(
        ctx: RequestContext, source: BuildRow, test_ids: tuple[str, ...] | None, which: str
    ) -> tuple[int, datetime]:
        new_id = await ctx.services.ids.draw("builds")
        repository = await find_project_repository(ctx.log, source.project_id)
        receipt = await ctx(
            RestartBuild(new_id, source.id, source.job_id, test_ids, which, ctx.user.is_admin, repository)
        )
        return new_id, receipt.at
