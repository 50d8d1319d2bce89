"""Commands that record a test report and its new test cases."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import sub
from typing import Any

import msgspec

from commands.handler import Command
from commands.reports.reading import Match, ReportRead
from commands.selected_tests import mark_ran, warn_of_others
from commands.verdicts import describe_late, join_sentences
from domain.artifacts import is_found_by_wildcard, number_path
from domain.builds import AnyBuild, Assigned, BuildQueued, Finished, ReportRecorded, Running, commit_of, status_of
from domain.core.columns import Int16s, Int32s
from domain.core.errors import Conflict, TooLarge
from domain.core.events import UNSTAMPED, AnyStream, Event, LoadedState
from domain.quarantine import (
    QUARANTINE,
    Quarantine,
    QuarantinedTestsRan,
    filter_quarantined,
    split_by_outcome,
)
from domain.reports import COUNTS, UNEXPLAINED, Report
from domain.results import (
    FAILED,
    SKIPPED,
    CasesSeen,
    ResultsRecorded,
    cases_stream,
    commit_number,
    count_no_more,
    results_stream,
)
from domain.run_lines import OTHER_BRANCHES, line_number
from domain.triage import CERTAIN, CLASSIFICATIONS, ResultsClassifiedByRules

MAX_REPORTS = 5_000
"""Largest number of reports of one build, over all its attempts. Surefire writes one report for each class."""
MAX_BUILD_RESULTS = 1_000_000
"""Largest number of results of one build, over all its reports."""
MAX_NEW_CASES = 10_000
"""Largest number of new test cases that one command adds. A large report needs several commands, so that the read
models can apply other events in between.
"""
LATE = "it came after the end of the build: the file is kept, but its results do not count"

BARE_PYTEST = (
    "pytest ran without the agent's plugin, as after PYTHONPATH=src, env -i or python -I: failures in quarantine excuse"
    " no exit code, and tests are neither selected nor skipped; let the command keep the agent's folder"
    " (PYTHONPATH=src:$PYTHONPATH)"
)


@dataclass(frozen=True)
class NewCases:
    """Tests of a report that have no test case in the project yet. `catalogue_version` is the version of the project's
    stream of test cases at which the tests were looked up.
    """

    project_id: int
    catalogue_version: int
    first_case_id: int
    node_ids: list[str]
    suites: list[str]

    def reads(self) -> AnyStream:
        return LoadedState(cases_stream(self.project_id), self.catalogue_version, None)

    def decide(self) -> CasesSeen:
        return CasesSeen(
            project_id=self.project_id, first_case_id=self.first_case_id, node_ids=self.node_ids, suites=self.suites
        )


@dataclass(frozen=True)
class AddCases(Command):
    """Gives ids to new test cases of a large report, before the report itself is recorded. If the report is then not
    recorded, the test cases stay without results, and a later report can use them.

    Raises VersionConflict if the project has got new test cases since the caller looked them up.
    """

    new_cases: NewCases

    def reads(self) -> Sequence[AnyStream]:
        return (self.new_cases.reads(),)

    def decide(self, _: None) -> Iterable[Event]:
        yield self.new_cases.decide()


@dataclass(frozen=True)
class RecordReport(Command):
    """Records a report of one attempt of a build. Does nothing if the attempt already has a report with the same bytes
    at the same path.

    Loads no earlier results, since the build's state contains the version of their stream. Raises VersionConflict if
    the build has changed, or the project has got new test cases, since the caller looked them up.
    """

    build: LoadedState[AnyBuild]
    attempt: int
    path: str
    report: ReportRead
    first_result_id: int
    case_ids: "array[int]"
    """Case id for each of the report's `node_ids`."""
    new_cases: NewCases | None = None
    matches: Sequence[Match] = ()
    """Failures that the project's known issues, classification rules or statistics match."""
    flips: bytes = b""
    """One byte for each row: FLIPPED or DIFFERED (see `domain.results`) if other builds on the same commit had the
    opposite result, else 0. Empty if all are 0.
    """
    replaced_blocks: Sequence[ResultsRecorded] = ()
    """Results of the report that this one replaces."""
    digest: bytes = b""
    is_replacement: bool = False
    """If True, this report replaces the earlier report at its path, and only this report counts. If False, both count.
    """
    now: datetime = UNSTAMPED
    """Time of recording. Quarantine entries that have expired by then do not count."""

    def reads(self) -> Sequence[AnyStream]:
        build = self.build.state
        reads: list[AnyStream] = [
            self.build,
            LoadedState(results_stream(build.build_id), build.results_version, None),
        ]
        if self.new_cases is not None:
            reads.append(self.new_cases.reads())
        return reads

    def then_reads(self, build: AnyBuild, *_: None) -> Sequence[AnyStream]:
        return (QUARANTINE.at(build.queued.job_id),)

    def decide(self, build: AnyBuild, *others: Quarantine | None) -> Iterable[Event]:
        path, known = self.locate(build)
        if known is not None:
            return
        must_take_reports(build, self.attempt)
        if isinstance(build, Finished):
            yield self._late(build, path)
            return
        if self.new_cases is not None:
            yield self.new_cases.decide()
        quarantine = others[-1] if others else None
        entries = [] if quarantine is None else quarantine.active(self.now)
        quarantined = self._quarantined(entries)
        blocks: list[Event] = [*map(count_no_more, self.replaced_blocks), *self._blocks(build, quarantined)]
        blocks += self._classified(build)
        blocks += self._ran(build, quarantine)
        yield from blocks
        yield self._summary(build, path, len(blocks), quarantined, entries)

    def locate(self, build: AnyBuild) -> tuple[str, Report | None]:
        return place_report(build, self.attempt, self.path, self.digest, is_replacement=self.is_replacement)

    def _quarantined(self, entries: Sequence[str]) -> bytearray:
        """Returns one byte for each row: 1 for a failure that would fail the build if its test were not in
        quarantine.
        """
        report = self.report
        flags = bytearray(report.rows)
        if not entries:
            return flags
        failures = [
            row
            for row, (status, known) in enumerate(zip(report.statuses, report.known_issues, strict=True))
            if status == FAILED and not known
        ]
        node_ids = filter_quarantined({report.node_ids[report.tests[row]] for row in failures}, entries)
        for row in failures:
            flags[row] = report.node_ids[report.tests[row]] in node_ids
        return flags

    def _ran(self, build: AnyBuild, quarantine: Quarantine | None) -> Iterator[QuarantinedTestsRan]:
        active = {} if quarantine is None else quarantine.counting(self.now)
        if not active:
            return
        report = self.report
        ran: dict[int, bool] = {}
        for test, status in zip(report.tests, report.statuses, strict=True):
            if status != SKIPPED:
                ran[test] = status == FAILED or ran.get(test, False)
        passed, failed = split_by_outcome(
            ((report.node_ids[test], is_failure) for test, is_failure in ran.items()), active
        )
        if passed or failed:
            yield QuarantinedTestsRan(**build.ids, passed=passed, failed=failed)

    def _late(self, build: Finished, path: str) -> ReportRecorded:
        """Returns the event for a report that came after the end of the build. The event has no results."""
        sentence = describe_late([*(report.path for report in build.reports if report.late), path])
        counts: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        return ReportRecorded(
            **build.ids,
            **counts,
            attempt=self.attempt,
            path=path,
            first_result_id=self.first_result_id,
            cases=0,
            duration_ms=0,
            blocks=0,
            digest=self.digest,
            warnings=[LATE],
            detail=join_sentences(build.detail, sentence),
        )

    def _classified(self, build: AnyBuild) -> Iterator[ResultsClassifiedByRules]:
        if self.matches:
            version = max(match.version for match in self.matches)
            are_certain = all(match.confidence == CERTAIN for match in self.matches)
            yield ResultsClassifiedByRules(
                **build.ids,
                result_ids=[self.first_result_id + match.row for match in self.matches],
                known_issue_ids=[match.known_issue_id for match in self.matches],
                classifications=bytes(CLASSIFICATIONS.index(match.classification) for match in self.matches),
                rules=[match.rule for match in self.matches] if version else [],
                rules_version=version,
                starts=[match.start for match in self.matches],
                ends=[match.end for match in self.matches],
                confidences=b"" if are_certain else bytes(match.confidence for match in self.matches),
            )

    def _blocks(self, build: AnyBuild, quarantined: bytearray) -> Iterator[ResultsRecorded]:
        report = self.report
        for (start, end), texts in zip(report.blocks(), report.texts_by_block(), strict=True):
            yield ResultsRecorded(
                **build.ids,
                first_result_id=self.first_result_id + start,
                case_ids=Int32s(self.case_ids[test] for test in report.tests[start:end]),
                suites=Int16s(report.row_suites[start:end]),
                durations_ms=Int32s(report.durations_ms[start:end]),
                statuses=bytes(report.statuses[start:end]),
                attempts=bytes(report.attempts[start:end]),
                finals=bytes(report.finals[start:end]),
                known_issues=bytes(report.known_issues[start:end]),
                flaky=bytes(report.flaky[start:end]),
                texts=[msgspec.structs.replace(text, row=text.row - start) for text in texts],
                commit=commit_number(commit_of(build)),
                quarantined=_slice_flags(quarantined, start, end),
                flips=_slice_flags(self.flips, start, end),
                outages=_slice_flags(report.outages, start, end),
            )

    def _summary(
        self, build: AnyBuild, path: str, blocks: int, quarantined: bytearray, entries: Sequence[str]
    ) -> ReportRecorded:
        report = self.report
        totals = [0, 0, 0]
        flaky = known = ignored = duration = 0
        flips = self.flips or bytes(report.rows)
        columns = (report.statuses, report.finals, report.known_issues, quarantined, report.durations_ms)
        for status, final, known_issue, in_quarantine, ms, is_retried, flip in zip(
            *columns, report.flaky, flips, strict=True
        ):
            if final:
                totals[status] += 1
                flaky += is_retried or flip != 0
                known += known_issue
                ignored += in_quarantine
                duration += ms
        replaced = find_report(build, self.attempt, path)
        totals += [flaky, known, ignored]
        if replaced is not None:
            totals = list(map(sub, totals, replaced.counts))
        counts: dict[str, Any] = dict(zip(COUNTS, totals, strict=True))
        selected = build.queued.test_ids
        is_bare = report.is_bare_pytest and not build.queued.external
        warnings = [*report.warnings, *([BARE_PYTEST] if is_bare else ())]
        left_out = filter_quarantined(selected or (), entries if build.queued.quarantine_mode == "skip" else ())
        return self.event(
            ReportRecorded,
            report,
            **build.ids,
            path=path,
            cases=report.rows,
            **counts,
            duration_ms=duration,
            blocks=blocks,
            explained_exit_code=UNEXPLAINED if is_bare else report.explained_exit_code,
            unreadable=report.is_unreadable,
            missing=report.is_missing,
            by_wildcard=is_found_by_wildcard(self.path, build.queued.configuration.artifacts),
            line=find_line(build.queued),
            replaces=None if replaced is None else replaced.first_result_id,
            warnings=warnings if selected is None else [*warnings, *warn_of_others(selected, report)],
            selected_ran=None if selected is None else mark_ran(selected, report, left_out),
        )


