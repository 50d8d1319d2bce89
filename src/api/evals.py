"""Evaluations: how well the assistant answers cases whose right answers are known. A worker runs them."""

import asyncio
import secrets
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.params import Parameter
from msgspec import Meta

from api.http.paging import MAX_PAGE_SIZE, check_one_offset, next_page
from api.http.permissions import admins_only
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from commands.evals import RequestEval
from commands.evaluation.cases import estimate_seconds, load_cases, select_cases
from domain.core.errors import Conflict, NotFound
from domain.evals import (
    EVALUATION,
    PREFIX,
    ChangedCase,
    EvalRun,
    EvalStatus,
    SuiteChoice,
    compare,
    compute_score,
)
from projections import evals
from projections.evals import EvalRow

GUARD = admins_only("run evaluations and read their results")
DEFAULT_LIMIT = 20
"""Number of evaluations on a page if the request does not say how many it wants."""
NO_PAIR = "There are no two complete evaluations of one suite: run one more, then try again."

EvalId = Annotated[str, Parameter(max_length=100, description="Id of the evaluation")]


class EvalItem(msgspec.Struct):
    id: str
    model: str
    """Name of the language model that answers; `builtin` if the server answers without one."""
    status: EvalStatus
    """`complete` once all cases are graded; `failed` if the evaluation could not go on."""
    score: float
    """Share of the graded cases that passed; 0 before any case is graded."""
    cases_total: int
    cases_passed: int
    cases_failed: int
    suite: SuiteChoice
    created_at: datetime
    number: int
    """Number of the evaluation, for the parameter `before` of the list."""


class FailedCase(msgspec.Struct):
    case: str
    expected: str
    """The right answer, in a few words."""
    got: str
    """The given answer in a few words."""
    faults: list[str]
    """Sentences that say what is wrong with the answer."""


class CaseResult(msgspec.Struct):
    case: str
    passed: bool
    """Whether the answer was right."""
    tokens: int
    """Number of tokens that a language model used for the answer."""


class EvalDetails(msgspec.Struct):
    id: str
    model: str
    """Name of the language model that answers; `builtin` if the server answers without one."""
    status: EvalStatus
    """`complete` once all cases are graded; `failed` if the evaluation could not go on."""
    suite: SuiteChoice
    score: float
    """Share of the graded cases that passed; 0 before any case is graded."""
    cases_total: int
    cases_passed: int
    cases_failed: int
    failures: list[FailedCase]
    """The cases that failed, in the order in which they ran."""
    results: list[CaseResult]
    """All cases that are graded, in the order in which they ran."""
    tokens: int
    """Number of tokens that a language model used for all answers."""
    error: str
    """A sentence that says why the evaluation failed; empty unless the status is `failed`."""
    created_at: datetime
    started_at: datetime | None
    """Time at which a worker began to run the evaluation; null until then."""
    ended_at: datetime | None
    """Time at which the evaluation ended; null until then."""
    duration_s: int
    """Seconds from `started_at` to `ended_at`; 0 until the evaluation has ended."""


class NewEval(msgspec.Struct):
    suite: SuiteChoice
    """Suite whose cases are run; `full` for all suites."""
    model_override: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Name of a model to test instead of the configured one: one of those that the operator allows."""
    sample_size: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Number of cases to run; null for all. The same number always runs the same cases."""


class RequestedEval(msgspec.Struct):
    id: str
    status: EvalStatus
    suite: SuiteChoice
    model: str
    """Name of the language model that answers; `builtin` if the server answers without one."""
    estimated_s: int
    """Seconds that the evaluation will probably take."""
    cases_total: int


class Regressions(msgspec.Struct):
    baseline: str
    """Id of the evaluation with which `current` is compared."""
    current: str
    """Id of the evaluation that is compared with `baseline`."""
    score_delta: float
    """Share of cases that passed in `current`, minus the share that passed in `baseline`. Only cases that both
    evaluations have count.
    """
    cases_compared: int
    """Number of cases that both evaluations have."""
    regressions: list[ChangedCase]
    """Cases that passed in `baseline` and failed in `current`."""
    improvements: list[ChangedCase]
    """Cases that failed in `baseline` and passed in `current`."""


