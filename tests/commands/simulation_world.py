"""A small history in memory, made by the real commands, for replays to go through; and the rules that held in it."""

from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from commands.build_assignment import AcknowledgeBuild, AssignBuild
from commands.handler import Command
from commands.known_issues import NoteSearch
from commands.reports.matching import MatchRules
from commands.reports.reading import ReportRead
from commands.results import NewCases, RecordReport
from commands.triage import ClassifyResult, TriagedResult
from commands.what_if.rules import WhatIfIssue, WhatIfQuarantine, WhatIfRules
from commands.what_if.simulation import BUILD_EVENTS, RULE_EVENTS
from domain.builds import BUILD, Assigned, BuildFinished, Running
from domain.core.errors import Rejection
from domain.core.events import Event, EventMetadata, LoadedState, Recorded
from domain.dispatch import LeadershipTaken
from domain.jobs import Configuration, JobConfigured, JobCreated
from domain.known_issues import KNOWN_ISSUE, KnownIssue, KnownIssueEvent, KnownIssueSearched
from domain.projects import ProjectCreated
from domain.quarantine import QUARANTINE, Quarantine, QuarantineEvent
from domain.results import FAILED, PASSED, ResultsRecorded, ResultText
from domain.triage import (
    CLASSIFICATIONS,
    Classification,
    KnownIssueLinked,
    ResultClassified,
    ResultsClassifiedByRules,
    Source,
)
from domain.users import UserRegistered

BEGIN = datetime(2026, 5, 20, tzinfo=UTC)
PROJECT, JOB = 1, 1
START: tuple[Event, ...] = (
    UserRegistered(user_id=1, role="admin"),
    ProjectCreated(project_id=PROJECT, title="P", slug="p", sealed_webhook_secret=b"s"),
    JobCreated(job_id=JOB, project_id=PROJECT, title="J"),
    JobConfigured(job_id=JOB, project_id=PROJECT, configuration=Configuration("pytest")),
    LeadershipTaken(leader="a"),
)


class Ran(NamedTuple):
    """A row of a report."""

    node_id: str
    failed: bool = True
    known: bool = False
    text: str = ""


def at(step: int) -> datetime:
    return BEGIN + timedelta(minutes=step)


