"""Diagnoses and summaries of builds, and insights into projects: answers of the assistant to fixed questions.
docs/assistant.md says how these answers are found.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, get, post
from msgspec import Meta

from api.builds import find_visible_build
from api.http.permissions import CAN_READ, User
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.live.inquiry_streams import SUBJECT_DELETED
from api.live.requested_work import wait_for_work
from api.projects import find_visible_project
from api.test_health import Days, ProjectId
from api.test_health_views import mask_line
from commands.inquiries import AskAndAnswerInquiry, AskInquiry
from domain.assistant.answers import Answer, AnswerClaim, NextAction, NextStep, Question
from domain.assistant.builtin_answers import answer
from domain.assistant.evidence import Evidence
from domain.assistant.project_insights import describe_project, find_pass_rate
from domain.core.errors import Conflict, NotFound, TooManyRequests, Unavailable
from domain.inquiries import INQUIRY, InquiryAnswered, InquiryEnd, inquiry_notification
from domain.triage import Classification
from projections import inquiries
from projections.builds import BuildRow
from projections.evidence import gather
from store.clock import utcnow

ID_PREFIX = "diag-"
ANSWER_TIMEOUT_S = 60.0
"""Seconds that a request waits for a diagnosis by a language model."""
NO_ANSWER = "The model has not answered in time, so rules and statistics have answered."
MAX_OPEN_QUESTIONS = 100
"""Largest number of unanswered questions of one user, in chats and for diagnoses, if no language model answers."""
MAX_OPEN_FOR_MODEL = 5
"""Largest number of unanswered questions of one user if a language model answers. Each question takes one of 20 slots
of a worker for up to a minute.
"""
MAX_OPEN_IN_ALL = 300
"""Largest number of unanswered questions of all users together. A further question would probably get no answer while
its request waits.
"""
RETRY_AFTER_S = 10
"""Seconds after which a user may ask again if too many questions are unanswered."""
MAX_TESTS = 100
"""Largest number of failed tests that a diagnosis looks at."""


class DiagnosisRequest(msgspec.Struct):
    build_id: Id
    """The failed build."""
    include_logs: bool = True
    """Whether the diagnosis also looks at the build's log."""
    max_tests: Annotated[int, Meta(ge=1, le=MAX_TESTS, description="Max number of failed tests to look at")] = 20


class ClaimView(msgspec.Struct):
    """One or more sentences of an answer."""

    text: str
    """The sentences."""
    sources: list[str]
    """References to the sources that support the text: `build:9812`, `test:47821` (a result), `test_case:52004`,
    `log:9812:120-134` (lines of a build's log), `known_issue:7`, `commit:3f2a9c`, `project:12`.
    """
    is_guess: bool
    """Whether the text is a guess, which no source supports."""


class NextStepView(msgspec.Struct):
    """Recommended next step, which can be done by one request."""

    action: NextAction
    """Kind of the step."""
    text: str
    """The step as a sentence."""
    method: str
    """Method of the request."""
    path: str
    """Path below /api/v3."""
    body: dict[str, Any]
    """Body of the request, as JSON."""


class DiagnosisView(msgspec.Struct):
    build_id: int
    root_cause: str
    """The most likely cause of the failures, in one sentence."""
    confidence: float
    """Probability that the root cause and the classification are right: from 0 to 1, but never 1."""
    suggested_fix: str
    """What may mend the cause; empty if nothing is known."""
    affected_tests: int
    """Number of failed results of the build that have this cause."""
    classification: Classification | None
    """Kind of the cause; null if the evidence does not say."""
    claims: list[ClaimView]
    """The diagnosis divided into claims, each with the sources that support it."""
    sources: list[str]
    """All sources that the claims cite, each once."""
    next_step: NextStepView | None
    """The recommended next step; null if nothing can be done by one request."""
    provider: str
    """Author of the diagnosis: `builtin` for rules and statistics, otherwise the kind of the model's server."""
    fell_back: str
    """A sentence that says why rules answered instead of the model; empty if the model answered, or if there is no
    model.
    """


class SummaryView(msgspec.Struct):
    build_id: int
    summary: str
    """How the build's tests did, and what likely caused the failures, in sentences."""
    claims: list[ClaimView]
    """The summary divided into claims, each with the sources that support it."""
    sources: list[str]
    """All sources that the claims cite, each once."""


class FlakyTestItem(msgspec.Struct):
    test: str
    """Node id of the test."""
    flake_rate: float
    """Expected share of runs that fail although the code is good."""
    test_id: int
    """Id of the test case."""
    runs: int
    """Number of runs in the look-back window of `period_days`, without those of broken builds."""
    failed_runs: int
    """Number of runs in the look-back window that failed, or passed on a retry only."""


