"""GitOps: makes the jobs of a project match the file `.testhide.yml` in its repository."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, get, post
from litestar.params import Parameter

from api.description.pipeline_schema import describe_pipeline_file
from api.http.authentication import PUBLIC
from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id
from api.projects import find_visible_project
from api.scm import OUTSIDE, reported_failures
from commands.configurations import Branch
from commands.gitops import SyncPipelines, prepare_sync
from commands.handler import Receipt
from commands.pipelines.planning import find_missing_secrets, group_changes
from commands.pipelines.yaml_nodes import InvalidFile
from domain.core.errors import Conflict, FieldError, Invalid, NotFound, Unavailable
from domain.gitops import FILE_NAME, GITOPS, SyncedPipelines
from domain.jobs import Job, JobCreated
from domain.scm import SCM_ENDPOINT
from integrations.source_ports import SourceHost, SourceNotFound
from projections import jobs, pools


class SyncRequest(msgspec.Struct):
    project_id: Id
    branch: Branch | None = None
    """Branch to read the file from; null for the branch that the project follows, which is `main` before the first
    sync. Only a project admin can give another branch; the project then follows that branch.
    """
    dry_run: bool = False
    """Whether to return the changes without making them."""


class JobChange(msgspec.Struct):
    job_id: int | None
    """Id of the job; null for a job that is not created because of `dry_run`."""
    name: str
    change: Literal["created", "updated", "removed"]
    """Kind of the change. A job that was removed from the file is disabled."""


class SyncResult(msgspec.Struct):
    synced: bool
    """Whether the jobs are now as the file describes them; false for a dry run."""
    project_id: int
    branch: str
    sha: str
    """Id of the commit from which the file was read."""
    jobs_updated: int
    """Number of existing jobs that changed."""
    jobs_created: int
    """Number of jobs that are new."""
    jobs_removed: int
    """Number of jobs that the file no longer describes. These jobs are disabled instead of deleted, so that their
    builds stay.
    """
    changes: list[JobChange]
    """Jobs that changed or, in a dry run, would change."""
    missing_secrets: dict[str, list[str]]
    """Job name -> names of its secrets that have no value yet. `PUT /jobs/{id}/configuration` sets values."""


class SyncStatus(msgspec.Struct):
    project_id: int
    branch: str
    """Branch that the project follows: the branch of the last sync."""
    sha: str | None
    """Id of the commit of the last successful sync; null before the first."""
    synced_at: datetime | None
    """Time of the last successful sync; null before the first."""
    problem: str | None
    """Error of the last sync that a push started; null if this sync or a later one succeeded. A sync that fails changes
    nothing.
    """
    failed_at: datetime | None
    """Time of the failure that `problem` describes; null without one."""


class GitopsController(Controller):
    path = "/gitops"
    tags = ["GitOps"]

    @post("/sync", status_code=200, opt=OUTSIDE, guards=[CAN_WRITE])
    async def sync_pipelines(self, ctx: RequestContext, data: SyncRequest) -> SyncResult:
        """Reads `.testhide.yml` from the project's repository. Creates, updates and disables jobs until they match the
        file. If one of the changes is refused, changes no job.
        """
        await ctx.must_access(data.project_id)
        synced = await ctx.log.load_state(GITOPS.at(data.project_id))
        branch = data.branch or synced.branch
        if branch != synced.branch:
            await ctx.must_access(data.project_id, level="admin")
        with reported_failures():
            source = await open_repository(ctx, data.project_id)
            commit, content = await fetch_file(source, branch)
            if branch != synced.branch or synced.commit is None:
                await must_be_branch(source, branch)
        command = await prepare(ctx, data.project_id, synced, branch, commit, content, is_preview=data.dry_run)
        receipt = await ctx.services.handler.preview(command) if data.dry_run else await ctx(command)
        return to_result(data, command, receipt)

    @get("/status", guards=[CAN_READ])
    async def get_sync_status(
        self, ctx: RequestContext, project_id: Annotated[int, Parameter(ge=1, le=MAX_ID)]
    ) -> SyncStatus:
        """Returns the branch and commit of the last successful sync of a project's jobs. If a later sync failed, also
        returns its error.
        """
        await find_visible_project(ctx, project_id)
        synced = await ctx.log.load_state(GITOPS.at(project_id))
        return SyncStatus(
            project_id,
            synced.branch,
            synced.commit,
            None if synced.commit is None else synced.synced_at,
            synced.problem,
            None if synced.problem is None else synced.failed_at,
        )

    @get("/schema", opt=PUBLIC, media_type="application/schema+json")
    async def get_pipeline_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of `.testhide.yml`."""
        return describe_pipeline_file()


