"""Triggers of jobs: which changes of a repository, and which times, start builds."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Controller, get, post, put
from msgspec import Meta

from api.builds import Commit, Ref
from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.http.validation import Time
from api.jobs import find_visible_job
from commands.builds import StartBuild
from commands.scm import find_project_repository
from commands.time_tables import find_latest, find_next
from commands.trigger_values import NewTriggers, TimeTable, check_triggers
from commands.triggers import SetTriggers
from domain.core.errors import Conflict, Invalid
from domain.core.events import Stream
from domain.jobs import JOB, Job
from domain.matrix import MAX_COMBINATIONS
from domain.triggers import (
    BuildTrigger,
    ChangeKind,
    Evaluation,
    RepositoryChange,
    evaluate,
    find_repository_path,
    find_skip_marker,
)

MAX_PATHS = 3_000
"""Largest number of changed paths in a PossibleChange. Source code hosts list no more paths of a change either."""


class TriggersView(NewTriggers, kw_only=True):
    job_id: int


class PossibleChange(msgspec.Struct):
    """Question to the triggers of a job: would they start a build for this change of a repository, or at this time?"""

    kind: ChangeKind = "push"
    """Kind of the change: `push`, `tag` or `pull_request`."""
    branch: Ref | None = None
    """Changed branch or tag. For a pull request, the branch that contains its commits."""
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

    @get(guards=[CAN_READ])
    async def get_job_triggers(self, ctx: RequestContext, job_id: int) -> TriggersView:
        """Returns the triggers of a job."""
        await find_visible_job(ctx, job_id)
        return to_triggers_view(await load_job(ctx, job_id))

    @put(guards=[CAN_WRITE])
    async def set_job_triggers(self, ctx: RequestContext, job_id: int, data: NewTriggers) -> TriggersView:
        """Replaces the triggers of a job. New time tables start no builds for times that have already passed."""
        await find_visible_job(ctx, job_id)
        check_triggers(data)
        receipt = await ctx(SetTriggers(job_id, data.stored))
        return to_triggers_view(receipt.existing(JOB.at(job_id)))

    @post("/explain", status_code=200, guards=[CAN_READ])
    async def explain_job_triggers(self, ctx: RequestContext, job_id: int, data: PossibleChange) -> Explanation:
        """Returns whether a push, a tag, a pull request or a time would start a build of the job, and why."""
        await find_visible_job(ctx, job_id)
        job = await load_job(ctx, job_id)
        repository = await find_project_repository(ctx.log, job.project_id)
        # In a thread, since many paths and globs can take seconds.
        evaluation = await asyncio.to_thread(explain, job, data, repository)
        if evaluation.starts and (refusal := await find_refusal(ctx, job, data, repository)):
            evaluation = Evaluation(False, f"does not start: {refusal}")
        return Explanation(evaluation.starts, evaluation.why)


def explain(job: Job, data: PossibleChange, project_repository: str) -> Evaluation:
    if data.at is not None and data.branch is not None:
        raise Invalid.field("branch", "has no effect with `at`: ask about a change or about a time")
    return explain_change(job, data, project_repository) if data.at is None else explain_time(job, data.at)


def explain_change(job: Job, data: PossibleChange, project_repository: str) -> Evaluation:
    if data.branch is None:
        raise Invalid.field("branch", "is needed, unless `at` asks about a time")
    if (data.kind == "pull_request") != (data.pull_request is not None):
        raise Invalid.field("pull_request", "is the number of a pull request, and goes with `kind: pull_request`")
    change = RepositoryChange(
        data.kind,
        data.branch,
        data.commit_sha,
        skip_marker=find_skip_marker(data.message),
        paths=data.paths,
        pull_request=data.pull_request,
        fork=data.fork,
        deleted=data.deleted,
        repository=find_repository_path(data.repository),
    )
    return evaluate(change, job.triggers, find_repository_path(job.repository or project_repository))


def explain_time(job: Job, at: datetime) -> Evaluation:
    minute = at.astimezone(UTC).replace(second=0, microsecond=0)
    for table in job.triggers.cron:
        if find_latest(table, minute) == minute:
            named = f"{table.expression} ({table.timezone})"
            return Evaluation(True, f"would start because the time table {named} has {minute:%Y-%m-%d %H:%M} UTC")
    following = sorted(next_at for table in job.triggers.cron if (next_at := find_next(table, minute)) is not None)
    after = f"; the next one after it is {following[0]:%Y-%m-%d %H:%M} UTC" if following else ""
    return Evaluation(False, f"does not start: no time table has {minute:%Y-%m-%d %H:%M} UTC{after}")


async def find_refusal(ctx: RequestContext, job: Job, data: PossibleChange, project_repository: str) -> str | None:
    """Returns the reason why the server would refuse a build for this change or time, whatever the job's triggers are.
    Returns None if it would not refuse the build.
    """
    command = StartBuild(
        0,
        job.job_id,
        trigger=BuildTrigger(data.kind if data.at is None else "schedule"),
        project_repository=project_repository,
        more_ids=range(1, MAX_COMBINATIONS),
    )
    log = ctx.services.log
    named = [await log.load_state(stream) for stream in command.then_reads(None, job) if isinstance(stream, Stream)]
    try:
        list(command.decide(None, job, *named))
    except Conflict as refused:
        return refused.detail.rstrip(".")
    return None


async def load_job(ctx: RequestContext, job_id: int) -> Job:
    job = await ctx.services.log.load_state(JOB.at(job_id))
    assert job is not None, "its row is visible"
    return job


def to_triggers_view(job: Job) -> TriggersView:
    cron = [TimeTable(table.expression, table.timezone, table.branch) for table in job.triggers.cron]
    return to_view(TriggersView, job.triggers, cron=cron, job_id=job.job_id)
