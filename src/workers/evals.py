"""Runs evaluations: answers their cases, grades the answers, and records the grades."""

import asyncio
from dataclasses import dataclass

from commands.evals import CompleteEval, RecordGrades, StartEval
from commands.evaluation.cases import Case, load_cases
from commands.handler import CommandContext, Handler
from domain.evals import EVALUATION, GradedCase
from store.log.event_log import EventLog

CALLER = CommandContext("system:evals")
BATCH_SIZE = 10
"""Number of cases whose grades are recorded together. After a crash, at most so many cases are answered again."""


@dataclass(frozen=True)
class EvalRunner:
    event_log: EventLog
    handler: Handler

    async def run(self, eval_id: str) -> None:
        """Runs the cases that are not graded yet. Does nothing if the evaluation has ended."""
        await self.handler.execute(StartEval(eval_id), CALLER)
        evaluation = await self.event_log.load_state(EVALUATION.at(eval_id))
        if evaluation is None or evaluation.has_ended:
            return
        cases = await asyncio.to_thread(load_cases)
        for start in range(0, len(evaluation.ungraded), BATCH_SIZE):
            names = evaluation.ungraded[start : start + BATCH_SIZE]
            graded = [await self._grade(name, cases.get(name)) for name in names]
            await self.handler.execute(RecordGrades(eval_id, tuple(graded)), CALLER)
        await self.handler.execute(CompleteEval(eval_id), CALLER)

    async def _grade(self, name: str, case: Case | None) -> GradedCase:
        if case is None:  # a worker of another release has requested it
            return GradedCase(name, False, "", "", ("This release does not have the case.",))
        expected, got, faults = await asyncio.to_thread(case.grade)
        return GradedCase(name, not faults, expected, got, faults)
