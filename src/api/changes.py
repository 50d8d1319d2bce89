"""Shows changes of repositories: which builds each change has started, and which jobs wait for other jobs."""

from datetime import datetime

import msgspec
from litestar import Controller, get

from api.http.permissions import CAN_READ
from api.http.request_context import RequestContext
from api.http.types import to_view
from commands.changes import ChangeStarter
from commands.handler import CommandContext
from domain.changes import CHANGE, Reporter
from domain.core.errors import NotFound
from domain.triggers import ChangeKind, RepositoryChange
from projections import build_groups


class ChangeJob(msgspec.Struct):
    job_id: int
    build_ids: list[int]
    """Ids of the builds that the change has started; empty while the job waits, or if it does not start."""
    needs: list[int]
    """Ids of the jobs that must pass before this job starts."""
    why: str
    """Reason why the change has started no build of the job yet, or will start none; empty if it has started one."""


class ChangeView(msgspec.Struct):
    id: int
    project_id: int
    reporter: Reporter
    """Source of the report: the kind of the host whose hook reported the change, or `git-notify`."""
    kind: ChangeKind
    """Kind of the change: `push`, `tag` or `pull_request`."""
    branch: str
    """Branch or tag; for a pull request, the branch that contains its commits."""
    commit: str | None
    """Newest commit; null if it was not reported."""
    pull_request: int | None
    """Number of the pull request."""
    message: str
    """First line of the newest commit's message."""
    author: str
    """Author of the newest commit."""
    received_at: datetime
    """Time at which the change was reported."""
    paths_unknown: str
    """Reason why the changed paths are not all known, as a sentence; empty if all are known, or if they do not matter,
    as for tags. If some paths are not known, the globs of paths in triggers count as matching.
    """
    jobs: list[ChangeJob]
    """Jobs that the change has started, jobs that wait for other jobs, and jobs that do not start because of a job that
    they need.
    """


class RepositoryChangeController(Controller):
    path = "/changes"
    tags = ["Triggers"]

    @get("/{change_id:int}", guards=[CAN_READ])
    async def get_change(self, ctx: RequestContext, change_id: int) -> ChangeView:
        """Returns a change that a hook or `git-notify` reported, and the builds that the change has started so far. If
        a job needs other jobs, `why` names the build that the job waits for, or the build that failed.
        """
        received = await ctx.log.load_state(CHANGE.at(change_id))
        if received is None:
            raise NotFound(f"There is no change {change_id}.")
        await ctx.must_access(received.project_id, f"change {change_id}")
        services = ctx.services
        caller = CommandContext(ctx.user.actor)
        starter = ChangeStarter(services.handler, services.ids, services.secrets, received, "", caller)
        deferrals = await starter.load_deferrals(ctx.log)
        started = dict[int, list[int]]()
        for job_id, build_id in await build_groups.fetch_of_change(ctx.source, change_id):
            started.setdefault(job_id, []).append(build_id)
        jobs: list[ChangeJob] = []
        for job_id in sorted({*started, *deferrals.needs, *deferrals.left_out}):
            needs, build_ids = deferrals.needs.get(job_id, []), started.get(job_id, [])
            if not build_ids and (first_id := await starter.find_first_build(ctx.log, job_id)) is not None:
                build_ids = [first_id]  # an earlier message about the same commit of a pull request started it
            why = "" if build_ids else deferrals.left_out.get(job_id) or await describe_wait(ctx, starter, needs)
            jobs.append(ChangeJob(job_id, build_ids, needs, why))
        return to_view(
            ChangeView,
            received.change,
            id=change_id,
            project_id=received.project_id,
            reporter=received.reporter,
            received_at=received.at,
            paths_unknown=describe_unknown_paths(received.change),
            jobs=jobs,
        )


def describe_unknown_paths(change: RepositoryChange) -> str:
    """Returns the reason why not all paths of a change are known, as a sentence; empty if all are known, or if they do
    not matter, as for tags.
    """
    if change.paths is not None or change.deleted or change.kind == "tag":
        return ""
    if change.paths_unknown:
        return change.paths_unknown
    if change.kind == "pull_request":
        return "No host says which paths a pull request changes."
    return (
        "The report does not list all changed paths: of a new branch, after a force push, with more commits or paths"
        " than the host or the server lists, or from a host that lists none."
    )


async def describe_wait(ctx: RequestContext, starter: ChangeStarter, needs: list[int]) -> str:
    """Returns the reason why a job has not started yet for the change of `starter`. `needs` are the jobs that must pass
    first.
    """
    waits: list[str] = []
    for need in needs:
        first_id = await starter.find_first_build(ctx.log, need)
        rows = [] if first_id is None else await build_groups.fetch_last_runs(ctx.source, first_id)
        if not rows:
            waits.append(f"It waits for a build of job {need}, which has none for this change.")
        for row in rows:
            if row.status in ("failed", "aborted"):
                how = "has failed" if row.status == "failed" else "was aborted"
                return f"It does not start, since build {row.id} of job {need} {how}. A restart that passes starts it."
            if row.status != "passed":
                waits.append(f"It waits for build {row.id} of job {need}, which is {row.status}.")
    return waits[0] if waits else "All jobs that it needs have passed, so it starts in a moment."
