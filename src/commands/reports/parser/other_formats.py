"""Recognises test reports in formats that the server does not read. When a build sends such a report, results are
missing. When a build sends XML that is no test report, none are.
"""

from collections.abc import Mapping

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
}
_ROBOT_GENERATORS = ("Robot", "Rebot")
_OF_CPPUNIT = ("FailedTests", "SuccessfulTests")


def find_other_format(root: str, name: str, attributes: Mapping[str, str]) -> str:
    """Returns the name of the test runner in whose own format a start tag `name` occurs below the root element `root`;
    empty if no such test runner is known.
    """
    if root == "Site":  # ctest also writes its configuration and build logs in such files
        return "ctest" if name == "Testing" else ""
    if root == "TestRun":  # TRX has this root too
        return "CppUnit" if name in _OF_CPPUNIT else ""
    if name != root:
        return ""
    if root == "robot":  # a description of a robot for ROS has this root too
        return "Robot Framework" if attributes.get("generator", "").startswith(_ROBOT_GENERATORS) else ""
    return _ROOTS.get(root, "")
