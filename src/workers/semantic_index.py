"""Keeps the passages of semantic search (`store.tables.passages`): reads them out of events, and adds vectors.

A passage stands for all texts of a project that are equal but for numbers, times, paths and the like. These are the
messages of failed tests, the details of failed builds, and the excerpts of their logs that explain the failure
(`domain.failures.log_explanations`).
"""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.builds import BuildDeleted, BuildExplained, BuildFinished
from domain.core.events import Recorded
from domain.failures.failure_codes import describe_codes
from domain.failures.log_signals import drop_commands
from domain.failures.message_masks import mask
from domain.jobs import JobDeleted
from domain.projects import ProjectDeleted
from domain.results import FAILED, ResultsRecorded
from domain.search import find_words
from integrations.embedding_ports import Embeddings, EmbeddingsUnavailable
from store.log.event_log import EventLog
from store.tables import log_positions, passages
from store.tables.passages import Passage, PassageType
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

NAME = "semantic search"
"""Name of the stored position of the SemanticIndex."""
POLL_INTERVAL_S = 2.0
BATCH_SIZE = 50
"""Number of events that one transaction handles. A block of results has up to a thousand results."""
VECTORS_AT_ONCE = 256
MAX_TEXT = 1_000
"""Largest number of characters of a passage. The rest of a longer text is left out."""
EVENTS = (ResultsRecorded, BuildFinished, BuildExplained, BuildDeleted, JobDeleted, ProjectDeleted)


@dataclass
class SemanticIndex:
    """Worker that keeps the passages up to date. Any number may run: they take turns. Each event is handled once."""

    pool: AsyncConnectionPool
    event_log: EventLog
    embeddings: Embeddings | None
    """Model for the vectors; None if there is none, so that passages are found by their words only."""

    async def run(self) -> None:
        """Keeps the passages and their vectors up to date until cancelled."""
        try:
            while True:
                async with tolerate_outages(NAME):
                    while await self.read_next_batch():
                        pass
                    while await self.add_vectors():
                        pass
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            if self.embeddings is not None:
                self.embeddings.close()

    async def read_next_batch(self) -> bool:
        """Stores the passages of the next events. Returns True if another batch may follow."""
        await log_positions.hold_beyond(self.pool, [NAME])
        async with self.pool.connection() as connection, connection.transaction():
            await log_positions.ensure_positions(connection, [NAME], at_head=False)
            position = await log_positions.lock_position(connection, NAME)
            assert position is not None, "it was stored in this transaction"
            batch = await self.event_log.read_batch(position, BATCH_SIZE, [event.name for event in EVENTS])
            for recorded in batch.events:
                await self._handle(connection, recorded)
            if batch.position > position:
                await log_positions.move_position(connection, NAME, batch.position)
        return batch.is_full

    async def add_vectors(self) -> bool:
        """Adds vectors to passages without one. Returns True if more may follow."""
        if self.embeddings is None:
            return False
        model = self.embeddings.model
        texts = await passages.fetch_without_vector(self.pool, model, VECTORS_AT_ONCE)
        try:
            vectors = await self.embeddings.embed([text for _, text in texts])
        except EmbeddingsUnavailable as error:
            log.warning("semantic search goes on without vectors of new passages", error=str(error))
            return False
        await passages.store_vectors(self.pool, model, texts, vectors)
        return len(texts) == VECTORS_AT_ONCE

    async def _handle(self, connection: AsyncConnection, recorded: Recorded) -> None:
        match recorded.event:
            case ResultsRecorded() as event if event.texts:
                await passages.store(connection, list(_of_results(event)))
            case BuildFinished(status="failed" | "aborted", detail=str(detail)) as event if detail:
                reason = (event.reason or "").replace("_", " ")
                text = f"{reason}: {detail}".removeprefix(": ")
                await passages.store(connection, [_make(event, "build", event.build_id, text)])
            case BuildExplained() as event:
                await passages.store(connection, list(_of_explanation(event)))
            case BuildDeleted(build_id=build_id):
                await passages.delete(connection, builds=[build_id])
            case JobDeleted(job_id=job_id):
                await passages.delete(connection, jobs=[job_id])
            case ProjectDeleted(project_id=project_id):
                await passages.delete(connection, projects=[project_id])
            case _:
                pass


def _of_explanation(event: BuildExplained) -> Iterator[Passage]:
    for excerpt, lines in zip(event.excerpts, event.lines, strict=False):  # an erased event has no lines
        if excerpt.reasons != ("end_of_log",):
            yield _make(event, "log", event.build_id, "\n".join(drop_commands(lines)))


def _of_results(event: ResultsRecorded) -> Iterator[Passage]:
    for text in event.texts:
        if event.statuses[text.row] == FAILED and (message := text.message or text.trace.rstrip().rpartition("\n")[2]):
            result_id = event.first_result_id + text.row
            yield _make(event, "test", event.case_ids[text.row], message, result_id)


def _make(
    event: ResultsRecorded | BuildFinished | BuildExplained,
    type: PassageType,
    subject_id: int,
    text: str,
    result_id: int | None = None,
) -> Passage:
    text = text[:MAX_TEXT]
    return Passage(
        project_id=event.project_id,
        type=type,
        digest=hashlib.blake2b(mask(text).encode("utf-8", "replace"), digest_size=16).digest(),
        subject_id=subject_id,
        result_id=result_id,
        job_id=event.job_id,
        build_id=event.build_id,
        text=text,
        words=" ".join(find_words(f"{text} {describe_codes(text)}")),
    )
