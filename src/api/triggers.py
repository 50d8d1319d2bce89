"""Triggers of jobs: which changes of a repository, and which times, start builds."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Controller, get, post, put
from msgspec import Meta

from api.builds import Commit, Ref
from api.http.as_of import as_of
from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.jobs import find_visible_job
from commands.builds import StartBuild
from commands.hooks.message import split_ref
from commands.scm import find_project_repository
from commands.time_tables import find_latest, find_next
from commands.trigger_values import MAX_NEEDS, NewTriggers, check_triggers, show_time_tables
from commands.triggers import SetTriggers, set_triggers
from commands.validation import Time
from domain.core.errors import Conflict, Invalid
from domain.core.events import Stream
from domain.jobs import JOB, Job
from domain.matrix import MAX_COMBINATIONS
from domain.needs import Candidate, decide_starts, evaluate_jobs
from domain.triggers import (
    BuildTrigger,
    ChangeKind,
    Evaluation,
    RepositoryChange,
    Triggers,
    find_repository_path,
    find_skip_marker,
)
from projections import triggers
from projections.time_travel.historical_reads import TRIGGER_HISTORY

MAX_PATHS = 3_000
"""Largest number of changed paths in a PossibleChange. Source code hosts do not list more paths for a change."""


class NewJobTriggers(NewTriggers):
    """Triggers of a job, and the jobs that must have passed before the job starts. Missing triggers are off."""

    needs: Annotated[list[Id], Meta(max_length=MAX_NEEDS)] = []
    """Ids of other jobs of the project, the needed jobs. A change starts the job only if it also starts the needed
    jobs, and only after they have passed for the change. If the job has none of the triggers `branches`, `tags`,
    `pull_requests` and `fork_pull_requests`, it starts after the needed jobs for every change that does not come from a
    fork.
    """


class TriggersView(NewJobTriggers, kw_only=True):
    job_id: int


class PossibleChange(msgspec.Struct):
    """Question to the triggers of a job: would this change of a repository, or this time, start a build?"""

    kind: ChangeKind = "push"
    """Kind of the change: `push`, `tag` or `pull_request`."""
    branch: Ref | None = None
    """Changed branch or tag, by its short name or by its full name (`refs/heads/main`). For a pull request, the branch
    that contains its commits.
    """
    commit_sha: Commit | None = None
    paths: Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=MAX_PATHS)] | None = (
        None
    )
    """Changed paths; null if they are not known."""
    message: Annotated[str, Meta(max_length=65_536)] = ""
    """Message of the newest commit."""
    pull_request: Id | None = None
    """Number of the pull request."""
    fork: bool = False
    """Whether the pull request comes from a fork."""
    deleted: bool = False
    """Whether the branch or tag is deleted."""
    repository: Annotated[str, Meta(max_length=2_000)] = ""
    """Address or path of the changed repository; empty for the repository of the job."""
    at: Time | None = None
    """Time to evaluate against the job's time tables, instead of a change."""


class Explanation(msgspec.Struct):
    starts: bool
    """Whether the change or time would start a build."""
    why: str
    """Reason, as a sentence."""


class TriggerController(Controller):
    path = "/jobs/{job_id:int}/triggers"
    tags = ["Triggers"]

    @get(guards=[CAN_READ], **as_of(TRIGGER_HISTORY, "job_id"))
    async def get_job_triggers(self, ctx: RequestContext, job_id: int) -> TriggersView:
        """Returns the triggers of a job."""
        row = await ctx.find_visible(triggers.find, "job", job_id)
        return to_triggers_view(job_id, row.settings)

    @put(guards=[CAN_WRITE])
    async def set_job_triggers(self, ctx: RequestContext, job_id: int, data: NewJobTriggers) -> TriggersView:
        """Replaces the triggers of a job. New time tables start no builds for times that have already passed."""
        await find_visible_job(ctx, job_id)
        check_triggers(data)
        for number, need in enumerate(data.needs):
            if need in data.needs[:number]:
                raise Invalid.field(f"needs[{number}]", "is given twice")
        receipt = await set_triggers(ctx, SetTriggers(job_id, data.stored))
        return to_triggers_view(job_id, receipt.existing(JOB.at(job_id)).triggers)

    @post("/explain", status_code=200, guards=[CAN_READ])
    async def explain_job_triggers(self, ctx: RequestContext, job_id: int, data: PossibleChange) -> Explanation:
        """Returns whether a push, a tag, a pull request or a time would start a build of the job, and the reason."""
        await find_visible_job(ctx, job_id)
        job = await load_job(ctx, job_id)
        repository = await find_project_repository(ctx.log, job.project_id)
        if data.at is not None and data.branch is not None:
            raise Invalid.field("branch", "has no effect with `at`: ask about a change or about a time")
        if data.at is None:
            evaluation = await explain_change(ctx, job, data, repository)
        else:
            evaluation = await asyncio.to_thread(explain_time, job, data.at)
            if evaluation.starts:
                evaluation = await find_refusal(ctx, job, BuildTrigger("schedule"), repository) or evaluation
        return Explanation(evaluation.starts, evaluation.why)


