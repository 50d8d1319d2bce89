"""Suites and runs that failed as a whole are failures that nothing excuses, even where all of their cases passed."""

import pytest
from tests.commands.reports.reading import parsed

from commands.reports.reading import read_chunks
from domain.results import FAILED

PASSED = '<test-case name="a" fullname="S.F.a" classname="S.F" result="Passed"/>'
FAILED_CASE = '<test-case name="b" fullname="S.F.b" classname="S.F" result="Failed"/>'
PARENT = 'type="TestSuite" name="S" fullname="S" result="Failed" site="Child"'
FIXTURE = 'type="TestFixture" name="F" fullname="S.F"'


def nunit(fixture: str, cases: str = PASSED, run: str = 'result="Failed"') -> str:
    child = "<failure><message>One or more child tests had errors</message></failure>"
    inner = f"<test-suite {FIXTURE} {fixture}{cases}</test-suite>"
    return f'<test-run id="0" {run}><test-suite {PARENT}>{child}{inner}</test-suite></test-run>'


def trx(outcome: str, *messages: tuple[str, str], result: str = "Passed") -> str:
    infos = "".join(f'<RunInfo outcome="{kind}"><Text>{text}</Text></RunInfo>' for kind, text in messages)
    return (
        f'<TestRun name="run"><Results><UnitTestResult testId="1" testName="a" outcome="{result}"/></Results>'
        f'<TestDefinitions><UnitTest id="1"><TestMethod className="S.F" name="a"/></UnitTest></TestDefinitions>'
        f'<ResultSummary outcome="{outcome}"><Counters total="1"/><RunInfos>{infos}</RunInfos></ResultSummary>'
        "</TestRun>"
    )


BUSY = "<failure><message>busy</message></failure>"
ERROR = "<error>no database</error>"
INVALID = 'result="Failed" label="Invalid" runstate="NotRunnable"><reason><message>no host</message></reason>'
CRASHED = ("Error", "The active test run was aborted. Reason: Test host process crashed")
SAID = ("Error", "[xUnit.net 00:00:00.74]     S.F.a [FAIL]")
PLATFORM = ("Error", "Exit code indicates failure: '2'. Please refer to the documentation")
WARNED = ("Warning", "No test matches the given testcase filter")


@pytest.mark.parametrize(
    ("report", "name", "message"),
    [
        (trx("Failed", CRASHED), "run", CRASHED[1]),
        (trx("Completed", CRASHED), "run", CRASHED[1]),
        (trx("Failed", SAID, CRASHED, result="Failed"), "run", CRASHED[1]),
        (trx("Aborted"), "run", "the outcome of the run is aborted"),
        (trx("Error", result="Failed"), "run", "the outcome of the run is error"),
        (trx("Failed"), "run", "the outcome of the run is failed"),
        (nunit(f'result="Failed" label="Error" site="TearDown">{BUSY}'), "S.F", "busy"),
        (nunit(f'result="Failed" site="TearDown">{BUSY}', FAILED_CASE), "S.F", "busy"),
        (nunit('result="Failed" label="Error" site="SetUp">', ""), "S.F", "Failed Error SetUp"),
        (nunit(INVALID, ""), "S.F", "no host"),
        (nunit('result="Passed" runstate="NotRunnable">'), "S.F", "Passed"),
        (f'<test-run result="Failed">{PASSED}</test-run>', "test-run", "Failed"),
        ('<testsuite name="s"><error message="no database"/><testcase name="a"/></testsuite>', "s", "no database"),
        ('<testsuite name="s" tests="0" errors="1"><error>no database</error></testsuite>', "s", "no database"),
        ('<testsuite name="s" tests="1" errors="1">' + ERROR + '<testcase name="a"/></testsuite>', "s", "no database"),
        ('<testsuites><failure message="cut off"/><testsuite name="s"/></testsuites>', "testsuites", "cut off"),
    ],
)
def test_a_failed_suite_is_a_failure_of_its_own(report: str, name: str, message: str) -> None:
    found = parsed(report)
    assert [(case.name, case.message) for case in found.cases if case.is_suite] == [(name, message)]
    read = read_chunks([report.encode()])
    assert (read.unloaded, read.is_unreadable, FAILED in read.statuses) == (1, False, True)
    assert not any("declares" in warning for warning in read.warnings)


