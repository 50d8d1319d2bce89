"""Does the work of the worker that runs evaluations, for tests whose server has no workers."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from commands.evals import CompleteEval, FailEval, RecordGrades, RequestEval, StartEval
from commands.evaluation.cases import load_cases, select_cases
from commands.handler import Command, CommandContext, Handler
from commands.token_quota import TokenMeter
from domain.evals import PREFIX, GradedCase, SuiteChoice
from domain.language_model import BUILTIN, ModelPolicy
from store.clock import utcnow
from testhide.processes import Core, core
from tests.support.server import Server
from workers.evals import EvalRunner
from workers.language_model import AnswerWriter

T = TypeVar("T")
CALLER = CommandContext("system:tests")
PASSED, FAILED = GradedCase("a", True, "infra", "infra"), GradedCase("a", False, "infra", "flaky", ("It is flaky.",))


def run_evals(server: Server, suite: SuiteChoice, *sample_sizes: int) -> Sequence[str]:
    """Runs an evaluation for each of the sample sizes, one after the other. Returns their ids."""

    async def run(parts: Core, handler: Handler) -> list[str]:
        meter = TokenMeter(parts.log, handler, utcnow)
        runner = EvalRunner(parts.log, handler, AnswerWriter(ModelPolicy(), None, meter, utcnow, timedelta()))
        ids = [new_id() for _ in sample_sizes]
        for eval_id, size in zip(ids, sample_sizes, strict=True):
            names = tuple(select_cases(load_cases(), suite, size))
            await handler.execute(RequestEval(eval_id, suite, BUILTIN, names), CALLER)
            await runner.run(eval_id)
        return ids

    return _run(server, run)


def record_evals(server: Server) -> str:
    """Records evaluations with each status, without running cases. Returns the id of the last complete one: its case
    failed, and had passed in the one before.
    """
    first, last, pending, running, failed = (new_id() for _ in range(5))

    async def record(parts: Core, handler: Handler) -> str:
        commands: list[Command] = []
        for eval_id in (first, last, pending, running, failed):
            commands.append(RequestEval(eval_id, "diagnosis", BUILTIN, ("a",)))
            commands += [StartEval(eval_id)] if eval_id != pending else []
        for eval_id, grade in ((first, PASSED), (last, FAILED)):
            commands += [RecordGrades(eval_id, (grade,)), CompleteEval(eval_id)]
        for command in (*commands, FailEval(failed, "No model answers.")):
            await handler.execute(command, CALLER)
        return last

    return _run(server, record)


def new_id() -> str:
    return PREFIX + secrets.token_hex(8)


def _run(server: Server, work: Callable[[Core, Handler], Awaitable[T]]) -> T:
    async def run() -> T:
        async with core(server.settings, pool_size=1) as parts:
            return await work(parts, Handler(parts.log, utcnow))

    found = asyncio.run(run())
    server.wait_until_projected()
    return found
