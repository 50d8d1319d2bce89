"""Searches older failures for matches with new and changed known issues. Classifies the failures that match and have no
classification yet.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.known_issues import NoteSearch
from commands.reports.matching import MatchRules
from commands.reports.reading import ReportRead
from domain.core.errors import Rejection
from domain.known_issues import KNOWN_ISSUE
from domain.results import FAILED, ResultText
from projections import known_issues, results_history
from projections.results_history import OlderFailure
from store.log.event_log import EventLog

log = structlog.get_logger()

INTERVAL_S = 5.0
"""Seconds between two sweeps."""
SWEEP_SIZE = 100
"""Largest number of known issues that one sweep handles."""
CHUNK_SIZE = 500
"""Number of failures that a worker thread matches in one call."""
MAX_CHUNKS = 200
"""Number of chunks after which a search ends, which is after 100,000 failures with a text. Nobody needs a
classification of even older failures.
"""
NEWEST = 2**53
"""A number above every result id. A search begins with the first result below it."""
CALLER = CommandContext("system:known-issues")


@dataclass
class KnownIssueSearch:
    """Periodic search through older failures. If two processes sweep at once, both continue after the last chunk whose
    search was recorded.
    """

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    chunk_size: int = CHUNK_SIZE
    max_chunks: int = MAX_CHUNKS

    async def sweep(self) -> None:
        """Continues the search for each known issue whose newest edition is not compared with all older failures."""
        due = await known_issues.find_unsearched(self.pool, SWEEP_SIZE)
        for known_issue_id in due:
            try:
                await self._search(known_issue_id)
            except Rejection as error:
                log.info("known issue not searched", known_issue=known_issue_id, detail=error.detail)

    async def _search(self, known_issue_id: int) -> None:
        issue = await self.event_log.load_state(KNOWN_ISSUE.at(known_issue_id))
        if issue is None or issue.deleted:
            return
        rules = MatchRules(issue.match_rules)
        edition, down_to = issue.searched
        before = down_to if edition == issue.edition else NEWEST
        for number in range(self.max_chunks):
            if before == 0:
                return
            chunk = await results_history.fetch_older_failures(self.pool, issue.project_id, before, self.chunk_size)
            found = await asyncio.to_thread(_matching, rules, chunk)
            before = chunk[-1].id if len(chunk) == self.chunk_size and number + 1 < self.max_chunks else 0
            if found or before == 0:
                note = NoteSearch(known_issue_id, issue.edition, before, found)
                if not (await self.handler.execute(note, CALLER)).events:
                    return


def _matching(rules: MatchRules, chunk: Sequence[OlderFailure]) -> list[tuple[int, int]]:
    """Returns (result id, job id) of each unclassified failure in `chunk` that the rules match."""
    found = [text for text in chunk if text.is_open]
    report = ReportRead(
        statuses=bytearray([FAILED]) * len(found),
        texts=[
            ResultText(row, text.message, text.trace, text.fail_id, text.signature) for row, text in enumerate(found)
        ],
    )
    return [(found[match.row].id, found[match.row].job_id) for match in rules.find_matches(report)]
