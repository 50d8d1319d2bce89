"""Reads a report file into the columns that `RecordReport` stores. The functions of this module block, so call them in
a worker thread.

As Python objects, a report of 100,000 tests would take a few hundred megabytes. As arrays it takes about twenty
megabytes, and only results with texts have an object.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from commands.reports.lost_results import is_collection_error, is_unloaded_suite, is_unreadable, lacks_tests
from commands.reports.object_addresses import StableNames
from commands.reports.parser import NO_NAME, XDIST_WORKER, Case, Suite, Summary, parse_report
from domain.reports import UNEXPLAINED
from domain.results import FAILED, MAX_SUITES, MAX_TEST_ATTEMPTS, OTHER_SUITES, PASSED, SKIPPED, STATUSES, ResultText
from domain.triage import CERTAIN, Classification

CHUNK = 256 * 1024
XFAILED = ("outcome", "xfailed")
"""Property that pytest's reports give to a test that failed as expected. They list such a test as skipped."""
GZIP = b"\x1f\x8b"
MAX_UNPACKED = 512 * 1024 * 1024
"""Largest size in bytes of an unpacked report. Agents may send uncompressed reports of the same size."""
BLOCK_ROWS = 1_000
BLOCK_TEXT = 2 * 1024 * 1024
"""Size in bytes of a block's texts at which the block ends early, so that no single event becomes large."""
MAX_TEXT_BYTES = 64 * 1024 * 1024
"""Largest size in bytes of the texts that are stored in full for one report, as `size_of` counts. The results after
that are stored without captured output and stack traces, and with at most 1,000 characters of their messages.
"""
MAX_RESULTS = 200_000
"""Largest number of results in one report. A compressed file of 4 MB could contain 25 million."""
MAX_NAME_BYTES = 64 * 1024 * 1024
"""Largest size in bytes of all node ids in one report. Node ids are stored as long as the project exists."""
MAX_DURATION = 2**31 - 1  # ms; the column is an integer

_STATUS = {name: number for number, name in enumerate(STATUSES)}


@dataclass(frozen=True)
class Match:
    """A known issue, classification rule or statistic that matches one result of a report. `row` is the index of the
    result in the report. `start` and `end` are byte indexes in the result's text: the pattern matched what is between
    them. Both are 0 for a rule without a pattern. The other fields are those of the `MatchRule`.
    """

    row: int
    known_issue_id: int
    classification: Classification
    rule: int = 0
    version: int = 0
    start: int = 0
    end: int = 0
    confidence: int = CERTAIN


