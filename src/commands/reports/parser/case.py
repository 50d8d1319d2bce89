"""Parts of a report, the same for all formats: cases, suites, and a summary at the end."""

from typing import Literal

import msgspec

Status = Literal["passed", "failed", "skipped"]
ErrorKind = Literal["", "failure", "error"]
Dialect = Literal["", "testhide", "junit", "nunit", "xunit", "trx"]


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt at one test.

    `status`, `fail_id`, `test_resolution` and `line` are as in the file; pytest counts lines from 0. A failed case with
    `known_issue` does not fail the build; `test_resolution` decides whether a case has `known_issue`. Only failed cases
    have a `signature`, which the parser computes.
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
    """Whether the runner writes each test only once. Then two cases with one name are two tests, not two attempts."""
    is_folded: bool = False
    """Whether the format itself marks the case as a further attempt, as surefire's <flakyFailure> does."""
    is_suite: bool = False
    """Whether the case stands for a suite or run that failed as a whole, and not for a test. `status` is then
    `failed`.
    """
    signature: str = ""
    docstr: str = ""
    jira: str = ""
    info: str = ""
    attachments: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()


class Counts(msgspec.Struct):
    """Numbers of cases. `failed` counts all failed cases. `errors` counts those failed cases that the file reports as
    <error>.
    """

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
    """Counts that the file itself declares for a suite or a run. A count that the file does not declare is None. In
    JUnit, `failures` does not include errors.
    """

    tests: int | None = None
    failures: int | None = None
    errors: int | None = None
    skipped: int | None = None


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite, which the parser yields after the cases of the suite. `counts` has the numbers of these cases, including
    the cases of nested suites.
    """

    name: str = ""
    declared: Declared = Declared()
    counts: Counts
    properties: tuple[tuple[str, str], ...] = ()
    is_pytest: bool = False


class ReportWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A fault in the file, and what the parser did about it.

    `line` is the line of the file where the parser first saw the fault, counted from 1. `case` is the number of cases
    that the parser had read by then. `count` is the number of times that the parser saw the fault.
    """

    kind: str
    message: str
    count: int = 1
    line: int | None = None
    case: int | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The format of a report and its warnings. The parser yields exactly one summary, as its last item."""

    dialect: Dialect = ""
    warnings: tuple[ReportWarning, ...] = ()