async def explain_change(ctx: RequestContext, job: Job, data: PossibleChange, project_repository: str) -> Evaluation:
    """Returns whether a change would start a build of a job, and the reason. Also evaluates the jobs that the job
    needs.
    """
    change = read_change(data)
    jobs = await load_with_needed(ctx, job)
    described = {
        each.job_id: (each.triggers, find_repository_path(each.repository or project_repository)) for each in jobs
    }
    # In a thread, since many paths and globs can take seconds.
    candidates = await asyncio.to_thread(evaluate_jobs, change, described)
    for each in jobs:
        if candidates[each.job_id].evaluation.starts:
            trigger = BuildTrigger(change.kind, fork=change.fork)
            refusal = await find_refusal(ctx, each, trigger, project_repository)
            if refusal is not None:
                candidates[each.job_id] = Candidate(refusal)
    return decide_starts(candidates)[job.job_id]


async def load_with_needed(ctx: RequestContext, job: Job) -> list[Job]:
    """Returns the job and all enabled jobs that it needs, directly or through other jobs."""
    found, unread = {job.job_id: job}, [*job.triggers.needs]
    while unread:
        needed = await ctx.log.load_state(JOB.at(unread.pop()))
        if needed is not None and needed.enabled and not needed.deleted and needed.job_id not in found:
            found[needed.job_id] = needed
            unread += needed.triggers.needs
    return list(found.values())


def read_change(data: PossibleChange) -> RepositoryChange:
    """Returns the change that the body describes. Raises Invalid if fields of the body are missing or exclude each
    other.
    """
    if data.branch is None:
        raise Invalid.field("branch", "is needed, unless `at` asks about a time")
    if (data.kind == "pull_request") != (data.pull_request is not None):
        raise Invalid.field("pull_request", "is the number of a pull request, and goes with `kind: pull_request`")
    if data.fork and data.kind != "pull_request":
        raise Invalid.field("fork", "is about a pull request, and goes with `kind: pull_request`")
    full_name = None if data.kind == "pull_request" else split_ref(data.branch)
    kind, branch = full_name or (data.kind, data.branch)
    return RepositoryChange(
        kind,
        branch,
        data.commit_sha,
        skip_marker=find_skip_marker(data.message),
        paths=data.paths,
        pull_request=data.pull_request,
        fork=data.fork,
        deleted=data.deleted,
        repository=find_repository_path(data.repository),
    )


def explain_time(job: Job, at: datetime) -> Evaluation:
    minute = at.astimezone(UTC).replace(second=0, microsecond=0)
    for table in job.triggers.cron:
        if find_latest(table, minute) == minute:
            named = f"{table.expression} ({table.timezone})"
            return Evaluation(True, f"would start because the time table {named} has {minute:%Y-%m-%d %H:%M} UTC")
    following = sorted(next_at for table in job.triggers.cron if (next_at := find_next(table, minute)) is not None)
    after = f"; the next one after it is {following[0]:%Y-%m-%d %H:%M} UTC" if following else ""
    return Evaluation(False, f"does not start: no time table has {minute:%Y-%m-%d %H:%M} UTC{after}")


async def find_refusal(
    ctx: RequestContext, job: Job, trigger: BuildTrigger, project_repository: str
) -> Evaluation | None:
    """Returns the reason why the server would refuse a build with this trigger even if the job's triggers ask for it.
    Returns None if the server would not refuse the build.
    """
    command = StartBuild(
        0,
        job.job_id,
        trigger=trigger,
        project_repository=project_repository,
        more_ids=range(1, MAX_COMBINATIONS),
    )
    log = ctx.services.log
    named = [await log.load_state(stream) for stream in command.then_reads(None, job) if isinstance(stream, Stream)]
    try:
        list(command.decide(None, job, *named))
    except Conflict as refused:
        return Evaluation(False, f"does not start: {refused.detail.rstrip('.')}")
    return None


async def load_job(ctx: RequestContext, job_id: int) -> Job:
    job = await ctx.services.log.load_state(JOB.at(job_id))
    assert job is not None, "its row is visible"
    return job


def to_triggers_view(job_id: int, stored: Triggers) -> TriggersView:
    return to_view(TriggersView, stored, cron=show_time_tables(stored), job_id=job_id)
