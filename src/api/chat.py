"""Questions to the assistant, as conversations. A worker answers them."""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Controller, Request, get, post
from litestar.params import Parameter
from msgspec import Meta

from api.builds import find_visible_build
from api.diagnoses import (
    ClaimView,
    NextStepView,
    counted_question,
    find_end,
    refuse_beyond_limits,
    to_claims,
    to_next_step,
    wait_for_answer,
)
from api.http.idempotency import ReplayedResponse
from api.http.permissions import CAN_READ, User
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import Id
from api.live.inquiry_streams import ChatTokens, say_why
from api.live.stream_clients import LiveStream, StreamClient
from api.live.streams import Streams
from api.tests import find_visible_result
from commands.inquiries import AskInquiry
from domain.assistant.answers import Answer
from domain.core.errors import NotFound, StillRunning, TooManyRequests, Unavailable
from domain.inquiries import (
    SESSION_ID_PREFIX,
    InquiryAnswered,
    InquiryFailed,
)
from projections import chat_subjects, inquiries
from projections.chat_subjects import ChatSubject
from projections.inquiries import InquiryRow, InquiryStatus

ID_PREFIX = "chat-"
MAX_MESSAGE = 4_000
"""Largest number of characters of a message."""
ANSWER_TIMEOUT_S = 90.0
"""Seconds that a request waits for its answer: longer than a model may take by default. After that, the request is
answered with 504, and the answer can be read later.
"""
_SESSION = re.compile(rb'"session_id": ?"([^"]+)"')
"""Pattern that finds the id of the conversation in the JSON of an answer. It matches nothing inside a JSON string,
since quotes in strings are escaped.
"""
PROBLEMS = {"problems": (NotFound, StillRunning, TooManyRequests, Unavailable)}

R = TypeVar("R", bound="ChatReply")

SessionId = Annotated[str, Meta(min_length=1, max_length=100)]


class ChatMessage(msgspec.Struct):
    message: Annotated[str, Meta(min_length=1, max_length=MAX_MESSAGE, pattern=r"\S")]
    """The question."""
    build_id: Id | None = None
    """Build that the question is about. Without it, the assistant looks for a build, job or project that the message
    names.
    """
    test_id: Id | None = None
    """Result of a test that the question is about."""
    session_id: SessionId | None = None
    """`session_id` of an earlier answer, to continue its conversation; null for a new conversation."""


class ChatReply(msgspec.Struct):
    session_id: str
    """Id of the conversation. Only its owner can continue it."""
    reply: str
    """The answer, in sentences."""
    sources: list[str]
    """All sources that the reply cites, each once."""
    claims: list[ClaimView]
    """The reply divided into claims, each with the sources that support it."""
    next_step: NextStepView | None
    """The recommended next step; null if nothing can be done by one request."""
    provider: str
    """Author of the answer: `builtin` for rules and statistics, otherwise the kind of the model's server."""
    fell_back: str
    """A sentence that says why rules answered instead of the model; empty if the model answered, or if there is no
    model.
    """


class ChatAnswer(ChatReply):
    status: InquiryStatus
    error: str
    """A sentence that says why the question got no answer; empty if it has an answer, or still waits for one."""


class ChatController(Controller):
    path = "/ai/chat"
    tags = ["AI Chat & Investigation"]

    @post(status_code=200, opt=PROBLEMS, guards=[CAN_READ])
    async def ask_assistant(
        self, request: Request[User, Any, Any], ctx: RequestContext, data: ChatMessage
    ) -> ChatReply:
        """Answers a question about a build, a test or a project. Each sentence cites its sources. With `session_id`,
        the question continues an earlier conversation.
        """
        async with asked_question(ctx, data) as command:
            end = await wait_for_answer(request, ctx, command, ANSWER_TIMEOUT_S)
        if command.project_id is not None:  # once more, since the answer may have taken long
            await ctx.must_access(command.project_id, f"question {command.inquiry_id}")
        if end is None:
            raise StillRunning(
                f"The assistant has not answered in {ANSWER_TIMEOUT_S:.0f} s; ask for the answer later.",
                f"/api/v3/ai/chat/{command.inquiry_id}",
            )
        await ctx.wait_until_all_shown()
        if not isinstance(end, InquiryAnswered):
            raise Unavailable(say_why(end))
        return to_reply(ChatReply, command.session_id, end)

    @post("/stream", status_code=200, media_type="text/event-stream", opt=PROBLEMS, guards=[CAN_READ])
    async def stream_assistant(
        self, request: Request[User, Any, Any], ctx: RequestContext, data: ChatMessage
    ) -> LiveStream:
        """Answers a question, as `POST /ai/chat` does, by server-sent events: `{"token": "..."}` for each word of the
        reply, then a message with an empty token, the `session_id` and the `sources`, then `[DONE]`. If there is no
        answer, sends `{"type": "error", "data": "..."}` instead.
        """
        streams: Streams = request.app.state.streams
        streams.clients.admit(ctx.user)
        async with asked_question(ctx, data) as command:
            pass
        source = ChatTokens(ctx.services, command.inquiry_id, command.session_id, ANSWER_TIMEOUT_S)
        project_id = command.project_id
        client = StreamClient(
            request, lambda user: user.has_scope("read") and (project_id is None or user.may("read", project_id))
        )
        return LiveStream(streams.clients, client, source)

    @get("/{chat_id:str}", guards=[CAN_READ])
    async def get_assistant_answer(
        self, ctx: RequestContext, chat_id: Annotated[str, Parameter(max_length=100, description="Id of the question")]
    ) -> ChatAnswer:
        """Returns the answer to a question that took long. Answers 404 for questions of other users."""
        row = await ctx.find_row(lambda source: inquiries.find(source, chat_id))
        if row is None or row.user_id != ctx.user.user_id or row.kind != "chat":
            raise NotFound(f"There is no question {chat_id}.")
        if row.project_id is not None:
            await ctx.must_access(row.project_id, f"question {chat_id}")
        end = await find_end(ctx, chat_id)
        answered = end if isinstance(end, InquiryAnswered) else None
        error = say_why(end) if isinstance(end, InquiryFailed) else ""
        return to_reply(ChatAnswer, row.session_id, answered, status=row.status, error=error)


