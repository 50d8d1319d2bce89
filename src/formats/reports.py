"""Recognises test reports by their elements and by their file names.

The agent sends the files that this module recognises, and the server reads them. Some formats are known but cannot be
read: a build that sends a report in one of them lacks results. XML in no known format is no report, so a build that
sends such XML lacks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

DIALECTS: Mapping[str, Literal["junit", "nunit", "xunit", "trx"]] = {
    "testsuites": "junit",
    "testsuite": "junit",
    "testcase": "junit",
    "test-run": "nunit",
    "test-results": "nunit",
    "test-suite": "nunit",
    "test-case": "nunit",
    "assemblies": "xunit",
    "assembly": "xunit",
    "collection": "xunit",
    "TestRun": "trx",
    "UnitTestResult": "trx",
}
"""Name of an element -> format that has it. Any of these elements shows the format, so a file that lost its beginning
can still be read.
"""
AMBIGUOUS = frozenset({"testcase", "assembly", "collection"})
"""Elements in DIALECTS that are also in XML of other kinds, such as the documentation of .NET. Below a root element
that is not in DIALECTS, they show the format only together with an element of a result.
"""
_ROOTS = {
    "testng-results": "TestNG",
    "TestLog": "Boost.Test",
    "TestResult": "Boost.Test",
    "Catch": "Catch2",
    "Catch2TestRun": "Catch2",
    "doctest": "doctest",
    "testExecutions": "SonarQube",
    "unittest-results": "UnitTest++",
    "CUNIT_TEST_RUN_RESULTS_REPORT": "CUnit",
    "gtester": "GLib's gtester",
    "SquishReport": "Squish",
}
"""Root element -> test runner that writes a format of its own with this root. The server cannot read these formats."""
_NESTED = {
    "Site": {"Testing": "ctest"},  # ctest also writes its configuration and build logs in such files
    "TestRun": {"FailedTests": "CppUnit", "SuccessfulTests": "CppUnit"},  # TRX has this root too
    "testsuites": {"suite": "Check"},  # JUnit has this root too
    "TestCase": {"Environment": "Qt Test", "TestFunction": "Qt Test"},
    "TestResults": {"TestListing": "FPCUnit", "NumberOfRunTests": "FPCUnit"},
    "testResults": {"httpSample": "JMeter", "sample": "JMeter", "FitNesseVersion": "FitNesse"},
    "suiteResults": {"FitNesseVersion": "FitNesse"},
    "events": {"started": "Open Test Reporting", "finished": "Open Test Reporting"},
}
"""Root element -> element in it -> test runner whose own format has these two elements."""
_ROBOT_GENERATORS = ("Robot", "Rebot")
_ENDINGS = (".xml", ".trx", ".xml.gz", ".trx.gz")
_RESERVED = ("junit*.xml", "TEST-*.xml", "*.trx")


def find_other_format(root: str, name: str, attributes: Mapping[str, str]) -> str:
    """Return the name of the test runner that writes a format of its own with the root element `root` and the element
    `name` in it. For the root element itself, `name` equals `root`. Return an empty text if no such runner is known.
    `root` and `name` have no namespace prefix. `attributes` are those of the element `name`.
    """
    nested = _NESTED.get(root, {}).get(name)
    if nested is not None or name != root:
        return nested or ""
    if root == "robot":  # a description of a robot for ROS has this root too
        return "Robot Framework" if attributes.get("generator", "").startswith(_ROBOT_GENERATORS) else ""
    return _ROOTS.get(root, "")


def is_result(name: str, attributes: Mapping[str, str]) -> bool:
    """Return whether a start tag is of a failure or error, or of a test of xUnit. Such an element confirms those in
    AMBIGUOUS.
    """
    return name in ("failure", "error") or (name == "test" and "result" in attributes)


def has_report_ending(path: str) -> bool:
    """Return whether a path, or a pattern of paths, has the ending of a report that the server can read: `.xml` or
    `.trx`, with or without `.gz`, in capital letters or not.
    """
    return path.lower().endswith(_ENDINGS)


def is_reserved_for_reports(path: str) -> bool:
    """Return whether the file has a name that only test reports have: `junit*.xml`, `TEST-*.xml` or `*.trx`, with or
    without `.gz`. If such a file cannot be read as a report, test results are missing. A name like `report*.xml` is not
    reserved, since coverage tools write such files, too.
    """
    name = path.rpartition("/")[2].removesuffix(".gz")
    return any(fnmatchcase(name, pattern) for pattern in _RESERVED)
