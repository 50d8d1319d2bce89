"""Searches older failures for matches with new and changed known issues. Classifies the failures that match and have no
classification yet.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

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
"""Largest number of known issues that one sweep handles, in all projects."""
SLICE_S = 2.0
"""Seconds of CPU time after which a sweep goes on with the next project. Patterns that take long cost other projects no
more than this.
"""
MAX_CPU_S = 60.0
"""Largest CPU time of one search, in seconds. A search that has used this much ends, even if it has not compared all
failures.
"""
CHUNK_SIZE = 500
"""Number of failures that are read at once."""
MAX_FAILURES = 100_000
"""Number of failures after which a search ends. Nobody needs a classification of even older failures."""
NEWEST = 2**53
"""A number above every result id. A search begins with the first result below it."""
CALLER = CommandContext("system:known-issues")


@dataclass
class SearchEffort:
    """Cost of a search in this process so far, over several sweeps."""

    failures: int = 0
    cpu_s: float = 0.0


@dataclass
class KnownIssueSearch:
    """Periodic search through older failures. If two processes sweep at once, both continue after the last failure
    whose comparison was recorded.
    """

    pool: AsyncConnectionPool
    event_log: EventLog
    handler: Handler
    chunk_size: int = CHUNK_SIZE
    max_failures: int = MAX_FAILURES
    slice_s: float = SLICE_S
    max_cpu_s: float = MAX_CPU_S
    _efforts: dict[tuple[int, int], SearchEffort] = field(default_factory=dict)
    """(Known issue id, edition) -> effort of the search, for each search that is not complete."""

    async def sweep(self) -> None:
        """Continues the search for each known issue whose newest edition is not compared with all older failures. An
        issue gets a new edition when its rule or its classification changes. Projects take turns: each has `slice_s` of
        CPU time in a sweep.
        """
        used: dict[int | None, float] = defaultdict(float)
        for known_issue_id, project_id in await known_issues.find_unsearched(self.pool, SWEEP_SIZE):
            if used[project_id] and used[project_id] >= self.slice_s:
                continue
            try:
                used[project_id] += await self._search(known_issue_id, self.slice_s - used[project_id])
            except Rejection as error:
                log.info("known issue not searched", known_issue=known_issue_id, detail=error.detail)

    async def _search(self, known_issue_id: int, slice_s: float) -> float:
        """Continues a search until it has used `slice_s` seconds of CPU time, but compares at least one failure.
        Returns the CPU time used.
        """
        issue = await self.event_log.load_state(KNOWN_ISSUE.at(known_issue_id))
        if issue is None or issue.deleted:
            return 0.0
        rules, key = MatchRules(issue.match_rules), (known_issue_id, issue.edition)
        effort = self._efforts.setdefault(key, SearchEffort())
        edition, down_to = issue.searched
        before, used = down_to if edition == issue.edition else NEWEST, 0.0
        while before:
            chunk = await results_history.fetch_older_failures(self.pool, issue.project_id, before, self.chunk_size)
            compared, found, took = await asyncio.to_thread(_compare, rules, chunk, slice_s - used)
            used += took
            effort.failures += compared
            effort.cpu_s += took
            is_last = compared == len(chunk) < self.chunk_size or effort.failures >= self.max_failures
            if not is_last and effort.cpu_s >= self.max_cpu_s:
                is_last = True
                log.warning(
                    "the search for a known issue ends early: its pattern takes too long",
                    known_issue=known_issue_id,
                    compared=effort.failures,
                    cpu_s=round(effort.cpu_s, 1),
                )
            before = 0 if is_last else chunk[compared - 1].id
            is_over = used >= slice_s
            if found or is_last or is_over:
                note = NoteSearch(known_issue_id, issue.edition, before, found)
                if not (await self.handler.execute(note, CALLER)).events:
                    break
            if is_over:
                break
        if not before:
            del self._efforts[key]
        return used


def _compare(
    rules: MatchRules, chunk: Sequence[OlderFailure], slice_s: float
) -> tuple[int, list[tuple[int, int]], float]:
    """Compares the unclassified failures in `chunk` with the rules. Stops after `slice_s` seconds of CPU time, but not
    before the first failure. Returns three values: how many failures of `chunk` are done, (result id, job id) of each
    match, and the CPU time used.
    """
    began, compared = time.thread_time(), 0
    found: list[tuple[int, int]] = []
    matches: dict[tuple[str, ...], bool] = {}
    for failure in chunk:
        compared += 1
        if not failure.is_open:
            continue
        texts = (failure.message, failure.trace, failure.fail_id, failure.signature)
        if texts not in matches:
            report = ReportRead(statuses=bytearray([FAILED]), texts=[ResultText(0, *texts)])
            matches[texts] = bool(rules.find_matches(report))
        if matches[texts]:
            found.append((failure.id, failure.job_id))
        if time.thread_time() - began >= slice_s:
            break
    return compared, found, time.thread_time() - began
