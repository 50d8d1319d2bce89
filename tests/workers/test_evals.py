"""Runs of evaluations: every case is graded once, however often a worker is interrupted."""

import pytest

from commands.evals import CompleteEval, FailEval, RecordGrades, RequestEval, StartEval
from commands.evaluation.cases import load_cases, select_cases
from commands.handler import CommandContext, Handler
from domain.evals import EVALUATION, EvalGraded, EvalRun, GradedCase
from domain.language_model import BUILTIN
from integrations.llm.openai import OpenAiModel
from store.clock import utcnow
from testhide.processes import Core
from tests.commands.test_model_answers import SUPPORTED, reply
from tests.support.model_server import ModelServer, completes, refuses, serving_model
from tests.workers.test_language_model import writer
from workers.evals import BATCH_SIZE, MAX_SILENT, EvalRunner

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
    await EvalRunner(parts.log, handler, writer(parts, None)).run(EVAL)
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
        await EvalRunner(parts.log, handler, writer(parts, None)).run(EVAL)
    evaluation = await load(parts)
    assert [one for one in evaluation.graded.values() if one.got == "mark"] == list(marked)
    recorded = await parts.log.read_stream(EVALUATION.at(EVAL).name, 0, 100)
    graded = [one.case for event in recorded if isinstance(event.event, EvalGraded) for one in event.event.graded]
    assert graded == list(names)


async def test_a_case_that_this_release_lacks_fails(parts: Core, handler: Handler) -> None:
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, ("gone",)), ANN)
    await EvalRunner(parts.log, handler, writer(parts, None)).run(EVAL)
    (graded,) = (await load(parts)).graded.values()
    assert (graded.passed, graded.faults) == (False, ("This release does not have the case.",))


async def test_an_evaluation_that_failed_stays_as_it_is(parts: Core, handler: Handler) -> None:
    await handler.execute(RequestEval(EVAL, "health", BUILTIN, ("gone",)), ANN)
    await handler.execute(FailEval(EVAL, "The model does not answer."), ANN)
    await EvalRunner(parts.log, handler, writer(parts, None)).run(EVAL)
    await handler.execute(CompleteEval(EVAL), ANN)
    evaluation = await load(parts)
    assert (evaluation.status, evaluation.error, evaluation.graded) == ("failed", "The model does not answer.", {})


async def run_with_model(parts: Core, handler: Handler, server: ModelServer, *cases: str) -> EvalRun:
    model = OpenAiModel(server.url, "hush", 2)
    await handler.execute(RequestEval(EVAL, "full", "m-1", cases), ANN)
    try:
        await EvalRunner(parts.log, handler, writer(parts, model)).run(EVAL)
    finally:
        await model.close()
    return await load(parts)


async def test_the_answers_of_a_model_are_graded(parts: Core, handler: Handler) -> None:
    async with serving_model() as server:
        server.always = completes(reply(SUPPORTED), 321)
        cases = ("diagnose_pytest_division_by_zero", "health_always_passes")
        evaluation = await run_with_model(parts, handler, server, *cases)
        assert len(server.requests) == 1
    assert evaluation.status == "complete"
    answered, assessed = evaluation.graded.values()
    assert (answered.tokens, assessed.tokens, assessed.passed) == (321, 0, True)


async def test_an_answer_of_the_rules_does_not_count_as_the_models(parts: Core, handler: Handler) -> None:
    async with serving_model() as server:
        server.always = refuses(500)
        evaluation = await run_with_model(parts, handler, server, "diagnose_pytest_division_by_zero")
    (graded,) = evaluation.graded.values()
    assert (graded.passed, graded.got) == (False, "none")


async def test_an_evaluation_fails_if_the_model_is_silent(parts: Core, handler: Handler) -> None:
    names = select_cases(load_cases(), "diagnosis", 2 * MAX_SILENT)
    async with serving_model() as server:
        server.always = refuses(401)
        evaluation = await run_with_model(parts, handler, server, *names)
        assert len(server.requests) == MAX_SILENT
    assert evaluation.status == "failed"
    assert evaluation.error.startswith(f"The language model did not answer {MAX_SILENT} cases in a row.")
    assert len(evaluation.graded) == MAX_SILENT, "what was tried is shown"
    assert all("refused the API key" in one.faults[0] for one in evaluation.graded.values())


async def test_a_process_without_the_model_fails_its_evaluations(parts: Core, handler: Handler) -> None:
    names = tuple(select_cases(load_cases(), "diagnosis", MAX_SILENT))
    await handler.execute(RequestEval(EVAL, "diagnosis", "m-1", names), ANN)
    await EvalRunner(parts.log, handler, writer(parts, None)).run(EVAL)
    assert (await load(parts)).status == "failed"
