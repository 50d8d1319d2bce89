"""Runs of evaluations: every case is graded once, however often a worker is interrupted."""

import pytest

from commands.evals import CompleteEval, FailEval, RecordGrades, RequestEval, StartEval
from commands.evaluation.cases import load_cases, select_cases
from commands.handler import CommandContext, Handler
from domain.evals import EVALUATION, EvalGraded, EvalRun, GradedCase
from domain.language_model import BUILTIN
from store.clock import utcnow
from testhide.processes import Core
from workers.evals import BATCH_SIZE, EvalRunner

ANN = CommandContext("user:1")
EVAL = "eval-1"


@pytest.fixture
def handler(parts: Core) -> Handler:
    return Handler(parts.log, utcnow)


async def load(parts: Core) -> EvalRun:
    evaluation = await parts.log.load_state(EVALUATION.at(EVAL))
    assert evaluation is not None
    return evaluation


async def test_a_worker_grades_all_cases_and_completes(parts: Core, handler: Handler) -> None:
    names = tuple(select_cases(load_cases(), "health"))
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, names), ANN)
    await EvalRunner(parts.log, handler).run(EVAL)
    evaluation = await load(parts)
    assert evaluation.status == "complete"
    assert list(evaluation.graded) == list(names)
    assert all(one.faults for one in evaluation.graded.values() if not one.passed)


async def test_a_worker_goes_on_after_another_one_was_killed(parts: Core, handler: Handler) -> None:
    names = tuple(select_cases(load_cases(), "health", BATCH_SIZE + 3))
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, names), ANN)
    await handler.execute(StartEval(EVAL), ANN)
    marked = tuple(GradedCase(name, False, "mark", "mark", ("marked",)) for name in names[:BATCH_SIZE])
    await handler.execute(RecordGrades(EVAL, marked), ANN)
    for _ in range(2):
        await EvalRunner(parts.log, handler).run(EVAL)
    evaluation = await load(parts)
    assert [one for one in evaluation.graded.values() if one.got == "mark"] == list(marked)
    recorded = await parts.log.read_stream(EVALUATION.at(EVAL).name, 0, 100)
    graded = [one.case for event in recorded if isinstance(event.event, EvalGraded) for one in event.event.graded]
    assert graded == list(names)


async def test_a_case_that_this_release_lacks_fails(parts: Core, handler: Handler) -> None:
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, ("gone",)), ANN)
    await EvalRunner(parts.log, handler).run(EVAL)
    (graded,) = (await load(parts)).graded.values()
    assert (graded.passed, graded.faults) == (False, ("This release does not have the case.",))


async def test_an_evaluation_that_failed_stays_as_it_is(parts: Core, handler: Handler) -> None:
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, ("gone",)), ANN)
    await handler.execute(FailEval(EVAL, "The model does not answer."), ANN)
    await EvalRunner(parts.log, handler).run(EVAL)
    await handler.execute(CompleteEval(EVAL), ANN)
    evaluation = await load(parts)
    assert (evaluation.status, evaluation.error, evaluation.graded) == ("failed", "The model does not answer.", {})
