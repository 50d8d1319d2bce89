"""Runs evaluations: answers their cases, grades the answers, and records the grades."""

import asyncio
from dataclasses import dataclass

from commands.evals import CompleteEval, FailEval, RecordGrades, StartEval
from commands.evaluation.cases import Case, HealthCase, QuestionCase, load_cases
from commands.handler import CommandContext, Handler
from domain.evals import EVALUATION, GradedCase
from domain.language_model import BUILTIN
from store.log.event_log import EventLog
from workers.language_model import AnswerWriter

CALLER = CommandContext("system:evals")
BATCH_SIZE = 10
"""Number of cases whose grades are recorded together. After a crash, at most so many cases are answered again."""
MAX_SILENT = 5
"""Number of cases in a row without an answer of the language model after which an evaluation fails."""
SILENT = f"The language model did not answer {MAX_SILENT} cases in a row."


@dataclass(frozen=True)
class EvalRunner:
    event_log: EventLog
    handler: Handler
    writer: AnswerWriter
    """Asks the language model, if there is one."""

    async def run(self, eval_id: str) -> None:
        """Runs the cases that are not graded yet. Does nothing if the evaluation has ended."""
        await self.handler.execute(StartEval(eval_id), CALLER)
        evaluation = await self.event_log.load_state(EVALUATION.at(eval_id))
        if evaluation is None or evaluation.has_ended:
            return
        cases = await asyncio.to_thread(load_cases)
        grader = _Grader(eval_id, None if evaluation.model == BUILTIN else evaluation.model, self.writer)
        for start in range(0, len(evaluation.ungraded), BATCH_SIZE):
            names = evaluation.ungraded[start : start + BATCH_SIZE]
            graded = [await grader.grade(name, cases.get(name)) for name in names if not grader.has_given_up]
            await self.handler.execute(RecordGrades(eval_id, tuple(graded)), CALLER)
            if grader.has_given_up:
                await self.handler.execute(FailEval(eval_id, f"{SILENT} {grader.why_silent}"), CALLER)
                return
        await self.handler.execute(CompleteEval(eval_id), CALLER)


@dataclass
class _Grader:
    eval_id: str
    model: str | None
    """Name of the language model to ask; None for the rules of the server."""
    writer: AnswerWriter
    silent: int = 0
    """Number of the last cases in a row that the language model did not answer."""
    why_silent: str = ""
    """A sentence that says why the language model did not answer the last case."""

    @property
    def has_given_up(self) -> bool:
        return self.silent >= MAX_SILENT

    async def grade(self, name: str, case: Case | None) -> GradedCase:
        if case is None:  # a worker of another release has requested it
            return GradedCase(name, False, "", "", ("This release does not have the case.",))
        if self.model is not None and not isinstance(case, HealthCase):
            return await self._ask(name, case, self.model)
        expected, got, faults = await asyncio.to_thread(case.grade)
        return GradedCase(name, not faults, expected, got, faults)

    async def _ask(self, name: str, case: QuestionCase, model: str) -> GradedCase:
        evidence = await asyncio.to_thread(case.make_evidence)
        answer = case.answer_by_rules(evidence)
        tokens = 0
        if evidence.sources:  # without any, users get the answer of the rules, too
            why: str | None = "This process asks no language model."
            if self.writer.language_model is not None:
                authored = await self.writer.answer(evidence, answer, inquiry_id=f"{self.eval_id}-{name}", model=model)
                answer, tokens, why = authored.answer, authored.tokens, authored.fell_back
            if why is not None:
                return self._miss(name, why, tokens)
        self.silent = 0
        expected, got, faults = case.grade_answer(answer, evidence)
        return GradedCase(name, not faults, expected, got, faults, tokens=tokens)

    def _miss(self, name: str, why: str, tokens: int) -> GradedCase:
        self.silent += 1
        self.why_silent = why
        return GradedCase(name, False, "an answer of the language model", "none", (why,), tokens=tokens)