class EvalController(Controller):
    path = "/evals"
    tags = ["LLM Evaluations"]

    @get(guards=[GUARD], opt={"headers": ("Link",)})
    async def list_evals(
        self,
        ctx: RequestContext,
        status: Annotated[EvalStatus | None, Parameter(description="Filter by status")] = None,
        page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")] = DEFAULT_LIMIT,
        before: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only items before this number, instead of a page")
        ] = None,
    ) -> Response[list[EvalItem]]:
        """Returns a page of the evaluations, the newest first."""
        check_one_offset(ctx.request, "before")
        offset = 0 if before else (page - 1) * limit
        found = await evals.fetch_page(ctx.source, status=status, before=before, limit=limit, offset=offset)
        headers = next_page(ctx.request, limit, [row.number for row in found], key="before")
        return Response([to_item(row) for row in found], headers=headers)

    @post("/runs", status_code=202, guards=[GUARD])
    async def start_eval(self, ctx: RequestContext, data: NewEval) -> RequestedEval:
        """Requests an evaluation of the configured model. A worker runs it; `GET /evals/{id}` shows how far it is."""
        model = ctx.services.model_policy.choose(data.model_override)
        cases = await asyncio.to_thread(load_cases)  # reads a megabyte of files the first time
        names = tuple(select_cases(cases, data.suite, data.sample_size))
        eval_id = PREFIX + secrets.token_hex(8)
        await ctx(RequestEval(eval_id, data.suite, model, names))
        estimated_s = estimate_seconds(len(names), model)
        return RequestedEval(eval_id, "pending", data.suite, model, estimated_s, len(names))

    @get("/regressions", guards=[GUARD], opt={"problems": (NotFound, Conflict)})
    async def get_eval_regressions(
        self,
        ctx: RequestContext,
        baseline_id: Annotated[
            str | None,
            Parameter(
                max_length=100,
                description="Evaluation to compare with; by default the last complete one of the suite before",
            ),
        ] = None,
        current_id: Annotated[
            str | None,
            Parameter(
                max_length=100,
                description="Evaluation to compare; by default the last complete one, of the baseline's suite if there"
                " is one",
            ),
        ] = None,
    ) -> Regressions:
        """Compares two complete evaluations, by default the last two of one suite. Returns the cases that passed in the
        earlier evaluation and failed in the later one, and the reverse. Only cases that both evaluations have count.
        """
        baseline, current = await self._find_pair(ctx, baseline_id, current_id)
        found = compare(baseline.graded.values(), current.graded.values())
        if not found.cases_compared:
            raise Conflict("The two evaluations have no case in common, so they cannot be compared.")
        return Regressions(
            baseline=baseline.eval_id,
            current=current.eval_id,
            score_delta=found.score_delta,
            cases_compared=found.cases_compared,
            regressions=found.regressions,
            improvements=found.improvements,
        )

    @get("/{id:str}", guards=[GUARD])
    async def get_eval(self, ctx: RequestContext, id: EvalId) -> EvalDetails:
        """Returns an evaluation, with the results of its cases so far."""
        return to_details(await load_eval(ctx, id))

    async def _find_pair(
        self, ctx: RequestContext, baseline_id: str | None, current_id: str | None
    ) -> tuple[EvalRun, EvalRun]:
        if baseline_id is None and current_id is None:
            pair = await ctx.find_row(evals.find_latest_pair)
            if pair is None:
                raise Conflict(NO_PAIR)
            baseline_id, current_id = pair
        baseline = None if baseline_id is None else await load_complete(ctx, baseline_id)
        current = None if current_id is None else await load_complete(ctx, current_id)
        if baseline is None:
            assert current is not None
            row = await find_eval(ctx, current.eval_id)
            baseline = await load_latest(ctx, current.suite, before=row.number)
        return baseline, current or await load_latest(ctx, baseline.suite, other_than=baseline.eval_id)


async def find_eval(ctx: RequestContext, eval_id: str) -> EvalRow:
    row = await ctx.find_row(lambda source: evals.find(source, eval_id))
    if row is None:
        raise NotFound(f"There is no evaluation {eval_id}.")
    return row


async def load_eval(ctx: RequestContext, eval_id: str) -> EvalRun:
    evaluation: EvalRun | None = await ctx.services.log.load_state(EVALUATION.at(eval_id))
    if evaluation is None:
        raise NotFound(f"There is no evaluation {eval_id}.")
    return evaluation


async def load_complete(ctx: RequestContext, eval_id: str) -> EvalRun:
    evaluation = await load_eval(ctx, eval_id)
    if evaluation.status != "complete":
        raise Conflict(f"Evaluation {eval_id} is {evaluation.status}, not complete, so it cannot be compared.")
    return evaluation


async def load_latest(
    ctx: RequestContext, suite: SuiteChoice, *, before: int | None = None, other_than: str = ""
) -> EvalRun:
    found = await ctx.find_row(
        lambda source: evals.find_latest_complete(source, suite, before=before, other_than=other_than)
    )
    if found is None:
        raise Conflict(NO_PAIR)
    return await load_eval(ctx, found)


def to_item(row: EvalRow) -> EvalItem:
    return EvalItem(
        id=row.id,
        model=row.model,
        status=row.status,
        score=compute_score(row.cases_passed, row.cases_passed + row.cases_failed),
        cases_total=row.cases_total,
        cases_passed=row.cases_passed,
        cases_failed=row.cases_failed,
        suite=row.suite,
        created_at=row.created_at,
        number=row.number,
    )


def to_details(evaluation: EvalRun) -> EvalDetails:
    graded = list(evaluation.graded.values())
    failed = [one for one in graded if not one.passed]
    passed = len(graded) - len(failed)
    begun, ended = evaluation.started_at, evaluation.ended_at
    return EvalDetails(
        id=evaluation.eval_id,
        model=evaluation.model,
        status=evaluation.status,
        suite=evaluation.suite,
        score=compute_score(passed, len(graded)),
        cases_total=len(evaluation.cases),
        cases_passed=passed,
        cases_failed=len(failed),
        failures=[FailedCase(one.case, one.expected, one.got, list(one.faults)) for one in failed],
        results=[CaseResult(one.case, one.passed, one.tokens) for one in graded],
        tokens=sum(one.tokens for one in graded),
        error=evaluation.error,
        created_at=evaluation.requested_at,
        started_at=begun,
        ended_at=ended,
        duration_s=round((ended - begun).total_seconds()) if begun and ended else 0,
    )
