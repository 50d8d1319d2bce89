"""Evaluations: how well the assistant answers the cases of a suite, whose right answers are known.

An evaluation names its cases when it is requested, so that every try of a worker runs the same cases. Each case is
graded once: a worker that takes over an evaluation leaves out the cases that are graded already.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.events import Category, Event, copy_fields

Suite = Literal["diagnosis", "chat", "health"]
"""Suite of a case. The values are stored, so they must not change."""
SuiteChoice = Literal["diagnosis", "chat", "health", "full"]
"""Cases that an evaluation runs: those of one suite, or all. The values are stored, so they must not change."""
EvalStatus = Literal["pending", "running", "complete", "failed"]

PREFIX = "eval-"
"""Beginning of the ids of evaluations."""


class GradedCase(msgspec.Struct, frozen=True, omit_defaults=True):
    case: str
    passed: bool
    expected: str
    """The right answer in a few words."""
    got: str
    """The given answer in a few words."""
    faults: tuple[str, ...] = ()
    """Sentences that say what is wrong with the answer; empty if the case passed."""
    tokens: int = 0
    """Tokens that a language model used for the answer."""


class EvalReport(msgspec.Struct, frozen=True):
    """Result of an evaluation by `testhide evals`, in the form in which it is saved to a file."""

    suite: SuiteChoice
    model: str
    score: float
    cases: tuple[GradedCase, ...]


class EvalEvent(Event, frozen=True):
    eval_id: str

    @property
    def stream(self) -> str:
        return EVALUATION.at(self.eval_id).name


class EvalRequested(EvalEvent, frozen=True):
    name: ClassVar[str] = "eval.requested"
    suite: SuiteChoice
    model: str
    """Name of the language model; `builtin` for the rules of the server."""
    cases: list[str]
    """Names of the cases, in the order in which they run."""


class EvalStarted(EvalEvent, frozen=True):
    name: ClassVar[str] = "eval.started"


class EvalGraded(EvalEvent, frozen=True):
    """The answers to some cases were graded."""

    name: ClassVar[str] = "eval.graded"
    graded: list[GradedCase]


class EvalCompleted(EvalEvent, frozen=True):
    name: ClassVar[str] = "eval.completed"
    cases_passed: int
    cases_failed: int


class EvalFailed(EvalEvent, frozen=True):
    """The evaluation ended before all cases were graded."""

    name: ClassVar[str] = "eval.failed"
    error: str
    """A sentence that says why."""


class EvalRun(msgspec.Struct, frozen=True):
    eval_id: str
    suite: SuiteChoice
    model: str
    cases: Sequence[str]
    requested_at: datetime
    status: EvalStatus = "pending"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
    graded: Mapping[str, GradedCase] = {}
    """Name of a case -> its grade, in the order in which the cases were graded."""

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    @property
    def ungraded(self) -> Sequence[str]:
        return [case for case in self.cases if case not in self.graded]


def evolve(state: EvalRun | None, event: Event) -> EvalRun | None:
    if isinstance(event, EvalRequested):
        return copy_fields(EvalRun, event, requested_at=event.at)
    if state is None:
        return None
    match event:
        case EvalStarted():
            return msgspec.structs.replace(state, status="running", started_at=event.at)
        case EvalGraded():
            return msgspec.structs.replace(state, graded={**state.graded, **{one.case: one for one in event.graded}})
        case EvalCompleted():
            return msgspec.structs.replace(state, status="complete", ended_at=event.at)
        case EvalFailed():
            return msgspec.structs.replace(state, status="failed", ended_at=event.at, error=event.error)
        case _:
            return state


def compute_score(passed: int, graded: int) -> float:
    """Returns the share of graded cases that passed; 0 if none was graded."""
    return round(passed / graded, 4) if graded else 0.0


class ChangedCase(msgspec.Struct, frozen=True):
    case: str
    baseline: Literal["pass", "fail"]
    """Outcome of the case in the earlier evaluation."""
    current: Literal["pass", "fail"]
    """Outcome of the case in the later evaluation."""


class Comparison(msgspec.Struct, frozen=True):
    """The differences between two evaluations. Only cases that are in both evaluations count."""

    cases_compared: int
    score_delta: float
    """Share of passed cases in the current evaluation, minus that in the baseline."""
    regressions: list[ChangedCase]
    """Cases that passed before and fail now."""
    improvements: list[ChangedCase]
    """Cases that failed before and pass now."""


def compare(baseline: Iterable[GradedCase], current: Iterable[GradedCase]) -> Comparison:
    before = {one.case: one.passed for one in baseline}
    pairs = [(one.case, before[one.case], one.passed) for one in current if one.case in before]
    rise = sum(now for _, _, now in pairs) - sum(then for _, then, _ in pairs)
    return Comparison(
        cases_compared=len(pairs),
        score_delta=round(rise / len(pairs), 4) if pairs else 0.0,
        regressions=[ChangedCase(case, "pass", "fail") for case, then, now in pairs if then and not now],
        improvements=[ChangedCase(case, "fail", "pass") for case, then, now in pairs if now and not then],
    )


EVALUATION = Category[EvalRun | None]("evaluation", None, evolve)
EVENTS = (EvalRequested, EvalStarted, EvalGraded, EvalCompleted, EvalFailed)
