"""Summaries of events about evaluations. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping

from domain import evals
from domain.core.events import Event


def _graded(event: evals.EvalGraded) -> str:
    passed = sum(one.passed for one in event.graded)
    return f"graded cases of evaluation {event.eval_id}: {passed} of {len(event.graded)} passed"


EVAL_SUMMARIES: Mapping[type[Event], str | Callable[..., str]] = {
    evals.EvalRequested: "asked for evaluation {eval_id} of the suite {suite} with the model{model: “}",
    evals.EvalStarted: "began evaluation {eval_id}",
    evals.EvalGraded: _graded,
    evals.EvalCompleted: "completed evaluation {eval_id}: {cases_passed} passed and {cases_failed} failed",
    evals.EvalFailed: "could not go on with evaluation {eval_id}{error:: “}",
}
