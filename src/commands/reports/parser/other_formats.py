"""Recognises test reports in formats that the server does not read. A build that sends such a report lacks results. A
build that sends XML of another kind lacks none.
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
    """Returns the name of the test runner whose own format has a start tag `name` below the root element `root`; empty
    if no such test runner is known.
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
