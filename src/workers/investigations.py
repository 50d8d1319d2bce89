"""Investigations: an AI job that has found something looks at the failure that matters most, asks for more evidence,
and concludes. Without a language model, rules choose the look-ups and word the conclusion. With a model, the model does
both, but the verdict, its confidence, the numbers and the next step are still those of the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from psycopg_pool import AsyncConnectionPool

from commands.inquiries import AnswerInquiry
from domain.assistant.answers import Answer, Question
from domain.assistant.evidence import Evidence
from domain.assistant.investigations import add_cause, add_lookups, collect_sources
from domain.assistant.lookups import LookedUp, Lookup, offer_lookups
from domain.inquiries import JobType
from projections import results_history
from projections.evidence import gather
from projections.lookups import look_up
from store.log.event_log import EventLog
from workers.language_model import AnswerWriter, Authored, ChosenLookups
from workers.project_analyses import DAYS, Findings, TakeStep

QUESTIONS: dict[JobType, str] = {
    "project_audit": "How healthy is this project, what costs it most, and what should be done first?",
    "failure_cluster": "What are the most frequent causes of the failures, and what should be done first?",
    "regression_scan": "Which tests broke with which commits, why, and what should be done first?",
}


@dataclass(frozen=True)
class Investigator:
    pool: AsyncConnectionPool
    event_log: EventLog
    writer: AnswerWriter

    async def conclude(
        self, inquiry_id: str, kind: JobType, project_id: int, found: Findings, take_step: TakeStep
    ) -> AnswerInquiry:
        """Returns the command that records what an AI job has found and concluded."""
        question = Question(kind, project_id, message=QUESTIONS[kind], days=DAYS)
        lead = await self._gather_for_lead(project_id, found)
        answer = found.answer if lead is None else add_cause(found.answer, lead)
        if lead is not None and answer.root_cause:
            await take_step("cause", f"The cause of the failure that matters most: {answer.root_cause}")
        evidence = Evidence(question, collect_sources(answer, lead, ()))
        chosen = await self.writer.choose_lookups(
            evidence, answer, offer_lookups(answer.sources), inquiry_id=inquiry_id
        )
        looked = await self._look_up(project_id, chosen.lookups, take_step)
        answer = add_lookups(answer, looked)
        evidence = Evidence(question, collect_sources(answer, lead, looked))
        written = await self.writer.answer(evidence, answer, inquiry_id=inquiry_id)
        return AnswerInquiry(
            inquiry_id,
            written.answer,
            found.evidence | {"sources": msgspec.to_builtins(evidence.sources)},
            found.result | _to_result(answer, written, looked, chosen),
            provider=written.provider,
            model=written.model,
            prompt="\n\n".join(filter(None, (chosen.prompt, written.prompt))),
            tokens=chosen.tokens + written.tokens,
            fell_back=written.fell_back or chosen.fell_back,
        )

    async def _gather_for_lead(self, project_id: int, found: Findings) -> Evidence | None:
        """Returns the evidence for the failure that matters most; None if the job found no failure, or if the failure
        was deleted meanwhile.
        """
        if found.lead is None:
            return None
        origin = await results_history.find_origin(self.pool, found.lead)
        if origin is None or origin.project_id != project_id:
            return None
        question = Question("diagnosis", project_id, origin.build_id, origin.result_id, max_tests=1)
        return await gather(self.pool, self.event_log, question)

    async def _look_up(self, project_id: int, lookups: Sequence[Lookup], take_step: TakeStep) -> list[LookedUp]:
        looked: list[LookedUp] = []
        for lookup in lookups:
            one = await look_up(self.pool, project_id, lookup)
            if one is not None:
                await take_step(lookup.kind, one.text)
                looked.append(one)
        return looked


def _to_result(answer: Answer, written: Authored, looked: Sequence[LookedUp], chosen: ChosenLookups) -> dict[str, Any]:
    """Returns the conclusion of an AI job as fields of its `result`, which the API shows."""
    result: dict[str, Any] = msgspec.to_builtins(
        {
            "verdict": answer.classification,
            "confidence": answer.confidence if answer.classification else None,
            "conclusion": written.answer.text,
            "claims": written.answer.claims,
            "root_cause": written.answer.root_cause,
            "suggested_fix": written.answer.suggested_fix,
            "next_step": answer.next_step,
            "lookups": [{"kind": one.lookup.kind, "ref": one.lookup.ref, "text": one.text} for one in looked],
            "sources": answer.sources,
            "provider": written.provider,
            "fell_back": written.fell_back or chosen.fell_back,
        }
    )
    return result
