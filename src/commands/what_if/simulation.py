"""Simulation of the history under what-if rules: which failures and builds would have had another outcome.

The simulation calls the same functions that classified reports and judged builds when they were recorded, but with the
what-if rules. It returns only the differences. In memory it keeps only rules and the states of builds that have not
ended, so it does not need more memory for a longer history.

The simulation compares a failure's classification under the what-if rules with the failure's classification today,
which may come from a rule, from a later search for known issues, or from a person.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from commands.builds import FinishBuild, FinishExternalBuild
from commands.reports.matching import MatchRules
from commands.reports.reading import ReportRead
from commands.verdicts import find_reported_verdict
from commands.what_if.rules import FIRST_ID, WhatIfRules
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
from domain.known_issues import MatchRule
from domain.quarantine import (
    QUARANTINE,
    Quarantine,
    QuarantineEvent,
    QuarantineLifted,
    TestsQuarantined,
    filter_quarantined,
)
from domain.results import FAILED, ResultsRecorded
from domain.triage import Classification, ResultsClassifiedByRules, Source

RULE_EVENTS: tuple[type[Event], ...] = (TestsQuarantined, QuarantineLifted)
BUILD_EVENTS: tuple[type[Event], ...] = (
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
"""Types of the events of builds that a simulation processes. It also processes the events in RULE_EVENTS. It needs no
events of known issues, since events of builds and today's classifications show what known issues did.
"""


class TestDiffers(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A failure that the what-if rules would classify differently from its classification today."""

    __test__ = False

    result_id: int
    """Id of the result."""
    build_id: int
    job_id: int
    project_id: int
    test_case_id: int
    before: Classification | None
    """Classification that the failure has today; null for none."""
    after: Classification | None
    """Classification that the failure would have got; null for none."""
    by: str | None = None
    """Title of the known issue that would have classified the failure."""
    node_id: str = ""
    """Name of the test, the same in every build."""


