"""The parts of a report, whichever tool wrote it: cases, suites, and a summary at the end."""

from typing import Literal

import msgspec

Status = Literal["passed", "failed", "skipped"]
ErrorKind = Literal["", "failure", "error"]
Dialect = Literal["", "testhide", "junit", "nunit", "xunit", "trx"]


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt at one test.

    `status` is what the file says; a failed case with `known_issue` must not fail the build. `fail_id` and
    `test_resolution` are verbatim. `line` is verbatim too, so it counts from 0 in pytest's reports.
    `signature` is ours and set for failed cases only (see `signature`).
    """

    node_id: str
    name: str
    status: Status
    suite: str = ""
    classname: str = ""
    file: str = ""
    line: int | None = None
    duration_ms: int = 0
    message: str = ""
    trace: str = ""
    error_kind: ErrorKind = ""
    exception_type: str = ""
    system_out: str = ""
    system_err: str = ""
    fail_id: str = ""
    test_resolution: str = ""
    known_issue: bool = False
    runs_once: bool = False
    """It is no attempt at an earlier test of its name: its runner writes each test once."""
    signature: str = ""
    docstr: str = ""
    jira: str = ""
    info: str = ""
    attachments: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()


class Counts(msgspec.Struct):
    """Numbers of cases. `failed` includes errors, `errors` is the part of it written as <error>."""

    tests: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def passed(self) -> int:
        return self.tests - self.failed - self.skipped

    def add(self, case: Case) -> None:
        self.tests += 1
        if case.status == "failed":
            self.failed += 1
            self.errors += case.error_kind == "error"
        elif case.status == "skipped":
            self.skipped += 1

    def include(self, other: "Counts") -> None:
        self.tests += other.tests
        self.failed += other.failed
        self.errors += other.errors
        self.skipped += other.skipped


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """The counts that the file itself declares for a suite or a run; None where it declares none. In JUnit,
    `failures` does not include errors.
    """

    tests: int | None = None
    failures: int | None = None
    errors: int | None = None
    skipped: int | None = None


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite, given after its cases. `counts` are recomputed from them, nested suites included."""

    name: str = ""
    declared: Declared = Declared()
    counts: Counts
    properties: tuple[tuple[str, str], ...] = ()


class ReportWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A fault in the file, and how it was read all the same.

    `line` is the line of the file where it was first seen (from 1), `case` how many cases had been read by
    then, `count` how often it was seen.
    """

    kind: str
    message: str
    count: int = 1
    line: int | None = None
    case: int | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The kind of a report and its warnings: the last item of every parse, exactly once."""

    dialect: Dialect = ""
    warnings: tuple[ReportWarning, ...] = ()
