"""Reads the elements of a report in any format: tracks the current suite, builds cases, counts them, and compares the
counts with the declared ones.

The format of a report is recognised by any of its elements, not only by the root. So a file that lost its beginning can
still be read.
"""

from collections.abc import Iterator

import msgspec

from commands.reports.parser import dotnet, junit
from commands.reports.parser.building import Builder, property_pair
from commands.reports.parser.case import Case, Counts, Declared, Dialect, Suite, Summary
from commands.reports.parser.declared_counts import (
    count_lost_failures,
    count_lost_tests,
    declared_by,
    declared_by_catch2,
    declared_by_trx,
    describe_mismatches,
    total_as_declared,
)
from commands.reports.parser.failed_suites import TrxRun, has_nunit_suite_failed, suite_case
from commands.reports.parser.limits import Limits
from commands.reports.parser.names import cut_name
from commands.reports.parser.node_ids import Origin
from commands.reports.parser.notes import Notes
from commands.reports.parser.tree import VERDICTS, Budget, Element
from commands.reports.parser.values import whole_number
from formats.reports import DIALECTS, find_other_format

_RUNS = frozenset({"testsuites", "test-run", "test-results", "assemblies", "TestRun"})
_SUITES = frozenset({"testsuite", "test-suite", "assembly"})
_CASES = frozenset({"testcase", "test-case", "UnitTestResult"})
_FACTS = frozenset({"property", "system-out", "system-err", "UnitTest", "Counters", "RunInfo"})
_FAILURES = frozenset({"failure", "error"})
_JUNIT_SUITES = frozenset({"testsuite", "testsuites"})
_NUNIT_SUITES = frozenset({"test-suite", "test-run"})
_HAS_FAILED = frozenset({"failed", "fail", "error", "timeout", "aborted"})
CATCH2_HOST = "tbd"
"""Value that Catch2 writes as the `hostname` of each suite."""
# Names that jest-junit, vitest and mocha-junit-reporter give to their runs. These reporters write no further attempts.
_ONCE = frozenset({"jest tests", "vitest tests", "Mocha Tests"})
# Suites that group the variants of one test. The suite of such a case is the fixture around the group.
_NUNIT_VARIANTS = frozenset({"Theory", "ParameterizedMethod", "GenericMethod"})
_OUTPUTS = frozenset({"system-out", "system-err", "output", "StdOut", "StdErr"})
_MESSAGES = frozenset({"message", "Message", "reason", "property", "skipped"})


class _OpenSuite:
    """A suite or a run whose end tag has not been read yet."""

    def __init__(self, element: str, attributes: dict[str, str], origin: Origin) -> None:
        self.element = element
        self.attributes = attributes
        self.origin = origin
        self.direct = Counts()
        self.total = Counts()
        self.folded = Counts()
        """Counts of the folded attempts of all cases, including the cases of nested suites."""
        self.further_failures = 0
        """Number of failures beyond the first one of each case. Catch2 counts all failures of a case."""
        self.excused_failures = 0
        """Number of cases with failures that count as skipped, because their tests may fail. Includes cases of nested
        suites.
        """
        self.properties: list[tuple[str, str]] = []
        self.unloaded = 0
        """Number of suites that could not be loaded, in this suite and in the suites nested in it. Each error that a
        suite without cases declares stands for one of them.
        """
        self.failed_suites = 0
        """Number of suites that failed as a whole, among this suite and the suites nested in it."""
        self.failure: Element | None = None
        """First <failure> or <error> of the suite itself, or <reason> of NUnit."""