class VerdictDiffers(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A build that would have ended with another verdict."""

    build_id: int
    job_id: int
    project_id: int
    before: Verdict
    """Verdict that the build got."""
    after: Verdict
    """Verdict that the build would have got."""
    why: str
    """Why the build would have ended with the verdict `to`, in a few words."""


Difference = TestDiffers | VerdictDiffers


@dataclass
class Replayed:
    """Counts of what a simulation has processed so far."""

    position: int = 0
    """Position in the log up to which events were processed."""
    builds: int = 0
    """Number of builds that ended and were judged again."""
    reports: int = 0
    """Number of reports that were classified again."""
    failures: int = 0
    """Number of failures in the reports that were classified again."""
    erased: int = 0
    """Number of builds that were left out because their contents have been erased."""
    decided_by_people: int = 0
    """Number of failures that were left out because a person classified them or linked them to a known issue."""


@dataclass
class ReportedFailures:
    """The failed results of a report."""

    cases: dict[int, int] = field(default_factory=dict)
    """Result id -> test case id."""
    matched: dict[int, MatchRule] = field(default_factory=dict)
    """Result id -> the what-if rule that matches the failure."""
    classified: set[int] = field(default_factory=set)
    """Ids of the results that the real rules classified when the report was recorded."""


@dataclass
class _OpenBuild:
    """A build that has not ended yet: its state under the what-if rules (`build`) and its real state."""

    build: AnyBuild
    real: AnyBuild
    quarantined: set[int] = field(default_factory=set)
    """Result ids of this attempt's failures that would fail the build if the simulated quarantine did not exist."""
    newly_quarantined: int = 0
    """Number of failures that the report being processed adds to `quarantined`."""
    failures: ReportedFailures = field(default_factory=ReportedFailures)
    """Failures of the report being processed."""

    def drop_replaced(self, event: ReportRecorded) -> None:
        """Removes from `quarantined` the failures of the report that `event` replaces."""
        for report in self.build.reports:
            if report.first_result_id == event.replaces:
                replaced = self.quarantined.intersection(
                    range(report.first_result_id, report.first_result_id + report.cases)
                )
                self.quarantined -= replaced
                self.newly_quarantined -= len(replaced)


class Simulation:
    """Simulates builds under what-if rules, event by event in the order of the log. Its methods may search many texts
    for patterns and thus block, so call them in a worker thread.
    """

    def __init__(self, what_if: WhatIfRules) -> None:
        self._what_if = what_if
        self._quarantines: dict[int, Quarantine] = {}
        self._open: dict[int, _OpenBuild] = {}
        self._rules: dict[int, tuple[list[MatchRule], MatchRules]] = {}
        self.counts = Replayed()

    def needs(self, recorded: Recorded) -> list[int]:
        """Returns the ids of the test cases whose node ids `take` needs for this event."""
        event = recorded.event
        if not isinstance(event, ResultsRecorded) or event.build_id not in self._open or not self._entries(event):
            return []
        return [event.case_ids[row] for row in _quarantinable(event)]

    def take(self, recorded: Recorded, node_ids: Mapping[int, str]) -> list[VerdictDiffers]:
        """Processes the next event of the log. `node_ids` maps the ids that `needs` returned to node ids. If the event
        ends a build whose simulated verdict differs from the real one, returns the difference; otherwise an empty list.
        """
        self.counts.position = recorded.position
        event = recorded.event
        match event:
            case QuarantineEvent():
                state = self._quarantines.get(event.job_id, QUARANTINE.initial)
                self._quarantines[event.job_id] = QUARANTINE.evolve(state, event)
            case BuildQueued() if recorded.erased:
                self.counts.erased += 1
            case BuildQueued():
                queued = Queued(event)
                self._open[event.build_id] = _OpenBuild(queued, queued)
            case ResultsRecorded() if (opened := self._open.get(event.build_id)) is not None:
                self._take_results(opened, event, node_ids)
            case ResultsClassifiedByRules() if (opened := self._open.get(event.build_id)) is not None:
                opened.failures.classified.update(row.result_id for row in event.rows if not row.is_statistical)
            case BuildEvent() if (opened := self._open.get(event.build_id)) is not None:
                return list(self._take_build_event(opened, event))
            case _:
                pass
        return []

    def _take_build_event(self, opened: _OpenBuild, event: BuildEvent) -> Iterator[VerdictDiffers]:
        simulated = event
        match event:
            case BuildFinished() | BuildDeleted():
                del self._open[event.build_id]
                if isinstance(event, BuildFinished) and event.status != "aborted":
                    self.counts.builds += 1
                    yield from _compare_verdicts(opened, event)
                return
            case ReportRecorded():
                self.counts.reports += 1
                if self._what_if.quarantine is not None:
                    opened.drop_replaced(event)
                    simulated = msgspec.structs.replace(event, quarantined=opened.newly_quarantined)
                opened.newly_quarantined = 0
            case BuildRequeued():
                opened.quarantined.clear()
            case _:
                pass
        opened.build = BUILD.evolve(opened.build, simulated) or opened.build
        opened.real = BUILD.evolve(opened.real, event) or opened.real

    def _take_results(self, opened: _OpenBuild, event: ResultsRecorded, node_ids: Mapping[int, str]) -> None:
        for row, status in enumerate(event.statuses):
            if status == FAILED:
                self.counts.failures += 1
                if self._what_if.known_issues is not None:
                    opened.failures.cases[event.first_result_id + row] = event.case_ids[row]
        if self._what_if.known_issues is not None:
            rules, matcher = self._matcher(event.project_id, event.at)
            by_id = {rule.known_issue_id: rule for rule in rules}
            block = ReportRead(statuses=bytearray(event.statuses), texts=event.texts)
            for match in matcher.find_matches(block):
                opened.failures.matched[event.first_result_id + match.row] = by_id[match.known_issue_id]
        for replaced in event.replaced:
            if replaced.result_id in opened.quarantined:
                opened.quarantined.discard(replaced.result_id)
                opened.newly_quarantined -= 1
        quarantined = filter_quarantined(node_ids.values(), self._entries(event))
        for row in _quarantinable(event):
            if event.finals[row] and node_ids.get(event.case_ids[row]) in quarantined:
                opened.quarantined.add(event.first_result_id + row)
                opened.newly_quarantined += 1

    def _entries(self, event: ResultsRecorded) -> list[str]:
        """Returns the node ids that are in the simulated quarantine at the time of the event. Returns an empty list if
        the what-if rules contain no quarantine entries.
        """
        if self._what_if.quarantine is None:
            return []
        entries = list(self._what_if.quarantined(event.at, event.job_id))
        if self._what_if.additive and (real := self._quarantines.get(event.job_id)) is not None:
            entries += real.active(event.at)
        return entries

    def _matcher(self, project_id: int, at: datetime) -> tuple[list[MatchRule], MatchRules]:
        """Returns the what-if rules that apply to a project at a time, and a matcher for them. Makes a new matcher only
        if the rules have changed since the last call for the project.
        """
        rules = list(self._what_if.issue_rules(at, project_id))
        known = self._rules.get(project_id)
        if known is None or known[0] != rules:
            known = self._rules[project_id] = rules, MatchRules(rules)
        return known

    def pop_failures(self, event: ReportRecorded) -> ReportedFailures:
        """Returns the failures of the report that has just been processed, and forgets them. The result is empty if the
        what-if rules contain no known issues, or if the build is not simulated.
        """
        opened = self._open.get(event.build_id)
        if opened is None:
            return ReportedFailures()
        failures, opened.failures = opened.failures, ReportedFailures()
        return failures

    def compare_tests(
        self, event: BuildEvent, failures: ReportedFailures, today: Mapping[int, tuple[Classification, Source]]
    ) -> Iterator[TestDiffers]:
        """Yields the failures of a report whose classification under the what-if rules differs from today's. `today`
        maps the id of a result to (today's classification, source of that classification).
        """
        for result_id, case_id in failures.cases.items():
            before, source = today.get(result_id, (None, None))
            if source == "user":
                self.counts.decided_by_people += 1
                continue
            rule = failures.matched.get(result_id)
            if self._what_if.additive and result_id in failures.classified:
                continue  # the real rules come first
            if rule is None and (self._what_if.additive or source != "rule"):
                continue
            after = None if rule is None else rule.classification
            if before != after:
                yield TestDiffers(
                    result_id=result_id,
                    build_id=event.build_id,
                    job_id=event.job_id,
                    project_id=event.project_id,
                    test_case_id=case_id,
                    before=before,
                    after=after,
                    by=None if rule is None else self._title(rule),
                )

    def _title(self, rule: MatchRule) -> str:
        assert self._what_if.known_issues is not None
        return self._what_if.known_issues[rule.known_issue_id - FIRST_ID].title


def _quarantinable(event: ResultsRecorded) -> list[int]:
    """Returns the rows of the failures that fail the build if their tests are not in quarantine."""
    rows = enumerate(zip(event.statuses, event.known_issues, strict=True))
    return [row for row, (status, known) in rows if status == FAILED and not known]


def _compare_verdicts(opened: _OpenBuild, event: BuildFinished) -> Iterator[VerdictDiffers]:
    """Ends the simulated build by the same kind of command that ended the real build. Yields the difference if the two
    verdicts differ.
    """
    build, real = opened.build, opened.real
    if (build.failed, build.quarantined) == (real.failed, real.quarantined):
        return
    if event.status == "passed":
        # Rules do not change which tests ran. And in older releases a build could pass without its selected tests.
        build = msgspec.structs.replace(build, queued=msgspec.structs.replace(build.queued, test_ids=None))
    command: FinishBuild | FinishExternalBuild
    if event.node_id is None:
        command = FinishExternalBuild(
            event.build_id, find_reported_verdict(event), ignore_unreadable=event.status == "passed"
        )
    else:
        # The server derived these reasons from the exit code and the results; all others come from the agent.
        derived = ("tests_failed", "command_failed", "reports_unreadable", "selected_tests_not_run")
        command = FinishBuild(
            event.build_id,
            event.node_id,
            build.attempt,
            event.exit_code,
            None if event.reason in derived else event.reason,
            None,
            ignore_unreadable=event.status == "passed",
            excuse_pytest=True,
        )
    for decided in command.decide(build):
        if isinstance(decided, BuildFinished) and decided.status != event.status:
            more = real.failed - build.failed
            yield VerdictDiffers(
                build_id=event.build_id,
                job_id=event.job_id,
                project_id=event.project_id,
                before=event.status,
                after=decided.status,
                why=f"{abs(more):,} more of its failures would {'not ' if more < 0 else ''}have been in quarantine",
            )


class SimulatedHistory(Protocol):
    """Source of the events and look-ups that a simulation needs."""

    def parts(self) -> AsyncIterator[Sequence[Recorded]]:
        """Yields the events of the types in RULE_EVENTS and BUILD_EVENTS in batches, in the order of the log."""
        ...

    async def node_ids(self, case_ids: Iterable[int]) -> dict[int, str]:
        """Returns a mapping of test case ids to node ids. Leaves out unknown test cases."""
        ...

    async def current_classifications(self, result_ids: Iterable[int]) -> dict[int, tuple[Classification, Source]]:
        """Returns a mapping of result ids to today's classification and its source. Leaves out results without a
        classification. The source is also `user` if a person linked the result to a known issue.
        """
        ...


async def differences(history: SimulatedHistory, simulation: Simulation) -> AsyncIterator[Difference]:
    """Runs the simulation over the history. Yields each difference as soon as it is found. Leaves out failures that a
    person has classified.
    """
    async for part in history.parts():
        for recorded in part:
            needed = simulation.needs(recorded)
            node_ids = await history.node_ids(needed) if needed else {}
            if isinstance(recorded.event, ResultsRecorded):
                await asyncio.to_thread(simulation.take, recorded, node_ids)
            else:
                for verdict in simulation.take(recorded, node_ids):
                    yield verdict
            if isinstance(recorded.event, ReportRecorded):
                failures = simulation.pop_failures(recorded.event)
                today = await history.current_classifications(failures.cases) if failures.cases else {}
                tests = list(simulation.compare_tests(recorded.event, failures, today))
                named = await history.node_ids({test.test_case_id for test in tests}) if tests else {}
                for test in tests:
                    yield msgspec.structs.replace(test, node_id=named.get(test.test_case_id, ""))
