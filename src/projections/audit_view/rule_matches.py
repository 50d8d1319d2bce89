"""Classifications by rules, for the audit trail: which known issue or rule classified which result.

A report, or a search through older failures, classifies many results by one event. The results' own streams do not have
this event. So the classification of a result is folded from two sources: the result's stream, and these events.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from domain.builds import ReportRecorded
from domain.core.events import Recorded
from domain.known_issues import KnownIssueSearched
from domain.results import results_stream
from domain.triage import CLASSIFICATIONS, TRIAGE, Classification, ResultEvent, ResultsClassifiedByRules, Triage
from domain.triage import Source as ClassificationSource
from projections import event_index
from store.log.event_log import EventLog
from store.postgres.queries import Source

CLASSIFYING = (ResultsClassifiedByRules.name, KnownIssueSearched.name, ReportRecorded.name)
"""Names of the events for which the audit trail shows how they classified results. The classifications that belong to a
`ReportRecorded` are stored in another event, the `ResultsClassifiedByRules` of its report.
"""


class RuleMatch(NamedTuple):
    """A match of a known issue, a classification rule or statistics with a result. The match classifies the result,
    unless a known issue, a rule, a user or AI has classified it before.
    """

    position: int
    result_id: int
    known_issue_id: int
    """Id of the known issue that matched; 0 for a classification rule and for statistics."""
    classification: Classification
    source_kind: ClassificationSource = "rule"

    def classify(self, triage: Triage) -> Triage:
        if triage.classification is not None and triage.set_by_kind != "statistics":
            return triage
        return msgspec.structs.replace(
            triage,
            classification=self.classification,
            set_by_kind=self.source_kind,
            known_issue_id=self.known_issue_id or None,
        )


def matches_in(recorded: Recorded) -> Iterator[RuleMatch]:
    match recorded.event:
        case ResultsClassifiedByRules() as event:
            for row in event.rows:
                classification = CLASSIFICATIONS[row.classification]
                kind: ClassificationSource = "statistics" if row.is_statistical else "rule"
                yield RuleMatch(recorded.position, row.result_id, row.known_issue_id, classification, kind)
        case KnownIssueSearched() as event:
            for result_id in event.result_ids:
                yield RuleMatch(recorded.position, result_id, event.known_issue_id, event.classification)


def fold_triage(events: Iterable[Recorded], matches: Iterable[RuleMatch]) -> Triage:
    """Returns the triage of a result: its classification, defect and resolution. Folds two lists in the order of the
    log: `events`, the events of the result's triage stream, and `matches`, the rule matches with this result.
    """
    state = TRIAGE.initial
    steps: list[Recorded | RuleMatch] = [*events, *matches]
    for step in sorted(steps, key=lambda step: step.position):
        state = step.classify(state) if isinstance(step, RuleMatch) else TRIAGE.evolve(state, step.event)
    return state


@dataclass
class RuleMatches:
    """Finds in the log which rules matched which results."""

    source: Source
    log: EventLog
    read_bytes: int = 0
    """Size in bytes of the fields of all events that were read so far."""

    async def find_for_stream(self, stream: str) -> list[RuleMatch]:
        """Returns the rule matches of the result that the stream belongs to, in the order of the log. Returns an empty
        list for a stream that belongs to no result.
        """
        if not stream.startswith(f"{TRIAGE.prefix}-"):
            return []
        for first in await self.log.read_stream(stream, 0, 1):
            if isinstance(event := first.event, ResultEvent):
                return await self._find([event.result_id], results_stream(event.build_id), [event.job_id])
        return []

    async def find_classified(self, recorded: Recorded) -> list[RuleMatch]:
        """Returns the rule matches by which this event classified results. For a search through older failures, leaves
        out results that had a classification before, unless it came from statistics.
        """
        event = recorded.event
        if isinstance(event, ReportRecorded):
            results = range(event.first_result_id, event.first_result_id + event.cases)
            return await self._find(results, results_stream(event.build_id), [])
        matches = list(matches_in(recorded))
        if not isinstance(event, KnownIssueSearched) or not matches:
            return matches
        ids = [match.result_id for match in matches]
        streams = {TRIAGE.at(result_id).name: result_id for result_id in ids}
        events: dict[int, list[Recorded]] = defaultdict(list)
        async for piece in self._read(await self.log.find_positions(list(streams), recorded.position)):
            for item in piece:
                events[streams[item.stream]].append(item)
        earlier: dict[int, list[RuleMatch]] = defaultdict(list)
        for match in await self._find(ids, None, event.job_ids, recorded.position - 1):
            earlier[match.result_id].append(match)
        return [
            match
            for match in matches
            if fold_triage(events[match.result_id], earlier[match.result_id]).set_by_kind in (None, "statistics")
        ]

    async def _find(
        self, results: Collection[int], reports: str | None, jobs: Iterable[int], until: int = 2**62
    ) -> list[RuleMatch]:
        """Returns the rule matches of these results up to position `until`, in the order of the log. Looks for matches
        in two sources: searches through older failures of `jobs`, and the results stream `reports` unless it is None.
        """
        positions = set[int]()
        if reports is not None:
            positions.update(await self.log.find_positions([reports], until, [ResultsClassifiedByRules.name]))
        for job_id in set(jobs):
            positions.update(await event_index.find_positions(self.source, "triage", job_id, until))
        wanted, found = frozenset(results), list[RuleMatch]()
        async for events in self._read(positions):
            for recorded in events:
                found += [match for match in matches_in(recorded) if match.result_id in wanted]
        return found

    async def _read(self, positions: Collection[int]) -> AsyncIterator[Sequence[Recorded]]:
        async for events, sizes, _ in self.log.read_pieces(sorted(positions)):
            self.read_bytes += sum(sizes)
            yield events
