"""Counterfactuals: what supposed rules would have made of the history.

Reports are classified and builds judged once more, by the same functions as when they were recorded, and only what
comes out otherwise is told. Besides the rules only builds that have not ended are kept, and of them counts: any history
is gone through in the same memory.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from commands.builds import FinishBuild, FinishExternalBuild
from commands.reports.columns import ReportRead
from commands.reports.matching import MatchRules
from commands.what_if.rules import FIRST_ID, SupposedRules
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildAssigned,
    BuildDeleted,
    BuildEvent,
    BuildFinished,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    Queued,
    ReportRecorded,
    Verdict,
)
from domain.core.events import Event, Recorded
from domain.known_issues import (
    KNOWN_ISSUE,
    KnownIssue,
    KnownIssueCreated,
    KnownIssueDeleted,
    KnownIssueEvent,
    KnownIssueTaught,
    KnownIssueUpdated,
    MatchRule,
)
from domain.quarantine import QUARANTINE, Quarantine, QuarantineEvent, QuarantineLifted, TestsQuarantined, covered
from domain.results import FAILED, ResultsRecorded
from domain.triage import CLASSIFICATIONS, Classification, ResultsClassifiedByRules

OF_RULES: tuple[type[Event], ...] = (
    KnownIssueCreated,
    KnownIssueUpdated,
    KnownIssueTaught,
    KnownIssueDeleted,
    TestsQuarantined,
    QuarantineLifted,
)
OF_BUILDS: tuple[type[Event], ...] = (
    BuildQueued,
    BuildAssigned,
    BuildRequeued,
    BuildStarted,
    ResultsRecorded,
    ResultsClassifiedByRules,
    ReportRecorded,
    BuildFinished,
    BuildDeleted,
)
"""What a replay needs to see, besides OF_RULES from the beginning of the log."""


class TestDiffers(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A failure that would have been classified otherwise when it was recorded."""

    __test__ = False

    result_id: int
    build_id: int
    job_id: int
    project_id: int
    test_case_id: int
    before: Classification | None
    after: Classification | None
    by: str | None = None
    """The title of the known issue that would have."""
    node_id: str = ""