class ReportReader:
    """Builds cases and suites from elements whose tags are properly nested. `drain` yields what has been built."""

    def __init__(self, limits: Limits, notes: Notes) -> None:
        self._limits = limits
        self._notes = notes
        self._builder = Builder(limits, notes)
        self._out: list[Case | Suite] = []
        self._capture: list[Element] = []
        self._budget = Budget(limits)
        self._skipped = 0
        self._suites: list[_OpenSuite] = []
        self._held = dotnet.PendingCases()
        self._releasing = False
        self._dialect: Dialect = ""
        self._root = ""
        self._other_format = ""
        self._run = Origin()
        self._run_name = dotnet.trx_run_name("")
        self._declared_by_trx = Declared()
        self._trx_run = TrxRun()
        self._failed_in_trx = 0

    def drain(self) -> Iterator[Case | Suite]:
        """Yields the cases and suites that were read since the last call."""
        out, self._out = self._out, []
        yield from out
        if self._releasing:
            self._releasing = False
            yield from self._held.release(self._builder)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._capture:
            self._start_within(name, attributes)
            return
        self._root = self._root or name
        if other_format := find_other_format(self._root, name, attributes):
            self._other_format, self._dialect = other_format, ""
        dialect = DIALECTS.get(name)
        if dialect is not None and not self._dialect and not self._other_format:
            self._dialect = dialect
        if name in _RUNS:
            self._start_run(name, attributes)
        elif name in _SUITES:
            self._start_suite(name, attributes)
        elif name == "ResultSummary":
            self._trx_run.end(attributes.get("outcome", ""))
        elif (
            name in _CASES
            or name in _FACTS
            or (self._dialect == "xunit" and name in ("test", "error"))
            or self._describes_suite(name)
        ):
            self._budget = Budget(self._limits)
            self._capture.append(Element(name, attributes, self._text_limit(name)))

    def text(self, text: str) -> None:
        if self._capture and not self._skipped:
            self._capture[-1].add_text(text, self._budget)

    def end(self, name: str, *, whole: bool) -> None:
        if self._skipped:
            self._skipped -= 1
        elif self._capture:
            node = self._capture.pop()
            node.whole = whole
            if not self._capture:
                self._captured(node)
        elif self._suites and self._suites[-1].element == name:
            self._end_suite(self._suites.pop(), whole=whole)

    def _describes_suite(self, name: str) -> bool:
        """Returns whether an element outside of a case describes why the suite around it failed."""
        element = self._suites[-1].element if self._suites else ""
        if name in _FAILURES:
            return element in _JUNIT_SUITES or element in _NUNIT_SUITES
        return name == "reason" and element in _NUNIT_SUITES

    def _start_within(self, name: str, attributes: dict[str, str]) -> None:
        budget = self._budget
        if self._skipped:
            self._skipped += 1
            return
        if budget.elements <= 0 and not (name in VERDICTS and budget.elements > -16):
            self._notes.add("too_many_elements", f"<{name}> in {self._capture[0].get('name', 'testName')[:80]}")
            self._skipped = 1
            return
        budget.elements -= 1
        size = sum(map(len, attributes.values()))
        if size > budget.text:
            self._notes.add("cut", f"the attributes of <{name[:40]}>")
            room = max(0, budget.text)
            attributes = {key: value[: room // len(attributes)] for key, value in attributes.items()}
            size = room
        budget.text -= size
        node = Element(name, attributes, self._text_limit(name))
        self._capture[-1].children.append(node)
        self._capture.append(node)

    def _text_limit(self, name: str) -> int:
        if name in _OUTPUTS:
            return self._limits.output
        return self._limits.message if name in _MESSAGES else self._limits.trace

    def _start_run(self, name: str, attributes: dict[str, str]) -> None:
        title = attributes.get("name", "")
        if name == "TestRun":
            self._run_name = cut_name(dotnet.trx_run_name(title), self._limits.name)
        self._run = Origin(
            pytest=title == "pytest tests",
            playwright=name == "testsuites" and "id" in attributes and not title,
            runs_once=title in _ONCE,
            may_have_bailed=title == "vitest tests" and attributes.get("failures") != "0",
        )
        self._suites.append(_OpenSuite(name, attributes, self._run))

    def _start_suite(self, element: str, attributes: dict[str, str]) -> None:
        name = attributes.get("name", "")
        if element == "assembly":
            name = name.replace("\\", "/").rpartition("/")[2]
        parent = self._suites[-1].origin if self._suites else self._run
        if attributes.get("type") in _NUNIT_VARIANTS and parent.suite:
            name = parent.suite
        limit = self._limits.name
        origin = Origin(
            suite=cut_name(name or parent.suite, limit),
            suite_file=cut_name(attributes.get("file", "") or parent.suite_file, limit),
            hostname=cut_name(attributes.get("hostname", ""), limit),
            pytest=self._run.pytest or name == "pytest",
            playwright=self._run.playwright,
            runs_once=self._run.runs_once,
            may_have_bailed=self._run.may_have_bailed,
        )
        self._suites.append(_OpenSuite(element, attributes, origin))

    def _captured(self, node: Element) -> None:
        if self._describes_suite(node.name):
            self._suites[-1].failure = self._suites[-1].failure or node
        elif node.name in _CASES or node.name in ("test", "error"):
            if node.whole or self._is_evidence(node):
                self._read_case(node)
        elif node.name == "UnitTest":
            self._held.define(node)
        elif node.name == "Counters":
            self._declared_by_trx = declared_by_trx(node.attributes, self._notes)
        elif node.name == "RunInfo":
            self._trx_run.add_message(node)
        elif self._suites and node.name == "property":
            self._suite_property(node, self._suites[-1])

    def _is_evidence(self, node: Element) -> bool:
        """Returns whether to keep a case whose end tag is missing. True only if the part before the fault already shows
        a failure. Adds a warning either way.
        """
        name = node.get("name", "testName")[:120]
        failed = any(child.name in junit.HAS_FAILED for child in node.children)
        failed = failed or node.get("result", "outcome").casefold() in _HAS_FAILED
        self._notes.add("case_kept_unfinished" if failed else "case_dropped", name)
        return failed

    def _suite_property(self, node: Element, suite: _OpenSuite) -> None:
        if len(suite.properties) >= self._limits.properties:
            self._notes.add("too_many_elements", f"<property> of the suite {suite.origin.suite[:80]}")
        else:
            name, value = property_pair(node)
            suite.properties.append((self._builder.cut(name, self._limits.name, "the name of a property"), value))
            if name == "testhide_schema_version":
                self._read_version(value)

    def _read_version(self, value: str) -> None:
        self._dialect = "testhide"
        version = whole_number(value, "the schema version", self._notes)
        if version is not None and version != 1:
            self._notes.add("schema_version", f"the report has schema version {version}, it was read as version 1")

    def _read_case(self, node: Element) -> None:
        origin = self._suites[-1].origin if self._suites else self._run
        if node.name == "UnitTestResult":
            for test_id, case in dotnet.trx_cases(node, self._run_name, origin, self._builder):
                self._failed_in_trx += case.status == "failed"
                self._count(case)
                self._held.add(test_id, case)
            return
        itself = 0
        if node.name == "testcase":
            attempts, itself = junit.cases(node, origin.suite, origin, self._builder)
            failures = sum(child.name in junit.HAS_FAILED for child in node.children)
            if self._suites and failures:
                self._suites[-1].further_failures += failures - 1 if attempts[itself].status == "failed" else 0
                self._suites[-1].excused_failures += attempts[itself].status == "skipped"
            if self._dialect == "junit" and ("fail_id" in node.attributes or "test_resolution" in node.attributes):
                self._dialect = "testhide"
        elif node.name == "test-case":
            attempts = dotnet.nunit_case(node, origin.suite, origin, self._builder)
        else:
            attempts = dotnet.xunit_case(node, origin.suite, origin, self._builder)
        # An element counts once; the attempts that are folded into the element count separately.
        self._count(attempts[itself])
        if self._suites:
            for attempt in (*attempts[:itself], *attempts[itself + 1 :]):
                self._suites[-1].folded.add(attempt)
        self._out += attempts

    def _count(self, case: Case) -> None:
        self._notes.cases += 1
        if self._suites:
            self._suites[-1].direct.add(case)

    def _end_suite(self, suite: _OpenSuite, *, whole: bool) -> None:
        suite.total.include(suite.direct)
        if suite.element == "TestRun":
            self._releasing = True
            declared = self._declared_by_trx
        else:
            declared = declared_by(suite.element, suite.attributes, self._notes)
        who = "the file" if suite.element in _RUNS else f"the suite '{suite.origin.suite[:80]}'"
        junit = suite.element.startswith("testsuite")
        is_pytest = suite.origin.pytest or self._run.pytest
        if junit and suite.total.tests == 0 and suite.element not in _RUNS:
            suite.unloaded = declared.errors or 0  # jest-junit writes no case for a file that could not be loaded
            if suite.origin.may_have_bailed and declared.tests == 0 and not suite.unloaded:
                self._notes.add("not_run")
        self._add_failed_suite(suite, whole=whole)
        total = suite.total
        if suite.attributes.get("hostname") == CATCH2_HOST:
            junit, declared = False, declared_by_catch2(declared)
            total = Counts(tests=total.tests, failed=total.failed + suite.further_failures, skipped=total.skipped)
        elif not is_pytest:
            total = total_as_declared(declared, total, suite.folded)
            total = msgspec.structs.replace(total, failed=total.failed + suite.excused_failures)
        is_lost = count_lost_failures(declared, total, junit=junit, pytest=is_pytest) > suite.unloaded
        if suite.failed_suites and not is_lost:
            declared = Declared(tests=declared.tests, skipped=declared.skipped)
        if wrong := describe_mismatches(declared, total, suite.direct, junit=junit, pytest=is_pytest):
            kind = "count_mismatch"
            if is_lost:
                kind = "lost_failures"
            elif count_lost_tests(declared, total, pytest=is_pytest):
                kind = "lost_tests"
            self._notes.each(kind, f"{who} declares {', '.join(wrong)}")
        if self._suites:
            self._suites[-1].total.include(suite.total)
            self._suites[-1].folded.include(suite.folded)
            self._suites[-1].excused_failures += suite.excused_failures
            self._suites[-1].unloaded += suite.unloaded
            self._suites[-1].failed_suites += suite.failed_suites
        if suite.element not in _RUNS:
            properties = tuple(suite.properties)
            self._out.append(
                Suite(
                    name=suite.origin.suite,
                    declared=declared,
                    counts=suite.total,
                    properties=properties,
                    is_pytest=is_pytest,
                )
            )

    def _add_failed_suite(self, suite: _OpenSuite, *, whole: bool) -> None:
        """Adds a case for a suite that failed as a whole. If the suite also declares errors, its failure is counted as
        one of these errors.
        """
        if suite.element in _JUNIT_SUITES:
            has_failed = suite.failure is not None
        elif suite.element in _NUNIT_SUITES:
            has_failed = whole and has_nunit_suite_failed(suite.attributes, suite.total.failed, suite.failed_suites)
        else:
            return
        if has_failed:
            suite.failed_suites += 1
            suite.unloaded = max(suite.unloaded, 1)
            name = suite.attributes.get("fullname", "") or suite.attributes.get("name", "") or suite.element
            label = " ".join(filter(None, (suite.attributes.get(key, "") for key in ("result", "label", "site"))))
            self._out.append(suite_case(name, suite.failure, label, suite.origin, self._builder))

    def finish(self) -> None:
        """Ends the report. After that, `drain` also yields the cases that were waiting for the definitions at the end
        of the file.
        """
        self._releasing = True
        if (failure := self._trx_run.find_failure(self._failed_in_trx)) is not None:
            origin = Origin(suite=self._run_name)
            self._out.append(suite_case(self._run_name, None, failure, origin, self._builder))

    def summary(self) -> Summary:
        """Returns the summary of the report. Call it once, after the last `drain`."""
        if self._dialect == "xunit" and self._root not in DIALECTS and not self._notes.cases:
            self._dialect = ""  # such as the documentation of .NET, which has an <assembly>
        if not self._dialect and "empty" not in self._notes:
            root = f"it begins with <{self._root[:80]}>" if self._root else "there are no elements in it"
            self._notes.add("not_a_report", root)
            if self._other_format:
                self._notes.add("other_format", self._other_format)
        return Summary(dialect=self._dialect, warnings=self._notes.warnings())