@pytest.mark.parametrize(
    "report",
    [
        trx("Completed", WARNED),
        trx("Failed", SAID, result="Failed"),
        trx("Failed", PLATFORM, result="Failed"),
        nunit('result="Passed">', run='result="Passed"').replace('result="Failed" site="Child"', 'result="Passed"'),
        nunit('result="Failed" site="Child">', FAILED_CASE),
        nunit('result="Failed" label="Error" site="SetUp">', FAILED_CASE),
        nunit('result="Warning">', run='result="Warning"').replace('result="Failed" site="Child"', 'result="Warning"'),
        nunit('result="Skipped" label="Ignored"><reason><message>later</message></reason>').replace("Failed", "Passed"),
    ],
)
def test_a_suite_that_failed_by_its_tests_is_none(report: str) -> None:
    assert not any(case.is_suite for case in parsed(report).cases)
    assert read_chunks([report.encode()]).unloaded == 0


RUN, FAIL = "=== RUN   TestTotal\n", "--- FAIL: TestTotal (0.00s)\n"
SUB_RUN = "=== RUN   TestTotal/sub\n"
PANIC = "panic: boom [recovered]\n\tpanic: boom\n\ngoroutine 7 [running]:\ntesting.tRunner.func1.2({0x549800})\n"
LATE = "panic: test timed out after 2s\n\trunning tests:\n\t\tTestTotal (2s)\n\ngoroutine 18 [running]:\n"


def gotestsum(*outputs: tuple[str, str]) -> bytes:
    cases = (
        f'<testcase classname="acme.test/shop" name="{name}"><failure message="Failed">{output}</failure></testcase>'
        for name, output in outputs
    )
    return f'<testsuite name="acme.test/shop">{"".join(cases)}</testsuite>'.encode()


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param([("TestTotal", RUN + FAIL + PANIC)], id="panic"),
        pytest.param([("TestTotal", RUN + FAIL + "fatal error: boom\n\ngoroutine 8 [running]:")], id="fatal error"),
        pytest.param([("TestTotal", RUN + PANIC)], id="panic of a goroutine"),
        pytest.param([("TestTotal", RUN)], id="exit"),
        pytest.param([("TestTotal", RUN + LATE)], id="timeout"),
        pytest.param([("TestTotal/sub", SUB_RUN), ("TestTotal", RUN + LATE), ("TestMore", LATE)], id="several tests"),
        pytest.param([("TestTotal", RUN + "--- FAIL: TestTotal/sub (0.00s)\n")], id="after a subtest"),
    ],
)
def test_a_test_that_ends_its_go_package_leaves_a_suite_incomplete(outputs: list[tuple[str, str]]) -> None:
    assert read_chunks([gotestsum(*outputs)]).unloaded == 1


@pytest.mark.parametrize(
    "output",
    [
        RUN + "    a_test.go:6: boom\n" + FAIL,
        RUN + PANIC + "exit status 2\n" + FAIL,
        RUN + "no newline" + FAIL,
        RUN + FAIL + "    a_test.go:6: panic: boom\n",
        RUN + FAIL + "got:\npanic: boom\nwant:\nfine\n",
        RUN + FAIL + SUB_RUN + PANIC,
        PANIC,
    ],
)
def test_a_failed_test_of_go_that_prints_a_panic_ends_nothing(output: str) -> None:
    assert read_chunks([gotestsum(("TestTotal", output))]).unloaded == 0


def test_a_data_driven_test_may_fail_beside_its_rows() -> None:
    def outcomes(outer: str, inner: str) -> list[tuple[str, str]]:
        row = f'<UnitTestResult testId="1" testName="a (1)" outcome="{inner}"/>'
        whole = f'<UnitTestResult testId="1" testName="a" outcome="{outer}"><InnerResults>{row}</InnerResults>'
        cases = parsed(f'<TestRun name="r"><Results>{whole}</UnitTestResult></Results></TestRun>').cases
        return [(case.name, case.status) for case in cases]

    assert outcomes("Failed", "Passed") == [("a (1)", "passed"), ("a", "failed")]
    assert outcomes("Failed", "Failed") == [("a (1)", "failed")]
    assert outcomes("Passed", "Passed") == [("a (1)", "passed")]
