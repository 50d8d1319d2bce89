"""Reads from the log what classifies the failures of reports: the match rules of known issues, the classification
rules, and how people have classified failures. Rows of the read model are not used for this: somebody may have changed
them by hand, and the classifications of a report stay in the log for ever.
"""

import asyncio

import structlog

from domain.builds import BuildDeleted
from domain.classification_rules import CLASSIFICATION_RULES, ClassificationRules, ClassificationRulesSet
from domain.classification_statistics import ClassificationStatistics
from domain.core.errors import StreamDamaged
from domain.core.events import Recorded
from domain.jobs import JobDeleted
from domain.known_issues import EVENTS, KNOWN_ISSUE, KnownIssue, KnownIssueEvent, KnownIssueSearched, MatchRule
from domain.projects import ProjectDeleted
from domain.triage import ResultClassified
from store.log.event_log import EventLog

log = structlog.get_logger()

BATCH_SIZE = 500
"""Number of events that are read at once."""
NAMES = [
    event.name
    for event in (*EVENTS, ClassificationRulesSet, ResultClassified, BuildDeleted, JobDeleted, ProjectDeleted)
    if event is not KnownIssueSearched
]
DAMAGEABLE = (f"{KNOWN_ISSUE.prefix}-", f"{CLASSIFICATION_RULES.prefix}-")
"""Beginnings of the names of streams that are read again if an event of them cannot be read."""


class RuleBook:
    """The known issues, classification rules and statistics of all projects, as of the last call of `follow`."""

    def __init__(self) -> None:
        self.position = 0
        """Position up to which the log was read."""
        self._issues: dict[int, KnownIssue] = {}
        self._rules: dict[int, ClassificationRules] = {}
        """Project id -> its classification rules."""
        self._statistics: dict[int, ClassificationStatistics] = {}
        """Project id -> how people have classified its failures."""
        self._damaged: set[str] = set()
        """Streams with an event that cannot be read. They are read again at each call of `follow`."""
        self._lock = asyncio.Lock()

    async def fetch_match_rules(self, event_log: EventLog, project_id: int) -> list[MatchRule]:
        """Returns the match rules of a project. First come those of its known issues: rules that users entered, and
        rules made from failures that users linked. Then come its classification rules, and last the rules from the
        statistics of how people have classified failures. Leaves out known issues and rules that cannot be read.
        """
        await self.follow(event_log)
        issues = [issue for issue in self._issues.values() if issue.project_id == project_id]
        classification_rules = self._rules.get(project_id, CLASSIFICATION_RULES.initial).match_rules
        statistics = self._statistics.get(project_id, ClassificationStatistics())
        return [
            *(rule for issue in issues for rule in issue.match_rules),
            *classification_rules,
            *(
                MatchRule(0, classification, "signature", signature, confidence=confidence)
                for signature, classification, confidence in statistics.estimate_all()
            ),
        ]

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
                self._rules.pop(project_id, None)
                self._statistics.pop(project_id, None)
            case ResultClassified(project_id=project_id) as event:
                self._statistics.setdefault(project_id, ClassificationStatistics()).note(event)
            case BuildDeleted(project_id=project_id, build_id=build_id) if project_id in self._statistics:
                self._statistics[project_id].forget_build(build_id)
            case JobDeleted(project_id=project_id, job_id=job_id) if project_id in self._statistics:
                self._statistics[project_id].forget_job(job_id)
            case ClassificationRulesSet(project_id=project_id) as event:
                self._rules[project_id] = CLASSIFICATION_RULES.evolve(CLASSIFICATION_RULES.initial, event)
            case KnownIssueEvent(known_issue_id=known_issue_id) as event:
                self._set(known_issue_id, KNOWN_ISSUE.evolve(self._issues.get(known_issue_id), event))
            case _ if recorded.stream.startswith(DAMAGEABLE):
                self._damaged.add(recorded.stream)

    async def _load_again(self, event_log: EventLog, stream: str) -> None:
        prefix, _, number = stream.rpartition("-")
        if prefix == CLASSIFICATION_RULES.prefix:
            await self._load_rules_again(event_log, int(number))
            return
        known_issue_id = int(number)
        try:
            self._set(known_issue_id, await event_log.load_state(KNOWN_ISSUE.at(known_issue_id)))
            self._damaged.discard(stream)
        except StreamDamaged as error:
            log.error("known issue matches nothing", known_issue=known_issue_id, detail=error.detail)
            self._issues.pop(known_issue_id, None)

    async def _load_rules_again(self, event_log: EventLog, project_id: int) -> None:
        stream = CLASSIFICATION_RULES.at(project_id)
        try:
            self._rules[project_id] = await event_log.load_state(stream)
            self._damaged.discard(stream.name)
        except StreamDamaged as error:
            log.error("classification rules match nothing", project=project_id, detail=error.detail)
            self._rules.pop(project_id, None)

    def _set(self, known_issue_id: int, issue: KnownIssue | None) -> None:
        if issue is None or issue.deleted:
            self._issues.pop(known_issue_id, None)
        else:
            self._issues[known_issue_id] = issue
