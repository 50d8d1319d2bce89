"""Reads the match rules of known issues from the log, to classify the failures of reports. Rows of the read model are
not used for this: somebody may have changed them by hand, and the classifications of a report stay in the log for ever.
"""

import asyncio

import structlog

from domain.core.errors import StreamDamaged
from domain.core.events import Recorded
from domain.known_issues import EVENTS, KNOWN_ISSUE, KnownIssue, KnownIssueEvent, KnownIssueSearched, MatchRule
from domain.projects import ProjectDeleted
from store.log.event_log import EventLog

log = structlog.get_logger()

BATCH_SIZE = 500
"""Number of events that are read at once."""
NAMES = [event.name for event in (*EVENTS, ProjectDeleted) if event is not KnownIssueSearched]


class RuleBook:
    """The known issues of all projects, as of the last call."""

    def __init__(self) -> None:
        self.position = 0
        """Position up to which the log was read."""
        self._issues: dict[int, KnownIssue] = {}
        self._damaged: set[str] = set()
        """Streams of known issues with an event that cannot be read. They are read again at each call."""
        self._lock = asyncio.Lock()

    async def fetch_match_rules(self, event_log: EventLog, project_id: int) -> list[MatchRule]:
        """Returns the match rules of all known issues of a project: rules that users entered, and rules from failures
        that users linked. A known issue that cannot be read has no rules.
        """
        await self.follow(event_log)
        issues = [issue for issue in self._issues.values() if issue.project_id == project_id]
        return [rule for issue in issues for rule in issue.match_rules]

    async def follow(self, event_log: EventLog) -> None:
        """Reads the log up to its end. The first call takes seconds if the log is long."""
        async with self._lock:
            is_full = True
            while is_full:
                events, self.position, is_full = await event_log.read_batch(self.position, BATCH_SIZE, NAMES)
                for recorded in events:
                    self._apply(recorded)
            for stream in list(self._damaged):
                await self._load_again(event_log, stream)

    def _apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case ProjectDeleted(project_id=project_id):
                self._issues = {key: issue for key, issue in self._issues.items() if issue.project_id != project_id}
            case KnownIssueEvent(known_issue_id=known_issue_id) as event:
                self._set(known_issue_id, KNOWN_ISSUE.evolve(self._issues.get(known_issue_id), event))
            case _:
                self._damaged.add(recorded.stream)

    async def _load_again(self, event_log: EventLog, stream: str) -> None:
        known_issue_id = int(stream.rpartition("-")[2])
        try:
            self._set(known_issue_id, await event_log.load_state(KNOWN_ISSUE.at(known_issue_id)))
            self._damaged.discard(stream)
        except StreamDamaged as error:
            log.error("known issue matches nothing", known_issue=known_issue_id, detail=error.detail)
            self._issues.pop(known_issue_id, None)

    def _set(self, known_issue_id: int, issue: KnownIssue | None) -> None:
        if issue is None or issue.deleted:
            self._issues.pop(known_issue_id, None)
        else:
            self._issues[known_issue_id] = issue
