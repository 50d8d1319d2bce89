"""Jobs of the assistant: analyses of a project, which take longer than a question. A worker does them."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.params import Parameter

from api.http.permissions import CAN_READ, User
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import Id
from api.live.inquiry_streams import JobProgress
from api.live.stream_clients import MEDIA_TYPE, LiveStream, StreamClient
from api.live.streams import Streams
from api.projects import find_visible_project
from commands.inquiries import AskInquiry, CancelInquiry
from domain.core.errors import Conflict, NotFound, TooManyRequests
from domain.inquiries import INQUIRY, JOB_ID_PREFIX, JOB_TYPES, Inquiry, InquiryAnswered, InquiryFailed, JobType
from projections import inquiries
from projections.inquiries import InquiryRow, InquiryStatus

MAX_OPEN_JOBS = 20
"""Largest number of AI jobs of one user that are queued or running at the same time."""
RETRY_AFTER_S = 10
"""Seconds after which a user with too many jobs may try again."""
ESTIMATES_S: Mapping[JobType, int] = {"project_audit": 10, "failure_cluster": 10, "regression_scan": 15}
"""Kind of job -> largest number of seconds that the job takes in a project with 20 million results, if no other job
waits and no language model is asked.
"""
MODEL_S = 8
"""Seconds that a job takes longer if a language model is asked: it is asked twice, and a call takes about 4 s."""
STREAM_TIMEOUT_S = 600.0
"""Seconds for which a stream shows the progress of a job. The job goes on after that."""

JobId = Annotated[str, Parameter(max_length=100, description="Id of the job, from its start")]


class NewAiJob(msgspec.Struct):
    type: JobType
    """Kind of the job: audit the project, group its failures by cause, or search for regressions."""
    project_id: Id
    """Project to analyse."""


class StartedAiJob(msgspec.Struct):
    job_id: str
    """Id of the job. Only the user who has started the job can use it."""
    status: InquiryStatus
    estimated_seconds: int
    """Seconds that the job probably takes."""


class AiJobResult(msgspec.Struct):
    job_id: str
    """Id of the job."""
    status: InquiryStatus
    result: dict[str, Any] | None
    """Findings of the job, and what it concludes; null until it is complete. docs/assistant.md describes the fields
    for each type.
    """
    type: JobType
    steps: list[str]
    """Look-ups of the job so far, one sentence each."""
    error: str
    """A sentence that says why the job failed; empty if it did not."""


class CancelledAiJob(msgspec.Struct):
    job_id: str
    """Id of the job."""
    status: InquiryStatus


class AiJobController(Controller):
    path = "/ai/job"
    tags = ["AI Chat & Investigation"]

    @post(
        "/stream",
        status_code=202,
        opt={"stream": True, "problems": (NotFound, TooManyRequests)},
        guards=[CAN_READ],
    )
    async def start_ai_job(
        self, request: Request[User, Any, Any], ctx: RequestContext, data: NewAiJob
    ) -> Response[StartedAiJob]:
        """Starts an analysis of a project. With `Accept: text/event-stream`, answers with server-sent events: first the
        job, then `{"type": "step", "data": {...}}` for each step, and `{"type": "result", "data": {...}}` at the end,
        followed by `[DONE]`.
        """
        await find_visible_project(ctx, data.project_id)
        streams: Streams = request.app.state.streams
        wants_stream = MEDIA_TYPE in request.headers.get("accept", "")
        if wants_stream:
            streams.clients.admit(ctx.user)
        job_id = JOB_ID_PREFIX + secrets.token_hex(16)
        # In turns, so that requests at the same moment do not pass the limit together.
        async with take_turn(request, ctx.services.analysis_turns):
            if await inquiries.count_open(ctx.source, ctx.user.user_id, JOB_TYPES) >= MAX_OPEN_JOBS:
                raise TooManyRequests(
                    f"You have {MAX_OPEN_JOBS} jobs queued or running; wait for one, or cancel it.", RETRY_AFTER_S
                )
            await ctx.must_access(data.project_id)  # once more, after the wait
            await ctx(AskInquiry(job_id, data.type, ctx.user.user_id, data.project_id))
        model_s = 0 if ctx.services.model_policy.provider == "builtin" else MODEL_S
        started = StartedAiJob(job_id, "queued", ESTIMATES_S[data.type] + model_s)
        if not wants_stream:
            return Response(started, status_code=202)
        source = JobProgress(ctx.services, job_id, msgspec.to_builtins(started), STREAM_TIMEOUT_S)
        client = StreamClient(request, lambda user: user.has_scope("read") and user.may("read", data.project_id))
        return cast(Response[Any], LiveStream(streams.clients, client, source, status_code=202))

    @get("/{job_id:str}/result", guards=[CAN_READ])
    async def get_ai_job_result(self, ctx: RequestContext, job_id: JobId) -> AiJobResult:
        """Returns how far a job is, and what it has found once it is complete. Answers 404 for jobs of other users."""
        row = await find_job(ctx, job_id)
        inquiry = await ctx.log.load_state(INQUIRY.at(job_id))
        assert inquiry is not None
        return to_result(row, inquiry)

    @post("/{job_id:str}/cancel", status_code=200, opt={"problems": (NotFound, Conflict)}, guards=[CAN_READ])
    async def cancel_ai_job(self, ctx: RequestContext, job_id: JobId) -> CancelledAiJob:
        """Cancels a job that is queued or running. Answers 409 if it has ended, and 404 for jobs of other users."""
        await find_job(ctx, job_id)
        await ctx(CancelInquiry(job_id))
        return CancelledAiJob(job_id, "cancelled")


async def find_job(ctx: RequestContext, job_id: str) -> InquiryRow:
    """Returns the caller's job. Raises NotFound if there is none with this id, or if the caller cannot see its project
    any more.
    """
    row = await ctx.find_row(lambda source: inquiries.find(source, job_id))
    if row is None or row.user_id != ctx.user.user_id or row.kind not in JOB_TYPES or row.project_id is None:
        raise NotFound(f"There is no AI job {job_id}.")
    await ctx.must_access(row.project_id, f"AI job {job_id}")
    return row


def to_result(row: InquiryRow, inquiry: Inquiry) -> AiJobResult:
    end = inquiry.end
    return AiJobResult(
        job_id=row.id,
        status=row.status,
        result=end.result if isinstance(end, InquiryAnswered) and row.status == "complete" else None,
        type=next(kind for kind in JOB_TYPES if kind == row.kind),
        steps=[step.text for step in inquiry.steps],
        error=end.error if isinstance(end, InquiryFailed) else "",
    )