@dataclass
class World:
    """Implements `commands.what_if.simulation.SimulatedHistory`. Time passes with the steps of a script."""

    step: int = 0
    log: list[Recorded] = field(default_factory=list)
    cases: dict[str, int] = field(default_factory=dict)
    results: int = 0
    erased: set[int] = field(default_factory=set)
    explained: int | None = None
    """The exit code that reports of pytest explain."""

    def __post_init__(self) -> None:
        self.append(START)

    def append(self, events: Iterable[Event]) -> None:
        for event in events:
            version = 1 + sum(recorded.stream == event.stream for recorded in self.log)
            stamped = EventMetadata(at(self.step), "user:1").on(event)
            self.log.append(Recorded(event.stream, version, len(self.log) + 1, stamped))

    def do(self, command: Command) -> None:
        """What is refused does not happen."""

        def states(reads: Sequence[Any]) -> list[Any]:
            return [read.state if isinstance(read, LoadedState) else self.state(read) for read in reads]

        first = states(command.reads())
        try:
            self.append(list(command.decide(*first, *states(command.then_reads(*first)))))
        except Rejection:
            return

    def state(self, stream: Any) -> Any:
        return stream.fold(recorded.event for recorded in self.log if recorded.stream == stream.name)

    def run(self, build_id: int) -> None:
        """Gives the build to node 1, which takes it up."""
        self.do(AssignBuild(build_id, 1, "a"))
        build = self.state(BUILD.at(build_id))
        if isinstance(build, Assigned):
            self.do(AcknowledgeBuild(build_id, 1, build.attempt, None))

    def report(self, build_id: int, path: str, tests: Sequence[Ran], replaces: bool = False) -> None:
        """Records a report as `commands.reports.recording` does."""
        build = self.state(BUILD.at(build_id))
        if not isinstance(build, Assigned | Running):
            return
        report = _read(tests)
        report.explained_exit_code = self.explained
        new = [node_id for node_id in report.node_ids if node_id not in self.cases]
        first_case = len(self.cases) + 1
        self.cases |= {node_id: first_case + number for number, node_id in enumerate(new)}
        case_ids = [self.cases[node_id] for node_id in report.node_ids]
        rules = [rule for issue in self.issues() for rule in issue.match_rules]
        self.do(
            RecordReport(
                build=LoadedState(f"build-{build_id}", 0, build),
                attempt=build.attempt,
                path=path,
                is_replacement=replaces,
                report=report,
                first_result_id=self.results + 1,
                case_ids=array("q", case_ids),
                new_cases=NewCases(PROJECT, 0, first_case, new, [""] * len(new)) if new else None,
                matches=MatchRules(rules).find_matches(report),
                now=at(self.step),
            )
        )
        self.results += len(tests)

    def search(self, known_issue_id: int) -> None:
        """Searches older failures for a known issue as `workers.known_issues` does."""
        issue = self.state(KNOWN_ISSUE.at(known_issue_id))
        if issue is None:
            return
        rules, today = MatchRules(issue.match_rules), self.today()
        found: list[tuple[int, int]] = []
        for event in (recorded.event for recorded in self.log):
            if isinstance(event, ResultsRecorded):
                block = ReportRead(statuses=bytearray(event.statuses), texts=event.texts)
                matched = [event.first_result_id + match.row for match in rules.find_matches(block)]
                found += [(result_id, event.job_id) for result_id in matched if result_id not in today]
        self.do(NoteSearch(known_issue_id, issue.edition, 0, found))

    def classify(self, number: int) -> None:
        """Classifies one of the failures so far, as a person does."""
        failures = [
            TriagedResult(event.first_result_id + row, event.build_id, JOB, PROJECT, "failed")
            for event in (recorded.event for recorded in self.log)
            if isinstance(event, ResultsRecorded)
            for row, status in enumerate(event.statuses)
            if status == FAILED
        ]
        if failures:
            self.do(ClassifyResult(failures[number % len(failures)], "product_bug"))

    def issues(self) -> list[KnownIssue]:
        ids = sorted({one.event.known_issue_id for one in self.log if isinstance(one.event, KnownIssueEvent)})
        found = [self.state(KNOWN_ISSUE.at(known_issue_id)) for known_issue_id in ids]
        return [issue for issue in found if not issue.deleted]

    async def parts(self) -> AsyncIterator[list[Recorded]]:
        for recorded in self.log:
            if isinstance(recorded.event, (*RULE_EVENTS, *BUILD_EVENTS)):
                is_erased = getattr(recorded.event, "build_id", None) in self.erased
                yield [Recorded(recorded.stream, recorded.version, recorded.position, recorded.event, is_erased)]

    async def node_ids(self, case_ids: Iterable[int]) -> dict[int, str]:
        names = {case_id: node_id for node_id, case_id in self.cases.items()}
        return {case_id: names[case_id] for case_id in case_ids}

    async def current_classifications(self, result_ids: Iterable[int]) -> dict[int, tuple[Classification, Source]]:
        today = self.today()
        return {result_id: today[result_id] for result_id in result_ids if result_id in today}

    def today(self) -> dict[int, tuple[Classification, Source]]:
        """The classification of each result that has one, and who set it: `user` for a linked known issue, too."""
        found: dict[int, tuple[Classification, Source]] = {
            result: (classification, "rule") for result, classification in self.by_rules().items()
        }
        for event in (recorded.event for recorded in self.log):
            match event:
                case KnownIssueSearched():
                    for result in event.result_ids:
                        found.setdefault(result, (event.classification, "rule"))
                case ResultClassified():
                    found[event.result_id] = event.classification, event.set_by_kind
                case KnownIssueLinked():
                    found[event.result_id] = event.classification, "user"
                case _:
                    pass
        return found

    def by_rules(self) -> dict[int, Classification]:
        """What rules said of each result when it was recorded."""
        return {
            result_id: CLASSIFICATIONS[index]
            for recorded in self.log
            if isinstance(event := recorded.event, ResultsClassifiedByRules)
            for result_id, index in zip(event.result_ids, event.classifications, strict=True)
        }

    def verdicts(self) -> dict[int, str]:
        events = (recorded.event for recorded in self.log)
        return {event.build_id: event.status for event in events if isinstance(event, BuildFinished)}

    def as_they_were(self) -> WhatIfRules:
        """The rules that held in this history, as a rules file would state them."""
        return WhatIfRules(known_issues=list(self._issues()), quarantine=list(self._quarantines()))

    def _issues(self) -> Iterable[WhatIfIssue]:
        ids = sorted({one.event.known_issue_id for one in self.log if isinstance(one.event, KnownIssueEvent)})
        for known_issue_id in ids:
            history = [one.event for one in self.log if one.stream == KNOWN_ISSUE.at(known_issue_id).name]
            ends = [event.at for event in history[1:]]
            for number, event in enumerate(history):
                issue = KNOWN_ISSUE.at(known_issue_id).fold(history[: number + 1])
                if issue is None or issue.deleted:
                    continue
                period: dict[str, Any] = {"since": event.at, "until": ends[number] if number < len(ends) else None}
                for rule in issue.match_rules:
                    found: dict[str, Any] = {rule.kind: rule.value}
                    yield WhatIfIssue("was", rule.classification, **found, **period)

    def _quarantines(self) -> Iterable[WhatIfQuarantine]:
        state = Quarantine()
        since = BEGIN
        for event in [one.event for one in self.log if isinstance(one.event, QuarantineEvent)]:
            yield from _entries(state, since, event.at)
            state, since = QUARANTINE.evolve(state, event), event.at
        yield from _entries(state, since, at(10_000))


def _entries(state: Quarantine, since: datetime, until: datetime) -> Iterable[WhatIfQuarantine]:
    for node_id, entry in state.entries.items():
        end = min(until, entry.expires_at or until)
        if since < end:
            yield WhatIfQuarantine(JOB, [node_id], since, end)


def _read(tests: Sequence[Ran]) -> ReportRead:
    report = ReportRead(suites=["s"], is_report=True)
    last = {test.node_id: row for row, test in enumerate(tests)}
    for row, test in enumerate(tests):
        if test.node_id not in report.node_ids:
            report.node_ids.append(test.node_id)
            report.case_suites.append(0)
        report.tests.append(report.node_ids.index(test.node_id))
        report.row_suites.append(0)
        report.durations_ms.append(1)
        report.statuses.append(FAILED if test.failed else PASSED)
        report.attempts.append(1)
        report.finals.append(last[test.node_id] == row)
        report.known_issues.append(test.failed and test.known)
        report.flaky.append(0)
        if test.failed and test.text:
            report.texts.append(ResultText(row, test.text, "", f"f-{test.text}", f"s-{test.text}"))
    return report
