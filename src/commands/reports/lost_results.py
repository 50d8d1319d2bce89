"""Finds out whether a report lacks results, because the file cannot be read, tests did not run, or suites could not be
loaded or ended early.
"""

import re

from commands.reports.parser import NO_NAME, Case, Summary

_GO_CRASH = re.compile(r"^(?:panic|fatal error): ", re.MULTILINE)


def is_unreadable(summary: Summary) -> bool:
    """Returns whether results of the report are missing. Returns False for XML that is no test report, like a coverage
    report, since it should contain no results.
    """
    kinds = {warning.kind: warning.message.lower() for warning in summary.warnings}
    no_report = kinds.get("not_a_report", "<")
    no_xml = not summary.dialect and ("<" not in no_report or "<html" in no_report or "control_characters" in kinds)
    is_cut = summary.dialect != "" and "truncated" in kinds
    return bool(kinds.keys() & {"empty", "other_format", "lost_failures", "lost_results"}) or no_xml or is_cut


def lacks_tests(summary: Summary) -> bool:
    """Returns whether a warning of the report says that results of some tests are missing, or that a declared number of
    failures could not be read.
    """
    return any(warning.kind in ("lost_tests", "not_run", "bad_failures") for warning in summary.warnings)


def is_unloaded_suite(case: Case) -> bool:
    """Returns whether a failed case stands for a suite or file that could not be loaded, ended early or failed as a
    whole. Each test runner writes such a case in its own form.
    """
    return (
        case.is_suite
        or (case.name == case.suite and ("." in case.name or "/" in case.name))  # vitest: the file; surefire: the class
        or case.classname == "Test suite failed to run"  # jest-junit
        or (case.name == "TestMain" and not case.classname)  # gotestsum: the package was not built, or ended early
        or case.name.endswith("initializationError")  # surefire
        or (case.name == "classMethod" and case.classname == case.suite)  # gradle: @BeforeClass or @AfterClass
        or (case.name == NO_NAME and not case.classname)  # gtest: SetUpTestSuite
        or is_collection_error(case)
        or ends_go_package(case)
    )


def is_collection_error(case: Case) -> bool:
    """Returns whether a failed case represents a file that pytest could not collect."""
    return case.error_kind == "error" and case.message == "collection failure"


def ends_go_package(case: Case) -> bool:
    """Returns whether a failed test ended its whole Go package early, by a panic, `os.Exit` or go's time limit. Later
    tests of the package did not run then, and the report does not mention them.

    gotestsum writes such a test like any other failed test, with the lines that go printed for the test. But the line
    with the test's result is missing, or the stack trace of a panic follows this line. A panic before this line is
    output of the test. Returns False for a subtest, since the test that contains the subtest has these lines.
    """
    start = f"=== RUN   {case.name}"
    if not case.name.isidentifier() or not (case.trace == start or case.trace.startswith(f"{start}\n")):
        return False
    results = list(re.finditer(rf"--- FAIL: {case.name}(?![\w/])", case.trace))
    if not results:
        return True
    # The lines of subtests follow; they are output, too.
    rest = case.trace[results[-1].end() :].partition("\n=== RUN   ")[0]
    crash = _GO_CRASH.search(rest)
    return crash is not None and "\n\ngoroutine " in rest[crash.end() :]