class Insights(msgspec.Struct):
    project_id: int
    period_days: int
    """Look-back window in days."""
    build_pass_rate: float | None
    """Share of passed builds among those that passed or failed; null if there are none."""
    top_flaky_tests: list[FlakyTestItem]
    """Up to ten flaky tests, those with the highest flake rates first."""
    failure_patterns: list[str]
    """Messages of up to ten failures that were in more than one build, the most frequent first, with placeholders for
    parts that change.
    """
    summary: str
    """The insights in sentences."""
    claims: list[ClaimView]
    """The summary divided into claims, each with the sources that support it."""
    sources: list[str]
    """All sources that the claims cite, each once."""


class DiagnosisController(Controller):
    path = "/ai"
    tags = ["AI Chat & Investigation"]

    @post("/diagnose", status_code=200, guards=[CAN_READ])
    async def diagnose_build(
        self, request: Request[User, Any, Any], ctx: RequestContext, data: DiagnosisRequest
    ) -> DiagnosisView:
        """Returns the most likely cause of a build's failure, the probability that this is right, and what to do about
        it, with the sources that support the answer. The diagnosis is recorded in the audit trail, together with the
        evidence. If the caller asks again and nothing has changed, it is not recorded again.

        Answers 409 if the build has not ended, or if it passed. If a model is configured, a worker asks the model for
        the words of the diagnosis. If the model does not answer within a minute, rules and statistics answer instead.
        """
        build = await find_visible_build(ctx, data.build_id)
        must_have_failed(build)
        question = Question(
            "diagnosis", build.project_id, build.id, include_logs=data.include_logs, max_tests=data.max_tests
        )
        evidence, found = await find_answer(ctx, question)
        asked: dict[str, Any] = {
            "inquiry_id": name_diagnosis(ctx, evidence, found),
            "kind": "diagnosis",
            "user_id": ctx.user.user_id,
            "project_id": build.project_id,
            "job_id": build.job_id,
            "build_id": build.id,
            "include_logs": data.include_logs,
            "max_tests": data.max_tests,
        }
        if ctx.services.model_policy.provider == "builtin":
            await ctx(AskAndAnswerInquiry(**asked, answer=found, evidence=msgspec.to_builtins(evidence)))
            return to_diagnosis(build.id, found, "builtin", "")
        end = await find_end(ctx, asked["inquiry_id"])
        if end is not None and (not isinstance(end, InquiryAnswered) or end.fell_back):
            # The model gave no answer then, but may do so now. It is asked again once in an hour.
            asked["inquiry_id"] = name_diagnosis(ctx, evidence, found, f"{utcnow():%Y-%m-%d %H}")
            end = await find_end(ctx, asked["inquiry_id"])
        if end is None:
            async with counted_question(ctx):
                await refuse_beyond_limits(ctx)
                command = AskInquiry(**asked)
                await ctx(command)
                end = await wait_for_answer(request, ctx, command, ANSWER_TIMEOUT_S)
            await ctx.must_access(build.project_id, f"build {build.id}")  # once more, since the model may take long
        if isinstance(end, InquiryAnswered):
            return to_diagnosis(build.id, end.answer, end.provider, end.fell_back)
        return to_diagnosis(build.id, found, "builtin", NO_ANSWER)

    @get("/summary/{build_id:int}", guards=[CAN_READ])
    async def get_summary(self, ctx: RequestContext, build_id: int) -> SummaryView:
        """Returns a summary of a build in sentences: how its tests did, and what likely caused the failures."""
        build = await find_visible_build(ctx, build_id)
        _, found = await find_answer(ctx, Question("summary", build.project_id, build_id=build.id))
        return SummaryView(build_id, found.text, to_claims(found.claims), found.sources)

    @get("/insights", guards=[CAN_READ])
    async def get_insights(self, ctx: RequestContext, project_id: ProjectId, days: Days = 7) -> Insights:
        """Returns how often the builds of a project passed, its flakiest tests, and the failures that recur."""
        await find_visible_project(ctx, project_id)
        async with take_turn(ctx.request, ctx.services.analysis_turns):
            await ctx.must_access(project_id)  # once more, after the wait
            evidence = await gather(ctx.source, ctx.log, Question("summary", project_id, days=days))
        facts = evidence.project
        assert facts is not None, "the question is about no build"
        found = Answer(tuple(describe_project(facts)))
        rate = find_pass_rate(facts.passed, facts.failed)
        patterns = [mask_line(pattern.message) for pattern in facts.patterns]
        return Insights(
            project_id=project_id,
            period_days=days,
            build_pass_rate=None if rate is None else round(rate, 4),
            top_flaky_tests=[
                to_view(FlakyTestItem, test, test=test.name, test_id=test.case_id) for test in facts.flaky_tests
            ],
            failure_patterns=list(dict.fromkeys(patterns)),
            summary=found.text,
            claims=to_claims(found.claims),
            sources=found.sources,
        )