def find_line(queued: BuildQueued) -> int:
    """Returns the number of a build's line; OTHER_BRANCHES for a build that is not on the default branch of its job."""
    return OTHER_BRANCHES if queued.off_default_branch else line_number(queued.job_id, queued.matrix)


def place_report(
    build: AnyBuild, attempt: int, path: str, digest: bytes, *, is_replacement: bool = False
) -> tuple[str, Report | None]:
    """Returns two values: the path at which to record a report, and the report that the attempt already has at that
    path with the same bytes, or None.

    If another report has the path `junit.xml`, the path becomes `junit-2.xml`. With `is_replacement`, the path stays
    the same.
    """
    reports = _reports(build, attempt)
    for name in number_path(path):
        known = reports.get(name)
        if known is None or (known.digest == digest and digest):
            return name, known
        if is_replacement:
            break
    return path, None


def find_excess(build: AnyBuild, results: int) -> str:
    """Returns why a report with this number of results must be recorded without its results; empty if its results can
    be recorded.

    Raises TooLarge if the build accepts no further report at all. The last report that a build accepts is recorded as
    unreadable, since results are missing and the build must not pass.
    """
    if len(build.reports) > MAX_REPORTS:
        raise TooLarge(f"Build {build.build_id} has {MAX_REPORTS:,} reports and takes no more: merge reports into one.")
    if len(build.reports) == MAX_REPORTS:
        return f"the build has {MAX_REPORTS:,} reports before it, and takes no more"
    if sum(known.cases for known in build.reports) + results > MAX_BUILD_RESULTS:
        return f"the build's reports together have more than {MAX_BUILD_RESULTS:,} results"
    return ""


def find_report(build: AnyBuild, attempt: int, path: str) -> Report | None:
    """Returns the report at this path whose results count in this attempt; None if there is no such report."""
    return _reports(build, attempt).get(path)


def _slice_flags(flags: bytes | bytearray, start: int, end: int) -> bytes:
    """Returns the flags of the rows from `start` up to, but without, `end`. Returns empty bytes if no flag is set."""
    block = bytes(flags[start:end])
    return block if any(block) else b""


def _reports(build: AnyBuild, attempt: int) -> dict[str, Report]:
    return {known.path: known for known in build.reports if known.attempt == attempt and not known.is_replaced}


def must_take_reports(build: AnyBuild, attempt: int) -> None:
    """Raises Conflict if the build has ended or does not run this attempt.

    An external build accepts reports even after its end; they are recorded as late.
    """
    if isinstance(build, Finished) and build.queued.external and build.attempt == attempt:
        return
    if not isinstance(build, Assigned | Running) or build.attempt != attempt:
        raise Conflict(
            f"Build {build.build_id} is {status_of(build)} and takes no reports of attempt {attempt} (any more)."
        )