@dataclass
class ReportRead:
    """A report as columns. Each row is one attempt at a test. `tests` holds, for each row, the index of its test in
    `node_ids`.
    """

    node_ids: list[str] = field(default_factory=list)
    case_suites: array[int] = field(default_factory=lambda: array("H"))
    """For each of `node_ids`, the index of the suite in which the test was first seen."""
    suites: list[str] = field(default_factory=list)
    tests: array[int] = field(default_factory=lambda: array("I"))
    row_suites: array[int] = field(default_factory=lambda: array("H"))
    durations_ms: array[int] = field(default_factory=lambda: array("I"))
    statuses: bytearray = field(default_factory=bytearray)
    attempts: bytearray = field(default_factory=bytearray)
    finals: bytearray = field(default_factory=bytearray)
    ran: bytearray = field(default_factory=bytearray)
    """One byte for each row: 1 if the test passed, failed, or failed as expected and was reported as skipped (pytest's
    xfail).
    """
    known_issues: bytearray = field(default_factory=bytearray)
    flaky: bytearray = field(default_factory=bytearray)
    texts: list[ResultText] = field(default_factory=list)
    """Texts of results, ordered by row."""
    text_bytes: int = 0
    """Size of all texts in bytes."""
    matches: list[Match] = field(default_factory=list)
    """Matches of failures with known issues, classification rules and statistics, ordered by row."""
    outages: bytes = b""
    """One byte for each row: 1 if the result is an outage, else 0. Empty if all are 0."""
    cuts: list[int] = field(default_factory=lambda: [0])
    """Index of the first row of each block."""
    warnings: list[str] = field(default_factory=list)
    explained_exit_code: int | None = None
    """Exit code that the results explain, as the agent's pytest plugin reports: 0, or 1 for failed tests. UNEXPLAINED
    if the exit code may have another cause; None if unknown. If the file has several runs of pytest, the worst of
    theirs.
    """
    is_bare_pytest: bool = False
    """Whether pytest wrote the report without the agent's plugin."""
    unloaded: int = 0
    """Number of suites that could not be loaded, ended early, or failed as a whole."""
    lost_tests: bool = False
    """Whether the file declares more tests than it contains, has tests that did not run, or declares a number of
    failures that cannot be read.
    """
    is_report: bool = False
    """Whether the file has a known report format."""
    is_unreadable: bool = False
    """Whether results are missing. This is so if the file is empty, cut off, not XML, cannot be unpacked, has results
    that are nested too deep, declares failures that it does not contain, comes from a pytest run that ended early, or
    is a test report in a format that the server does not read.
    """
    is_missing: bool = False
    """Whether the report is missing: no file matches a pattern for reports in the job's artifacts."""

    @property
    def rows(self) -> int:
        return len(self.statuses)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yields the first row of each block and the row after its last one. Yields nothing for a report without
        results.
        """
        ends = [*self.cuts[1:], self.rows]
        return ((start, end) for start, end in zip(self.cuts, ends, strict=True) if start < end)

    def texts_by_block(self) -> Iterator[list[ResultText]]:
        """Yields, for each block, the texts of its results."""
        first = 0
        for _, end in self.blocks():
            last = bisect_left(self.texts, end, lo=first, key=lambda text: text.row)
            yield self.texts[first:last]
            first = last


def size_of(text: str) -> int:
    """Returns the number of bytes that the characters of a text take in memory. One character like an emoji makes
    Python keep four bytes for each character of the text.
    """
    return sys.getsizeof(text) - _EMPTY


_EMPTY = sys.getsizeof("")


def read_report(path: Path) -> ReportRead:
    """Reads a report from a file, which may be a gzip file. Raises OSError if the file cannot be read. No content of
    the file raises an error.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] != GZIP:
            return read_chunks(iter(lambda: file.read(CHUNK), b""))
        unpacking = _Unpacking(file)
        report = read_chunks(unpacking)
    if unpacking.problem:
        report.is_unreadable = True
        report.warnings.insert(0, unpacking.problem)
    return report


class _Unpacking:
    """Iterable of the decompressed chunks of a gzip file. If the file is cut off, damaged or too large, the iteration
    ends early and sets `problem` to the cause.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.problem = ""

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        with gzip.GzipFile(fileobj=self._file) as unpacked:
            try:
                while chunk := unpacked.read1(CHUNK):
                    size += len(chunk)
                    if size > MAX_UNPACKED:
                        self.problem = f"it unpacks to more than {MAX_UNPACKED // 2**20} MiB: the rest was not read"
                        return
                    yield chunk
            except (OSError, EOFError, zlib.error) as error:
                self.problem = f"it cannot be unpacked: {error}"


def make_unreadable(reason: str) -> ReportRead:
    """Returns an unreadable report without results. `reason` is the server's reason for not reading the file."""
    return ReportRead(is_unreadable=True, warnings=[f"{reason}: none of its results was read"])


def read_chunks(chunks: Iterable[bytes]) -> ReportRead:
    reading = _Reading()
    for item in parse_report(chunks):
        match item:
            case Case() if reading.report.rows == MAX_RESULTS:
                return make_unreadable(f"it has more than {MAX_RESULTS:,} results")
            case Case():
                reading.add(item)
                if reading.names > MAX_NAME_BYTES:
                    return make_unreadable(f"the names of its tests have more than {MAX_NAME_BYTES // 2**20} MiB")
            case Suite():
                reading.end_suite(item)
            case Summary():
                reading.end(item)
    return reading.report