class VerdictDiffers(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A build that would have ended otherwise."""

    build_id: int
    job_id: int
    project_id: int
    before: Verdict
    after: Verdict
    why: str


Difference = TestDiffers | VerdictDiffers


@dataclass
class Replayed:
    """What a replay has gone through so far."""

    position: int = 0
    builds: int = 0
    """That ended, and were judged again."""
    reports: int = 0
    failures: int = 0
    erased: int = 0
    """Builds whose contents were erased, so that nothing can be said about them."""
    decided_by_people: int = 0
    """Failures that rules would have classified otherwise, but a person has spoken since."""


@dataclass
class _Open:
    """A build that has not ended: as it would be by the supposed rules, and as it is."""

    build: AnyBuild
    real: AnyBuild
    held: set[int] = field(default_factory=set)
    """Failures of this attempt that only quarantine keeps from failing the build."""
    newly_held: int = 0
    """By the report that is being gone through: how many more they are."""
    cases: dict[int, int] = field(default_factory=dict)
    """Of that report: failed result -> case."""
    matched: dict[int, MatchRule] = field(default_factory=dict)
    """Of that report: failed result -> what would have classified it."""
    said: dict[int, Classification] = field(default_factory=dict)
    """Of that report: failed result -> what rules said of it."""


class Replay:
    """Takes events in the order of the log. Blocks: patterns may be searched for in many texts."""

    def __init__(self, supposed: SupposedRules) -> None:
        self._supposed = supposed
        self._issues: dict[int, dict[int, KnownIssue]] = defaultdict(dict)
        self._quarantines: dict[int, Quarantine] = {}
        self._open: dict[int, _Open] = {}
        self._rules: dict[int, tuple[list[MatchRule], MatchRules]] = {}
        self.replayed = Replayed()

    def needs(self, recorded: Recorded) -> list[int]:
        """The cases whose node ids `take` has to be told."""
        event = recorded.event
        if not isinstance(event, ResultsRecorded) or event.build_id not in self._open or not self._entries(event):
            return []
        return [event.case_ids[row] for row in _counting(event)]

    def take(self, recorded: Recorded, node_ids: Mapping[int, str]) -> list[Difference]:
        self.replayed.position = recorded.position
        event = recorded.event
        match event:
            case KnownIssueEvent():
                issues = self._issues[event.project_id]
                issue = KNOWN_ISSUE.evolve(issues.get(event.known_issue_id), event)
                if issue is None or issue.deleted:
                    issues.pop(event.known_issue_id, None)
                else:
                    issues[event.known_issue_id] = issue
            case QuarantineEvent():
                state = self._quarantines.get(event.job_id, QUARANTINE.initial)
                self._quarantines[event.job_id] = QUARANTINE.evolve(state, event)
            case BuildQueued() if recorded.erased:
                self.replayed.erased += 1
            case BuildQueued():
                queued = Queued(event)
                self._open[event.build_id] = _Open(queued, queued)
            case ResultsRecorded() if (opened := self._open.get(event.build_id)) is not None:
                self._results(opened, event, node_ids)
            case ResultsClassifiedByRules() if (opened := self._open.get(event.build_id)) is not None:
                places = zip(event.result_ids, event.classifications, strict=True)
                opened.said |= {result_id: CLASSIFICATIONS[place] for result_id, place in places}
            case BuildEvent() if (opened := self._open.get(event.build_id)) is not None:
                return list(self._build(opened, event))
            case _:
                pass
        return []

    def _build(self, opened: _Open, event: BuildEvent) -> Iterator[Difference]:
        supposed = event
        match event:
            case BuildFinished() | BuildDeleted():
                del self._open[event.build_id]
                if isinstance(event, BuildFinished) and event.status != "aborted":
                    self.replayed.builds += 1
                    yield from _judged(opened, event)
                return
            case ReportRecorded():
                self.replayed.reports += 1
                yield from self._classified(opened, event)
                if self._supposed.quarantine is not None:
                    supposed = msgspec.structs.replace(event, quarantined=opened.newly_held)
                opened.newly_held = 0
            case BuildRequeued():
                opened.held.clear()
            case _:
                pass
        opened.build = BUILD.evolve(opened.build, supposed) or opened.build
        opened.real = BUILD.evolve(opened.real, event) or opened.real

    def _results(self, opened: _Open, event: ResultsRecorded, node_ids: Mapping[int, str]) -> None:
        for row, status in enumerate(event.statuses):
            if status == FAILED:
                opened.cases[event.first_result_id + row] = event.case_ids[row]
                self.replayed.failures += 1
        if self._supposed.known_issues is not None:
            rules, matcher = self._matcher(event.project_id, event.at)
            by_id = {rule.known_issue_id: rule for rule in rules}
            block = ReportRead(statuses=bytearray(event.statuses), texts=event.texts)
            for match in matcher.find_matches(block):
                opened.matched[event.first_result_id + match.row] = by_id[match.known_issue_id]
        for replaced in event.replaced:
            if replaced.result_id in opened.held:
                opened.held.discard(replaced.result_id)
                opened.newly_held -= 1
        held = covered(node_ids.values(), self._entries(event))
        for row in _counting(event):
            if event.finals[row] and node_ids.get(event.case_ids[row]) in held:
                opened.held.add(event.first_result_id + row)
                opened.newly_held += 1

    def _entries(self, event: ResultsRecorded) -> list[str]:
        """What would have been in quarantine; nothing where no quarantine is supposed."""
        if self._supposed.quarantine is None:
            return []
        entries = list(self._supposed.quarantined(event.at, event.job_id))
        if self._supposed.besides and (real := self._quarantines.get(event.job_id)) is not None:
            entries += real.active(event.at)
        return entries

    def _matcher(self, project_id: int, at: datetime) -> tuple[list[MatchRule], MatchRules]:
        """The rules that would have held, and the same at work: made anew only when they are others."""
        rules = list(self._supposed.issue_rules(at, project_id))
        if self._supposed.besides:
            rules += [rule for issue in self._issues[project_id].values() for rule in issue.match_rules]
        known = self._rules.get(project_id)
        if known is None or known[0] != rules:
            known = self._rules[project_id] = rules, MatchRules(rules)
        return known

    def _classified(self, opened: _Open, event: ReportRecorded) -> Iterator[TestDiffers]:
        is_supposed = self._supposed.known_issues is not None
        for result_id in sorted(opened.said.keys() | opened.matched.keys()) if is_supposed else ():
            rule, before = opened.matched.get(result_id), opened.said.get(result_id)
            after = None if rule is None else rule.classification
            if before != after:
                yield TestDiffers(
                    result_id=result_id,
                    build_id=event.build_id,
                    job_id=event.job_id,
                    project_id=event.project_id,
                    test_case_id=opened.cases.get(result_id, 0),
                    before=before,
                    after=after,
                    by=None if rule is None else self._title(event.project_id, rule.known_issue_id),
                )
        opened.cases, opened.matched, opened.said = {}, {}, {}

    def _title(self, project_id: int, known_issue_id: int) -> str:
        supposed = self._supposed.known_issues or []
        if known_issue_id >= FIRST_ID:
            return supposed[known_issue_id - FIRST_ID].title
        return self._issues[project_id][known_issue_id].title


def _counting(event: ResultsRecorded) -> list[int]:
    """The rows of failures that nothing but quarantine may keep from failing the build."""
    rows = enumerate(zip(event.statuses, event.known_issues, strict=True))
    return [row for row, (status, known) in rows if status == FAILED and not known]


def _judged(opened: _Open, event: BuildFinished) -> Iterator[VerdictDiffers]:
    """Ends the build as it would have been, by the command that ended it."""
    build = opened.build
    command: FinishBuild | FinishExternalBuild
    if event.node_id is None:
        reported: Verdict = "passed" if event.reason == "tests_failed" else event.status
        command = FinishExternalBuild(event.build_id, reported)
    else:
        # What the agent said; the other reasons are what was made of the exit code and the results.
        said = None if event.reason in ("tests_failed", "command_failed") else event.reason
        command = FinishBuild(event.build_id, event.node_id, build.attempt, event.exit_code, said, None)
    for decided in command.decide(build):
        if isinstance(decided, BuildFinished) and decided.status != event.status:
            more = opened.real.failed - build.failed
            yield VerdictDiffers(
                build_id=event.build_id,
                job_id=event.job_id,
                project_id=event.project_id,
                before=event.status,
                after=decided.status,
                why=f"{abs(more):,} more of its failures would {'not ' if more < 0 else ''}have been in quarantine",
            )


class History(Protocol):
    """Where the past is read."""

    def parts(self) -> AsyncIterator[Sequence[Recorded]]:
        """The events of OF_RULES and OF_BUILDS that are wanted, in the order of the log, a few at once."""
        ...

    async def node_ids(self, case_ids: Iterable[int]) -> dict[int, str]:
        """Of those cases that are there."""
        ...

    async def said_of(self, result_ids: Iterable[int]) -> dict[int, tuple[Classification, bool]]:
        """What counts today of those failures that are classified, and whether a person said it."""
        ...


async def differences(history: History, replay: Replay) -> AsyncIterator[Difference]:
    """All of them, as they are found. What a person has said of a failure meanwhile would have stood anyway."""
    async for part in history.parts():
        for recorded in part:
            needed = replay.needs(recorded)
            node_ids = await history.node_ids(needed) if needed else {}
            if isinstance(recorded.event, ResultsRecorded):
                found = await asyncio.to_thread(replay.take, recorded, node_ids)
            else:
                found = replay.take(recorded, node_ids)
            tests = [difference for difference in found if isinstance(difference, TestDiffers)]
            for difference in await _as_of_today(history, replay, tests) if tests else found:
                yield difference


async def _as_of_today(history: History, replay: Replay, tests: Sequence[TestDiffers]) -> list[TestDiffers]:
    said = await history.said_of(test.result_id for test in tests)
    named = await history.node_ids(test.test_case_id for test in tests)
    kept: list[TestDiffers] = []
    for test in tests:
        today, by_person = said.get(test.result_id, (test.before, False))
        if by_person:
            replay.replayed.decided_by_people += 1
        elif today != test.after:
            node_id = named.get(test.test_case_id, "")
            kept.append(msgspec.structs.replace(test, before=today, node_id=node_id))
    return kept
