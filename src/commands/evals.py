"""Commands on evaluations. `workers/evals.py` runs their cases."""

from collections.abc import Iterable
from dataclasses import dataclass

from commands.handler import Command
from domain.core.events import Event
from domain.evals import (
    EVALUATION,
    EvalCompleted,
    EvalFailed,
    EvalGraded,
    EvalRequested,
    EvalRun,
    EvalStarted,
    GradedCase,
    SuiteChoice,
)


@dataclass(frozen=True)
class RequestEval(Command, of=EVALUATION):
    eval_id: str
    suite: SuiteChoice
    model: str
    cases: tuple[str, ...]

    def decide(self, evaluation: EvalRun | None) -> Iterable[Event]:
        if evaluation is None:
            yield self.event(EvalRequested)


@dataclass(frozen=True)
class StartEval(Command, of=EVALUATION):
    """Records that a worker has begun an evaluation. Has no effect if a worker has begun it already."""

    eval_id: str

    def decide(self, evaluation: EvalRun | None) -> Iterable[Event]:
        if evaluation is not None and evaluation.status == "pending":
            yield self.event(EvalStarted)


@dataclass(frozen=True)
class RecordGrades(Command, of=EVALUATION):
    """Records the grades of some cases. Leaves out cases that are graded already, or that the evaluation does not
    have.
    """

    eval_id: str
    graded: tuple[GradedCase, ...]

    def decide(self, evaluation: EvalRun | None) -> Iterable[Event]:
        if evaluation is None or evaluation.status != "running":
            return
        open_cases = set(evaluation.ungraded)
        if graded := [one for one in self.graded if one.case in open_cases]:
            yield self.event(EvalGraded, graded=graded)


@dataclass(frozen=True)
class CompleteEval(Command, of=EVALUATION):
    """Records the end of an evaluation. Has no effect while a case is not graded."""

    eval_id: str

    def decide(self, evaluation: EvalRun | None) -> Iterable[Event]:
        if evaluation is None or evaluation.status != "running" or evaluation.ungraded:
            return
        passed = sum(one.passed for one in evaluation.graded.values())
        yield self.event(EvalCompleted, cases_passed=passed, cases_failed=len(evaluation.cases) - passed)


@dataclass(frozen=True)
class FailEval(Command, of=EVALUATION):
    """Records why an evaluation could not go on. Has no effect if it has ended."""

    eval_id: str
    error: str

    def decide(self, evaluation: EvalRun | None) -> Iterable[Event]:
        if evaluation is not None and not evaluation.has_ended:
            yield self.event(EvalFailed)