@asynccontextmanager
async def asked_question(ctx: RequestContext, data: ChatMessage) -> AsyncIterator[AskInquiry]:
    """Context manager that asks a question, and yields the command that has asked it. The question counts as open in
    this process until the block ends.

    Raises TooManyRequests if the caller has too many unanswered questions, and Unavailable if all users together have
    too many. Raises NotFound if the caller cannot see the build, the test or the conversation.
    """
    async with checked_replay(ctx), counted_question(ctx):
        async with take_turn(ctx.request, ctx.services.question_turns):
            await refuse_beyond_limits(ctx)
            command = await make_question(ctx, data)
            await ctx(command)
        yield command


@asynccontextmanager
async def checked_replay(ctx: RequestContext) -> AsyncIterator[None]:
    """Context manager around the command that asks a question. Checks the stored answer if an earlier request with the
    same `Idempotency-Key` has been answered: raises NotFound if the caller can no longer see all projects of the
    conversation in that answer.

    The present request does not show which projects these are, because the subject of its message is looked for only in
    projects that the caller can read now.
    """
    try:
        yield
    except ReplayedResponse as replayed:
        for session_id in _SESSION.findall(replayed.stored.body):
            await find_conversation(ctx, session_id.decode())
            for project_id in await inquiries.fetch_projects(ctx.source, session_id.decode()):
                await ctx.must_access(project_id, f"conversation {session_id.decode()}")
        raise


async def make_question(ctx: RequestContext, data: ChatMessage) -> AskInquiry:
    """Returns the command that asks the question. Raises NotFound if the caller cannot see the build, the test or the
    conversation.
    """
    user_id = ctx.user.user_id
    earlier = None if data.session_id is None else await find_conversation(ctx, data.session_id)
    subject, result_id = await find_subject(ctx, data, earlier)
    return AskInquiry(
        inquiry_id=ID_PREFIX + secrets.token_hex(16),
        kind="chat",
        user_id=user_id,
        project_id=None if subject is None else subject.project_id,
        job_id=None if subject is None else subject.job_id,
        build_id=None if subject is None else subject.build_id,
        result_id=result_id,
        build_choice="" if subject is None else subject.build_choice,
        session_id=data.session_id or SESSION_ID_PREFIX + secrets.token_hex(16),
        message=data.message,
    )


async def find_conversation(ctx: RequestContext, session_id: str) -> InquiryRow:
    """Returns the newest question of the caller's conversation. Raises NotFound if there is no such conversation, or if
    it belongs to another user.
    """
    row = await ctx.find_row(lambda source: inquiries.find_newest_of_session(source, session_id))
    if row is None or row.user_id != ctx.user.user_id:
        raise NotFound(f"There is no conversation {session_id}.")
    return row


async def find_subject(
    ctx: RequestContext, data: ChatMessage, earlier: InquiryRow | None
) -> tuple[ChatSubject | None, int | None]:
    """Returns two values: the subject of a question, and the id of the test result that the question is about. Each is
    None if there is none.

    Takes the first subject that there is: the one in the request's fields, the one that the message names, that of the
    conversation so far, the only project that the caller can read, the only project with a test that the message names.
    """
    if data.test_id is not None:
        result = await find_visible_result(ctx, data.test_id)
        if data.build_id not in (None, result.build_id):
            raise NotFound(f"There is no test result {data.test_id} in build {data.build_id}.")
        return ChatSubject(result.project_id, result.job_id, result.build_id), data.test_id
    if data.build_id is not None:
        build = await find_visible_build(ctx, data.build_id)
        return ChatSubject(build.project_id, build.job_id, build.id), None
    projects = ctx.user.projects
    async with ctx.reading() as connection:
        before = None
        if earlier is not None and earlier.project_id is not None and ctx.user.may("read", earlier.project_id):
            before = ChatSubject(earlier.project_id, earlier.job_id, earlier.build_id)
        subject = await chat_subjects.find_subject(connection, projects, data.message, before)
        if subject is not None:
            subject = await chat_subjects.choose_build(connection, subject, data.message)
    return subject, None if subject is None else subject.result_id


def to_reply(view: type[R], session_id: str, end: InquiryAnswered | None, **more: Any) -> R:
    answer = Answer() if end is None else end.answer
    return view(
        session_id=session_id,
        reply=answer.text,
        sources=answer.sources,
        claims=to_claims(answer.claims),
        next_step=to_next_step(answer.next_step),
        provider="" if end is None else end.provider,
        fell_back="" if end is None else end.fell_back,
        **more,
    )