@asynccontextmanager
async def counted_question(ctx: RequestContext) -> AsyncIterator[None]:
    """Context manager around a request whose question a worker answers. Counts the question as open in this process
    until the block ends. Raises TooManyRequests if too many questions of the caller are open in this process, and
    Unavailable if all users together have too many open ones.
    """
    user_id, questions = ctx.user.user_id, ctx.services.questions
    questions[user_id] += 1
    try:
        refuse_too_many(ctx, questions[user_id] - 1, questions.total() - 1)
        yield
    finally:
        questions[user_id] -= 1
        if not questions[user_id]:
            del questions[user_id]


async def refuse_beyond_limits(ctx: RequestContext) -> None:
    """Raises TooManyRequests if the read model shows too many unanswered questions of the caller, and Unavailable if it
    shows too many of all users together.
    """
    unanswered = await inquiries.count_open_by_user(ctx.source, ("chat", "diagnosis"))
    refuse_too_many(ctx, unanswered.get(ctx.user.user_id, 0), sum(unanswered.values()))


def refuse_too_many(ctx: RequestContext, of_caller: int, in_all: int) -> None:
    has_model = ctx.services.model_policy.provider != "builtin"
    limit = MAX_OPEN_FOR_MODEL if has_model else MAX_OPEN_QUESTIONS
    if of_caller >= limit:
        raise TooManyRequests(
            f"{limit} of your questions have no answer yet; wait for one, then ask again.", RETRY_AFTER_S
        )
    if in_all >= MAX_OPEN_IN_ALL:
        raise Unavailable(
            f"{MAX_OPEN_IN_ALL} questions wait for an answer, so nothing was asked. Ask again later;"
            " GET /ai/summary/{build_id} does not wait for them.",
            RETRY_AFTER_S,
        )


async def find_answer(ctx: RequestContext, question: Question) -> tuple[Evidence, Answer]:
    """Returns the evidence for a question about a build, and the answer by rules and statistics."""
    async with take_turn(ctx.request, ctx.services.analysis_turns):
        await ctx.must_access(question.project_id, f"build {question.build_id}")  # once more, after the wait
        evidence = await gather(ctx.source, ctx.log, question)
        # In a thread, since patterns are searched in many texts.
        return evidence, await asyncio.to_thread(answer, evidence)


def name_diagnosis(ctx: RequestContext, evidence: Evidence, found: Answer, hour: str = "") -> str:
    """Returns the id of a diagnosis. If a user asks again and nothing has changed, the id is the same, so that an
    unchanged diagnosis is recorded once. The id is a hash that does not reveal the evidence: it is kept after the
    evidence is erased. `hour` is the present hour if the question is asked again because the model gave no answer;
    otherwise it is empty.
    """
    contents = msgspec.json.encode((ctx.user.user_id, ctx.services.model_policy.model, evidence, found, hour))
    return ctx.services.secrets.claim(ID_PREFIX.removesuffix("-"), hashlib.sha256(contents).hexdigest())


async def find_end(ctx: RequestContext, inquiry_id: str) -> InquiryEnd | None:
    inquiry = await ctx.log.load_state(INQUIRY.at(inquiry_id))
    return None if inquiry is None else inquiry.end


async def wait_for_answer(
    request: Request[User, Any, Any], ctx: RequestContext, command: AskInquiry, timeout_s: float
) -> InquiryEnd | None:
    """Waits until the inquiry of `command` has ended, and returns its end; None if it has not ended after `timeout_s`.
    Raises NotFound if the subject of the inquiry is deleted meanwhile, since nobody can answer it then.
    """

    async def find() -> InquiryEnd | None:
        end = await find_end(ctx, command.inquiry_id)
        if end is None and not await inquiries.has_subject(ctx.source, command.project_id, command.build_id):
            raise NotFound(SUBJECT_DELETED)
        return end

    return await wait_for_work(request, ctx, inquiry_notification(command.inquiry_id), find, timeout_s)


def to_diagnosis(build_id: int, found: Answer, provider: str, fell_back: str) -> DiagnosisView:
    return to_view(
        DiagnosisView,
        found,
        build_id=build_id,
        claims=to_claims(found.claims),
        next_step=to_next_step(found.next_step),
        provider=provider,
        fell_back=fell_back,
    )


def must_have_failed(build: BuildRow) -> None:
    """Raises Conflict if the build has not ended or has passed, so that there is no failure to explain."""
    if build.status in ("queued", "running"):
        raise Conflict(f"Build {build.id} has not ended yet; it can be diagnosed when it has failed.")
    if build.status == "passed":
        raise Conflict(f"Build {build.id} passed, so there is no failure to diagnose.")


def to_claims(claims: tuple[AnswerClaim, ...]) -> list[ClaimView]:
    return [ClaimView(claim.text, list(claim.sources), claim.is_guess) for claim in claims]


def to_next_step(step: NextStep | None) -> NextStepView | None:
    return None if step is None else to_view(NextStepView, step)
