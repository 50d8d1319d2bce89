"""Answers inquiries: questions to the assistant, and AI jobs."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.inquiries import AnswerInquiry, FailInquiry, TakeInquiryStep
from domain.assistant.answers import Question
from domain.assistant.builtin_answers import answer, answer_without_project
from domain.core.errors import Erased, Unavailable
from domain.core.events import Damaged, Recorded
from domain.inquiries import INQUIRY, JOB_TYPES, Inquiry, InquiryAnswered, InquiryAsked, JobType, find_job_type
from projections import inquiries
from projections.evidence import gather
from store.log.event_log import EventLog
from store.postgres.cancellation import cancel_and_wait
from store.postgres.paced_turns import PacedTurns
from workers.investigations import Investigator
from workers.language_model import AnswerWriter
from workers.project_analyses import ProjectAnalyst

T = TypeVar("T")

log = structlog.get_logger()

CALLER = CommandContext("system:assistant")
CANCEL_POLL_INTERVAL_S = 0.5
"""Seconds between two looks whether the inquiry was cancelled."""
GIVE_UP_AFTER = timedelta(minutes=5)
"""Age of an inquiry from which a failed try is not repeated any more: the inquiry fails."""
OVERDUE_AFTER = timedelta(hours=1)
"""Age of an inquiry at which it fails in any case, for example because its worker died in each try."""
SWEEP_INTERVAL_S = 60.0
"""Seconds between two searches for overdue inquiries."""
SWEPT_AT_ONCE = 100
MAX_EARLIER = 4
"""Number of earlier messages of a conversation that an answer takes into account."""
FAILURE = "The assistant could not answer because of an error of the server. Ask again, or tell the operator."
OVERDUE = "The assistant has not answered in an hour. Ask again, or tell the operator."


@dataclass(frozen=True)
class InquiryAnswerer:
    """Answers inquiries. Answering an inquiry again has no effect."""

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    wait_reached: Callable[[int], Awaitable[bool]]
    """Waits until the read models have reached a position. Returns False if they do not reach it in time."""
    clock: Callable[[], datetime]
    writer: AnswerWriter
    """Lets the language model, if there is one, answer questions."""
    turns: PacedTurns = field(default_factory=PacedTurns)
    """Lets users take turns while rules answer their questions, and pauses in between, so that many questions leave
    time for other requests.
    """

    async def answer(self, event: InquiryAsked) -> None:
        """Answers the inquiry, and records the answer. Stops if the inquiry is cancelled meanwhile, and does nothing if
        it has ended. Raises Unavailable if the read models are behind.
        """
        loaded = await self.event_log.load_at_version(INQUIRY.at(event.inquiry_id))
        inquiry = loaded.state
        if inquiry is None or inquiry.end is not None:
            return
        # Not until the head of the log: while much is written, the read models might never reach it in time.
        if not await self.wait_reached(loaded.position):
            raise Unavailable("The read models are behind the log.")
        with contextlib.suppress(Erased):  # what it is about was deleted meanwhile
            try:
                await self._work(inquiry)
            except (psycopg.OperationalError, Unavailable, Erased):
                raise
            except Exception:
                if self.clock() - inquiry.asked_at < GIVE_UP_AFTER:
                    raise
                log.exception("an inquiry has failed", inquiry=inquiry.inquiry_id)
                await self.handler.execute(FailInquiry(inquiry.inquiry_id, FAILURE), CALLER)

    async def fail_overdue(self) -> None:
        """Records as failed each inquiry that is older than OVERDUE_AFTER and has no answer."""
        for inquiry_id in await inquiries.find_overdue(self.pool, self.clock() - OVERDUE_AFTER, SWEPT_AT_ONCE):
            with contextlib.suppress(Erased):
                await self.handler.execute(FailInquiry(inquiry_id, OVERDUE), CALLER)

    async def _work(self, inquiry: Inquiry) -> None:
        kind, project_id = find_job_type(inquiry.kind), inquiry.project_id
        done: AnswerInquiry | None
        if project_id is None:
            done = AnswerInquiry(inquiry.inquiry_id, answer_without_project(inquiry.message))
        elif kind is None:
            done = await self._reply(inquiry, project_id)
        else:
            done = await self._until_cancelled(inquiry, self._analyze(inquiry, kind, project_id))
        if done is not None:
            await self.handler.execute(done, CALLER)

    async def _until_cancelled(self, inquiry: Inquiry, work: Coroutine[Any, Any, T]) -> T | None:
        """Returns what `work` returns. Cancels `work` and returns None if the inquiry ends meanwhile."""
        working = asyncio.create_task(work)
        try:
            while not working.done():
                await asyncio.wait((working,), timeout=CANCEL_POLL_INTERVAL_S)
                if not working.done() and await self._has_ended(inquiry.inquiry_id):
                    return None
            return working.result()
        finally:
            await cancel_and_wait(working)

    async def _has_ended(self, inquiry_id: str) -> bool:
        state = await self.event_log.load_state(INQUIRY.at(inquiry_id))
        return state is None or state.end is not None

    async def _reply(self, inquiry: Inquiry, project_id: int) -> AnswerInquiry | None:
        """Returns the command that records the answer to a question; None if the question was cancelled."""
        async with self.turns.take(f"user:{inquiry.user_id}"):
            question = Question(
                inquiry.kind,
                project_id,
                inquiry.build_id,
                inquiry.result_id,
                inquiry.message,
                await self._fetch_earlier(inquiry),
                inquiry.include_logs,
                inquiry.max_tests,
                inquiry.days,
                inquiry.build_choice,
            )
            evidence = await gather(self.pool, self.event_log, question)
            builtin = await asyncio.to_thread(answer, evidence)
        writing = self.writer.answer(evidence, builtin, inquiry_id=inquiry.inquiry_id, model=inquiry.model)
        found = await self._until_cancelled(inquiry, writing)
        if found is None:
            return None
        return AnswerInquiry(
            inquiry.inquiry_id,
            found.answer,
            msgspec.to_builtins(evidence),
            provider=found.provider,
            model=found.model,
            prompt=found.prompt or "",
            tokens=found.tokens,
            fell_back=found.fell_back or "",
        )

    async def _fetch_earlier(self, inquiry: Inquiry) -> tuple[tuple[str, str], ...]:
        """Returns (message, reply) of earlier inquiries of the conversation that were answered and are about the same
        project: the last MAX_EARLIER, the oldest first.
        """
        this = await inquiries.find(self.pool, inquiry.inquiry_id)
        if this is None or not inquiry.session_id:
            return ()
        rows = await inquiries.fetch_earlier(
            self.pool, inquiry.session_id, inquiry.project_id, this.position, MAX_EARLIER
        )
        states = [await self.event_log.load_state(INQUIRY.at(row.id)) for row in reversed(rows)]
        return tuple(
            (state.message, state.end.answer.text)
            for state in states
            if state is not None and isinstance(state.end, InquiryAnswered)
        )

    async def _analyze(self, inquiry: Inquiry, kind: JobType, project_id: int) -> AnswerInquiry:
        number = 0

        async def take_step(lookup: str, text: str) -> None:
            nonlocal number
            number += 1
            await self.handler.execute(TakeInquiryStep(inquiry.inquiry_id, number, lookup, text), CALLER)

        found = await ProjectAnalyst(self.pool, self.clock).analyze(kind, project_id, take_step)
        investigator = Investigator(self.pool, self.event_log, self.writer)
        return await investigator.conclude(inquiry.inquiry_id, kind, project_id, found, take_step)


def select_inquiries(events: Sequence[Recorded], *, are_jobs: bool) -> list[Recorded]:
    """Returns the events that ask for AI jobs or, if `are_jobs` is false, those that ask questions. Also returns events
    that cannot be read, so that they are parked instead of skipped.
    """
    return [
        one
        for one in events
        if isinstance(one.event, Damaged)
        or (isinstance(one.event, InquiryAsked) and (one.event.kind in JOB_TYPES) == are_jobs)
    ]