async def fetch_file(source: SourceHost, branch: str) -> tuple[str, bytes]:
    """Returns two values: the id of the branch's newest commit, and the contents of `.testhide.yml` in that commit.
    Raises NotFound if there is no such branch or file, and SourceFailure for any other failure of the host.
    """
    try:
        return await source.fetch_file(FILE_NAME, branch)
    except SourceNotFound as error:
        raise NotFound(f"{FILE_NAME} of branch {branch} cannot be read: {error}") from None


async def must_be_branch(source: SourceHost, name: str) -> None:
    """Raises Invalid if `name` is a tag or a commit. A project must follow a branch: no push changes a tag or a
    commit.
    """
    try:
        await source.fetch_commits(name, 1)
    except SourceNotFound:
        raise Invalid.field("branch", f"{name} is no branch of the repository; a project follows a branch") from None


async def open_repository(ctx: RequestContext, project_id: int) -> SourceHost:
    project = await find_visible_project(ctx, project_id)
    endpoint = (
        None if project.scm_endpoint_id is None else await ctx.log.load_state(SCM_ENDPOINT.at(project.scm_endpoint_id))
    )
    if endpoint is None or endpoint.deleted or not endpoint.repo:  # no `repo`: erased with the endpoint's project
        raise Conflict(
            f"Project {project_id} has no SCM endpoint to read {FILE_NAME} from: create one by POST /api/v3/scm."
        )
    return ctx.services.source_hosts.open(endpoint)


async def prepare(
    ctx: RequestContext,
    project_id: int,
    before: SyncedPipelines,
    branch: str,
    commit: str,
    content: bytes,
    *,
    is_preview: bool,
) -> SyncPipelines:
    """Returns the command that makes the project's jobs match the file. `content` is the contents of the file, and
    `before` the state after the last sync. Raises Invalid if the file has mistakes, and Unavailable if the read models
    are too far behind.
    """
    pool = ctx.services.pool
    # If the read models do not show a job yet, the sync would create a second job with the same name.
    if not await ctx.wait_for_head():
        raise Unavailable("Which jobs the project has is not up to date; try again.")
    try:
        return await prepare_sync(
            project_id,
            before,
            branch,
            commit,
            content,
            find_pool=partial(pools.find_id_by_name, pool, project_id),
            fetch_jobs=partial(jobs.fetch_named, pool, project_id),
            ids=None if is_preview else ctx.services.ids,
        )
    except InvalidFile as invalid:
        raise Invalid.fields(
            [FieldError(f"{FILE_NAME}:{fault.line}:{fault.column}", fault.message) for fault in invalid.faults]
        ) from None


def to_result(data: SyncRequest, command: SyncPipelines, receipt: Receipt) -> SyncResult:
    stored = [job for job in receipt.states_before.values() if isinstance(job, Job)]
    events = [recorded.event for recorded in receipt.events]
    names = {job.job_id: job.title for job in stored} | {
        event.job_id: event.title for event in events if isinstance(event, JobCreated)
    }
    created, updated, removed = group_changes(events)
    changes = [JobChange(None if data.dry_run else job_id, names[job_id], "created") for job_id in created]
    changes += [JobChange(job_id, names[job_id], "updated") for job_id in updated]
    changes += [JobChange(job_id, names[job_id], "removed") for job_id in removed]
    return SyncResult(
        synced=not data.dry_run,
        project_id=data.project_id,
        branch=command.branch,
        sha=command.commit,
        jobs_updated=len(updated),
        jobs_created=len(created),
        jobs_removed=len(removed),
        changes=changes,
        missing_secrets=find_missing_secrets(command.planned, stored),
    )