_TestKey = tuple[str, str, str, str]
"""Identity of a test in a report: node id, xdist worker, class name and name. The node id alone does not suffice: it
joins class and name, so it is the same for (`a.b`, `c`) and (`a`, `b.c`).
"""
_Attempts = tuple[int, int, bool, bool]
"""State of a test in its suite: row of the attempt that counts, number of attempts, whether another attempt failed
before the one that counts, and whether a failed attempt lacks a mark that it is one of several.
"""


_WORST_FIRST = (UNEXPLAINED, 1, 0)
"""Values of `explained_exit_code`, the worst first."""


class _Reading:
    def __init__(self) -> None:
        self.report = ReportRead()
        self.names = 0
        """Size in bytes of all node ids so far."""
        self._indexes: dict[str, int] = {}
        self._suites: dict[str, int] = {}
        self._attempts: dict[str, dict[_TestKey, _Attempts]] = {}
        """Name of an open suite -> test -> attempts so far."""
        self._unloaded: set[str] = set()
        """Names of open suites that `unloaded` already counts. jest-junit writes two cases for each such suite, but the
        suite must count once.
        """
        self._stable_names = StableNames()
        self._block_text = 0
        self._left_out = 0
        self._not_run = 0
        self._presumed_retries = 0
        """Number of results that did not fail, and that are taken for retries of a failed test only because they have
        its name. The format does not mark them as retries.
        """

    def add(self, case: Case) -> None:
        case = self._stable_names.rename(case)
        report, row = self.report, self.report.rows
        suite = self._suite(case.suite)
        status = _STATUS[case.status]
        index = self._indexes.get(case.node_id)
        if index is None:
            index = self._indexes[case.node_id] = len(report.node_ids)
            report.node_ids.append(case.node_id)
            self.names += size_of(case.node_id)
            report.case_suites.append(suite)
        tests = self._attempts.setdefault(case.suite, {})
        worker = ""
        if case.properties:
            worker = next((value for name, value in case.properties if name == XDIST_WORKER), "")
        key = case.node_id, worker, case.classname, case.name
        # Two cases without a name are two tests: nothing says that one repeats the other.
        before = None if case.runs_once or case.name == NO_NAME else tests.get(key)
        attempt, failed_before, failed_unfolded = 1, False, False
        last, is_final = row, True
        if before is not None:
            last, attempt, failed_before, failed_unfolded = before
            # A skip is no success: the failure before it stays the result of the test.
            is_final = status != SKIPPED or report.statuses[last] != FAILED
            if is_final:
                report.finals[last] = report.flaky[last] = 0
                failed_before |= report.statuses[last] == FAILED
                last = row
            attempt += 1
            self._presumed_retries += status != FAILED and failed_unfolded
        tests[key] = last, attempt, failed_before, failed_unfolded or (status == FAILED and not case.is_folded)
        report.tests.append(index)
        report.row_suites.append(suite)
        report.durations_ms.append(min(max(case.duration_ms, 0), MAX_DURATION))
        report.statuses.append(status)
        report.attempts.append(min(attempt, MAX_TEST_ATTEMPTS))
        report.finals.append(is_final)
        report.ran.append(status != SKIPPED or XFAILED in case.properties)
        report.known_issues.append(status == FAILED and case.known_issue)
        report.flaky.append(status == PASSED and failed_before)
        if status == FAILED and is_unloaded_suite(case) and case.suite not in self._unloaded:
            report.unloaded += 1
            if not is_collection_error(case):  # pytest has one suite for all of its files
                self._unloaded.add(case.suite)
        self._keep_text(row, case)
        if report.rows - report.cuts[-1] >= BLOCK_ROWS or self._block_text >= BLOCK_TEXT:
            report.cuts.append(report.rows)
            self._block_text = 0

    def end_suite(self, suite: Suite) -> None:
        """Ends a suite, so that a later suite with the same name counts as another suite. Merged reports of shards have
        many suites called `pytest`.
        """
        self._attempts.pop(suite.name, None)
        self._stable_names.end_suite(suite.name)
        is_known = suite.name in self._unloaded
        self._unloaded.discard(suite.name)
        properties = dict(suite.properties)
        not_run = properties.get("testhide_tests_not_run", "")
        self._not_run += int(not_run) if not_run.isdecimal() else 0
        self.report.is_bare_pytest |= suite.is_pytest and not any(name.startswith("testhide_") for name in properties)
        code = properties.get("testhide_explained_exit_code")
        if code is not None:
            explained = int(code) if code in ("0", "1") else UNEXPLAINED
            of_earlier = self.report.explained_exit_code
            codes = (explained, explained if of_earlier is None else of_earlier)
            self.report.explained_exit_code = min(codes, key=_WORST_FIRST.index)
        # Only these counts show that jest-junit could not load a file.
        self.report.unloaded += suite.counts.tests == 0 and bool(suite.declared.errors) and not is_known

    def end(self, summary: Summary) -> None:
        report = self.report
        report.is_report = summary.dialect != ""
        report.warnings = [warning.message for warning in summary.warnings]
        report.is_unreadable = is_unreadable(summary) or self._not_run > 0
        if self._not_run:
            report.warnings.append(f"the run ended early: {self._not_run:,} of its tests did not run")
        report.lost_tests = lacks_tests(summary)
        if report.lost_tests:
            report.explained_exit_code = UNEXPLAINED
        if self._presumed_retries and report.explained_exit_code is None:
            report.explained_exit_code = UNEXPLAINED
            report.warnings.append(
                "tests that failed, before a test of the same name and suite did not:"
                f" {self._presumed_retries:,}; they are read as attempts of one test, and excuse no exit code"
            )
        if self._left_out:
            report.warnings.append(
                f"the report holds more than {MAX_TEXT_BYTES // 2**20} MiB of text: "
                f"captured output of {self._left_out:,} results was left out"
            )
        if len(self._suites) > MAX_SUITES:
            report.warnings.append(f"there are more than {MAX_SUITES:,} suites: the others are counted together")

    def _suite(self, name: str) -> int:
        if name not in self._suites and len(self._suites) >= MAX_SUITES:
            name = OTHER_SUITES
        if name not in self._suites:
            self._suites[name] = len(self.report.suites)
            self.report.suites.append(name)
        return self._suites[name]

    def _keep_text(self, row: int, case: Case) -> None:
        failed = case.status == "failed"
        system_out, system_err, trace = case.system_out, case.system_err, case.trace
        is_over = self.report.text_bytes >= MAX_TEXT_BYTES
        if is_over and (system_out or system_err or trace):
            system_out = system_err = trace = ""
            self._left_out += 1
        text = ResultText(
            row,
            case.message[:1_000] if is_over else case.message,
            trace,
            case.fail_id,
            case.signature,
            # The resolution "Passed" says nothing more than the status.
            "" if case.status == "passed" and case.test_resolution.lower() == "passed" else case.test_resolution,
            system_out,
            system_err,
            list(_properties(case, failed)) if self.report.text_bytes < 2 * MAX_TEXT_BYTES else [],
        )
        size = sum(map(size_of, filter(None, (text.message, text.trace, text.system_out, text.system_err))))
        for name, value in text.properties:
            size += size_of(name) + size_of(value)
        if size or text.fail_id or text.signature or text.test_resolution:
            self.report.texts.append(text)
            self.report.text_bytes += size
            self._block_text += size


def _properties(case: Case, failed: bool) -> Iterator[tuple[str, str]]:
    yield from case.properties
    yield from (("attachment", attachment) for attachment in case.attachments)
    for name, value in (("jira", case.jira), ("info", case.info)):
        if value:
            yield name, value
    if failed:
        # Not stored for a passed test, since these values are the same in every build.
        for name, value in (("docstr", case.docstr), ("file", case.file), ("exception", case.exception_type)):
            if value:
                yield name, value
        if case.line is not None:
            yield "line", str(case.line)
