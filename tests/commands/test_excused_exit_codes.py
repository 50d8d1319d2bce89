"""Ignored failures excuse a failing exit code only where the reports account for it."""

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from commands.builds import FinishBuild, FinishExternalBuild
from commands.reports.reading import read_chunks
from commands.results import RecordReport
from commands.verdicts import find_exit_codes_of_failed_tests
from domain.builds import BUILD, BuildAssigned, BuildFinished, BuildQueued, BuildStarted, ReportRecorded
from domain.core.events import LoadedState
from domain.jobs import Configuration
from domain.reports import UNEXPLAINED
from domain.results import FAILED, PASSED, SKIPPED
from tests.support.spec import given

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
STARTED = (BuildAssigned(**IDS, node_id=3, attempt=1), BuildStarted(**IDS, node_id=3, attempt=1))


def report(path: str, quarantined: int, explained: int | None = None, unloaded: int = 0) -> ReportRecorded:
    counts: dict[str, Any] = {"cases": 9, "passed": 9 - quarantined, "failed": quarantined, "skipped": 0}
    counts |= {"known_issues": 0, "duration_ms": 1, "blocks": 1, "quarantined": quarantined, "first_result_id": 1}
    return ReportRecorded(**IDS, attempt=1, path=path, **counts, explained_exit_code=explained, unloaded=unloaded)


UNREADABLE = msgspec.structs.replace(report("b", 0), unreadable=True)
MISSING = msgspec.structs.replace(report("r/*.xml", 0), missing=True)


def found(path: str, quarantined: int, explained: int | None = None) -> ReportRecorded:
    """A report that a wildcard found."""
    return msgspec.structs.replace(report(path, quarantined, explained), by_wildcard=True)


def ended(exit_code: int, *reports: ReportRecorded, codes: str | None = None, command: str = "make") -> BuildFinished:
    env = {} if codes is None else {"TESTHIDE_TEST_FAILURE_EXIT_CODES": codes}
    history = (
        BuildQueued(**IDS, configuration=Configuration(command=command, env=env)),
        *STARTED,
        *reports,
    )
    (finished,) = given(*history).when(
        FinishBuild(build_id=1, node_id=3, attempt=1, exit_code=exit_code, reason=None, detail=None)
    )
    assert isinstance(finished, BuildFinished)
    return finished


@pytest.mark.parametrize(
    ("exit_code", "reports", "codes", "status"),
    [
        pytest.param(1, [report("a", 1)], None, "passed", id="the default"),
        pytest.param(2, [report("a", 1)], None, "failed", id="another exit code"),
        pytest.param(2, [report("a", 1)], "2, 3", "passed", id="a code that the job names"),
        pytest.param(1, [report("a", 1)], "2", "failed", id="a code that it does not"),
        pytest.param(1, [report("a", 0)], None, "failed", id="nothing ignored"),
        pytest.param(0, [report("a", 1, explained=0)], None, "passed", id="pytest ignored them"),
        pytest.param(1, [report("a", 1, explained=1)], "1", "failed", id="pytest did not ignore them"),
        pytest.param(1, [report("a", 1, explained=UNEXPLAINED)], None, "failed", id="a coverage gate"),
        pytest.param(2, [report("a", 1, explained=1)], None, "failed", id="what ran after pytest"),
        pytest.param(1, [report("a", 1, explained=0)], None, "failed", id="pytest passed"),
        pytest.param(1, [report("a", 1), report("b", 0, explained=0)], None, "passed", id="beside pytest"),
        pytest.param(1, [report("a", 0), report("b", 1, explained=0)], None, "failed", id="only pytest ignored some"),
        pytest.param(1, [report("a", 1), report("b", 0, UNEXPLAINED)], None, "failed", id="another run's gate"),
        pytest.param(1, [report("a", 1, unloaded=1)], None, "failed", id="a suite is missing"),
        pytest.param(1, [report("a", 1), report("b", 0, unloaded=2)], None, "failed", id="suites are missing"),
        pytest.param(1, [report("a", 1), UNREADABLE], None, "failed", id="another report is cut off"),
        pytest.param(1, [report("a", 1), MISSING], None, "failed", id="another report is missing"),
        pytest.param(1, [found("r/a", 1)], None, "failed", id="another run may have left no report"),
        pytest.param(1, [report("a", 1), found("r/b", 0)], None, "failed", id="beside a report that was named"),
        pytest.param(1, [report("a", 1), found("r/b", 0, explained=0)], None, "passed", id="pytest by a wildcard"),
        pytest.param(1, [found("r/a", 1)], "1", "passed", id="the job says that 1 means failed tests"),
    ],
)
def test_excused_exit_codes(exit_code: int, reports: list[ReportRecorded], codes: str | None, status: str) -> None:
    assert ended(exit_code, *reports, codes=codes).status == status


@pytest.mark.parametrize(("path", "by_wildcard"), [("r.xml", False), ("s/r.xml", True)])
def test_a_report_remembers_whether_a_wildcard_found_it(path: str, by_wildcard: bool) -> None:
    queued = BuildQueued(**IDS, configuration=Configuration(artifacts=["r.xml", "s/*.xml"]))
    build = BUILD.at(1).fold([queued, *STARTED])
    assert build is not None
    empty = read_chunks([b"<testsuite/>"])
    (recorded,) = RecordReport(LoadedState("build-1", 3, build), 1, path, empty, 1, array("q")).decide(build)
    assert isinstance(recorded, ReportRecorded)
    assert recorded.by_wildcard == by_wildcard


@pytest.mark.parametrize(
    ("suite", "is_external", "explained"),
    [
        ('<testsuites name="pytest tests"><testsuite name="renamed"/></testsuites>', False, UNEXPLAINED),
        ('<testsuite name="pytest"/>', False, UNEXPLAINED),
        ('<testsuite name="pytest"/>', True, None),
        ('<testsuite name="other"/>', False, None),
    ],
)
def test_pytest_without_the_plugin_excuses_nothing(suite: str, is_external: bool, explained: int | None) -> None:
    build = BUILD.at(1).fold([BuildQueued(**IDS, external=is_external), *STARTED])
    assert build is not None
    read = read_chunks([suite.encode()])
    (recorded,) = RecordReport(LoadedState("build-1", 3, build), 1, "r.xml", read, 1, array("q")).decide(build)
    assert isinstance(recorded, ReportRecorded)
    assert (recorded.explained_exit_code, len(recorded.warnings)) == (explained, int(explained is not None))


def test_a_failed_build_says_why_its_exit_code_is_not_excused() -> None:
    assert (
        ended(1, report("a", 1, unloaded=2)).detail
        == "2 test suites could not be loaded, ended early or failed as a whole."
    )
    explanation = "The ignored failures do not account for the exit code of the command."
    assert ended(2, report("a", 1)).detail == explanation
    gate = ended(1, report("a", 1, explained=1), report("b", 0, explained=UNEXPLAINED))
    assert gate.detail == f"{explanation} The report b explains no exit code."
    lost = ended(1, report("a", 1, explained=1), UNREADABLE, MISSING)
    assert lost.detail == (
        f"{explanation} The report b is incomplete or cannot be read."
        " No readable file of this build matches r/*.xml, which names reports."
    )
    assert ended(2, report("a", 0)).detail is None
    advice = (
        "name each report in the job's artifacts, or list in TESTHIDE_TEST_FAILURE_EXIT_CODES the exit codes that"
        " always mean failed tests."
    )
    assert ended(1, found("r/a", 1)).detail == (
        f"{explanation} The report r/a was found by a wildcard, so one beside it may be missing: {advice}"
    )
    assert ended(1, found("r/a", 1), found("r/b", 0)).detail == (
        f"{explanation} 2 reports were found by a wildcard, so one beside them may be missing (r/a, r/b): {advice}"
    )


def test_a_build_that_passed_says_which_reports_lack_tests() -> None:
    lacking = msgspec.structs.replace(report("a", 0), lost_tests=True)
    sentence = "The report a says that it lacks tests."
    assert (ended(0, lacking).status, ended(0, lacking).detail) == ("passed", sentence)
    external = (BuildQueued(**IDS, external=True), BuildStarted(**IDS, node_id=None, attempt=1))
    (finished,) = given(*external, lacking).when(FinishExternalBuild(build_id=1, status="passed"))
    assert isinstance(finished, BuildFinished)
    assert (finished.status, finished.detail) == ("passed", sentence)


def test_a_list_of_exit_codes_that_is_none_excuses_nothing() -> None:
    assert find_exit_codes_of_failed_tests({"TESTHIDE_TEST_FAILURE_EXIT_CODES": "any"}) == set()


@pytest.mark.parametrize(
    ("property_value", "explained"), [(None, None), ("0", 0), ("1", 1), ("none", UNEXPLAINED), ("x", UNEXPLAINED)]
)
def test_a_report_says_which_exit_code_it_explains(property_value: str | None, explained: int | None) -> None:
    one = f'<property name="testhide_explained_exit_code" value="{property_value}"/>' if property_value else ""
    suite = f'<testsuite name="pytest"><properties>{one}</properties><testcase name="a"/></testsuite>'
    assert read_chunks([suite.encode()]).explained_exit_code == explained


@pytest.mark.parametrize(
    ("values", "explained"),
    [
        (("1", "0"), 1),
        (("0", "1"), 1),
        (("0", "0"), 0),
        (("none", "1", "0"), UNEXPLAINED),
        (("1", "none", "0"), UNEXPLAINED),
        (("1", None), 1),
    ],
)
def test_the_worst_run_of_a_report_says_which_exit_code_it_explains(
    values: Sequence[str | None], explained: int
) -> None:
    suites = [
        '<testsuite name="pytest">'
        + (f'<properties><property name="testhide_explained_exit_code" value="{value}"/></properties>' if value else "")
        + '<testcase name="a"/></testsuite>'
        for value in values
    ]
    report = f"<testsuites>{''.join(suites)}</testsuites>"
    assert read_chunks([report.encode()]).explained_exit_code == explained


CATCH2 = """<testcase name="a"><failure/><failure/><error/></testcase>
<testcase name="b"><skipped message="TEST_CASE tagged with !mayfail"/><failure/></testcase>"""
"""A test with three assertions that failed, which Catch2 counts, and one with an assertion that may fail."""
FLAKY = """<testcase name="flaky"><flakyFailure/></testcase><testcase name="b"><failure/><rerunError/></testcase>"""
"""A test that passed on its second attempt, and one that failed on both: surefire declares 4 tests, 2 failures and an
error.
"""


@pytest.mark.parametrize(
    ("suite", "is_unreadable", "explained"),
    [
        ('name="s" tests="5" failures="1" errors="2"><testcase name="a"/>', True, None),
        ('name="s" tests="0" failures="1">', True, None),
        ('name="s" tests="1" failures="1" errors="1"><testcase name="a"><failure/></testcase>', True, None),
        ('name="s" tests="2" failures="1"><testcase name="a"/><testcase name="b"><error/></testcase>', False, None),
        ('name="s" tests="5"><testcase name="a"/>', False, UNEXPLAINED),
        ('name="s" tests="1"><testcase name="a"/><testcase name="todo"><skipped/></testcase>', False, None),
        ('name="undefined" tests="0" errors="1">', False, None),
        ('name="pytest" tests="4" failures="3"><testcase name="a"><failure/></testcase>', False, None),
        ('name="pytest" tests="4" failures="3"><testcase name="a"/>', True, None),
        (f'name="c" hostname="tbd" tests="9" failures="2" errors="1">{CATCH2}', False, None),
        (f'name="c" hostname="tbd" tests="9" failures="3" errors="1">{CATCH2}', True, None),
        (f'name="other" tests="2" failures="2" errors="1">{CATCH2}', True, None),
        (f'name="surefire" tests="5" failures="2" errors="1"><testcase name="a"/>{FLAKY}', False, None),
        (f'name="surefire" tests="5" failures="3" errors="1"><testcase name="a"/>{FLAKY}', True, None),
        (f'name="surefire" tests="6" failures="2" errors="1"><testcase name="a"/>{FLAKY}', True, None),
        (f'name="pytest" tests="5" failures="2" errors="1"><testcase name="a"/>{FLAKY}', True, None),
    ],
)
def test_a_report_that_declares_what_it_does_not_show(suite: str, is_unreadable: bool, explained: int | None) -> None:
    read = read_chunks([f"<testsuites><testsuite {suite}</testsuite></testsuites>".encode()])
    assert (read.is_unreadable, read.explained_exit_code) == (is_unreadable, explained)


def test_tests_that_vitest_did_not_run_after_a_failure_did_not_pass() -> None:
    cases = '<testcase name="a" time="0.1"><failure/></testcase><testcase name="b" time="0">\n</testcase>'
    suites = f'<testsuite name="a.test.js" tests="2" failures="1">{cases}</testsuite><testsuite name="b" tests="0"/>'
    read = read_chunks([f'<testsuites name="vitest tests" tests="2" failures="1">{suites}</testsuites>'.encode()])
    assert (list(read.statuses), list(read.ran)) == ([FAILED, SKIPPED], [1, 0])
    assert (read.lost_tests, read.explained_exit_code) == (True, UNEXPLAINED)
    assert read.warnings[-1].startswith("2 tests or files did not run")
    fine = '<testsuite name="a.test.js" tests="1" failures="0"><testcase name="b" time="0"/></testsuite>'
    passed = read_chunks([f'<testsuites name="vitest tests" tests="1" failures="0">{fine}</testsuites>'.encode()])
    assert (list(passed.statuses), passed.lost_tests) == ([PASSED], False)


@pytest.mark.parametrize(
    ("cases", "explained"),
    [
        ('<testcase name="a"><failure/></testcase><testcase name="a"/>', UNEXPLAINED),
        ('<testcase name="a"><failure/></testcase><testcase name="a"><flakyFailure/></testcase>', UNEXPLAINED),
        ('<testcase name="a"/><testcase name="a"><failure/></testcase>', None),
        ('<testcase name="a"><flakyFailure/></testcase><testcase name="a"/>', None),
        ('<testcase name="a"><failure/></testcase><testcase name="b"/>', None),
    ],
)
def test_a_failure_that_only_a_name_makes_an_attempt_excuses_nothing(cases: str, explained: int | None) -> None:
    read = read_chunks([f'<testsuite name="s">{cases}</testsuite>'.encode()])
    assert read.explained_exit_code == explained
    assert any("read as attempts" in warning for warning in read.warnings) == (explained is not None)


@pytest.mark.parametrize(
    ("runner", "finals"), [("jest tests", 2), ("vitest tests", 2), ("Mocha Tests", 2), ("others", 1)]
)
def test_only_some_runners_write_attempts_as_tests_of_one_name(runner: str, finals: int) -> None:
    cases = '<testcase classname="a" name="x"><failure/></testcase><testcase classname="a" name="x"/>'
    read = read_chunks([f'<testsuites name="{runner}"><testsuite name="s">{cases}</testsuite></testsuites>'.encode()])
    assert (sum(read.finals), sum(read.flaky)) == (finals, 2 - finals)


def test_suites_that_are_lost_as_a_whole() -> None:
    suite = '<testsuite name="s" tests="1"><testcase name="a"/></testsuite>'
    read = read_chunks([f'<testsuites tests="2" failures="1">{suite}</testsuites>'.encode()])
    assert read.is_unreadable


def test_a_file_of_several_suites_may_declare_attempts() -> None:
    suites = f'<testsuite name="s">{FLAKY}</testsuite><testsuite name="t"><testcase name="a"/></testsuite>'
    read = read_chunks([f'<testsuites tests="5" failures="2" errors="1">{suites}</testsuites>'.encode()])
    assert (read.is_unreadable, read.warnings) == (False, [])


@pytest.mark.parametrize(
    "case", ['classname="Cart > classMethod" name="classMethod"', 'classname="Cart" name=""', 'classname="" name="x"']
)
def test_a_failed_test_is_no_missing_suite(case: str) -> None:
    read = read_chunks([f'<testsuite name="Cart"><testcase {case}><failure/></testcase></testsuite>'.encode()])
    assert (read.unloaded, list(read.statuses)) == (0, [FAILED])


@pytest.mark.parametrize(("exit_code", "reason"), [(0, "reports_unreadable"), (3, "command_failed")])
def test_a_build_with_an_unreadable_report_fails(exit_code: int, reason: str) -> None:
    finished = ended(exit_code, report("a", 0), UNREADABLE)
    assert (finished.status, finished.reason) == ("failed", reason)
    assert finished.detail == "The report b is incomplete or cannot be read."


def test_a_suite_with_errors_and_no_tests_could_not_be_loaded() -> None:
    jest = b"""<testsuites tests="1" failures="0" errors="1">
        <testsuite name="undefined" errors="1" failures="0" skipped="0" tests="0"></testsuite>
        <testsuite name="sum" errors="0" failures="0" skipped="0" tests="1"><testcase name="adds"/></testsuite>
    </testsuites>"""
    assert read_chunks([jest]).unloaded == 1


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        ("src/a.test.js", 'classname="src/a.test.js" name="src/a.test.js"><failure message="no module"/>'),
        ("a", 'classname="Test suite failed to run" name="src/a.test.js"><error>no module</error>'),
        ("com.acme.FooTest", 'classname="com.acme.FooTest" name="initializationError"><error/>'),
        ("com.acme.FooTest", 'classname="com.acme.FooTest" name="classMethod"><failure/>'),
        ("CartTest", 'classname="" name=""><failure message="no database"/>'),
        ("com.acme.FooTest", 'classname="com.acme.FooTest" name="com.acme.FooTest"><error/>'),
        ("pytest", 'classname="" name="tests.test_a"><error message="collection failure"/>'),
        ("acme.test/shop", 'classname="" name="TestMain"><failure message="Failed">[build failed]</failure>'),
    ],
)
def test_a_case_can_stand_for_a_suite_that_could_not_be_loaded(suite: str, case: str) -> None:
    read = read_chunks([f'<testsuite name="{suite}"><testcase {case}</testcase></testsuite>'.encode()])
    assert (read.unloaded, list(read.statuses)) == (1, [FAILED])


def test_two_cases_for_a_suite_that_could_not_be_loaded_count_once() -> None:
    cases = '<testcase classname="Test suite failed to run" name="a"><error/></testcase>'
    cases += '<testcase classname="Test suite failed to run" name="b"><failure/></testcase>'
    suite = f'<testsuite name="a" tests="2" errors="1" failures="1">{cases}</testsuite>'
    assert read_chunks([f"<testsuites>{suite}{suite}</testsuites>".encode()]).unloaded == 2
    error = '<testcase name="x"><error message="collection failure"/></testcase>'
    assert read_chunks([f'<testsuite name="pytest">{error}{error}</testsuite>'.encode()]).unloaded == 2


def test_a_failed_case_named_as_its_class_or_suite_is_a_test() -> None:
    cases = (
        '<testcase classname="sum adds" name="sum adds"><failure/></testcase><testcase name="sum"><failure/></testcase>'
    )
    assert read_chunks([f'<testsuite name="sum">{cases}</testsuite>'.encode()]).unloaded == 0


def test_a_missing_suite_fails_a_build_that_exits_with_0() -> None:
    finished = ended(0, report("a", 1, unloaded=1))
    assert (finished.status, finished.reason) == ("failed", "tests_failed")
    assert finished.detail == "1 test suite could not be loaded, ended early or failed as a whole."


def test_a_missing_suite_fails_an_external_build() -> None:
    queued = BuildQueued(**IDS, external=True)
    history = (queued, BuildStarted(**IDS, node_id=None, attempt=1), report("a", 0, unloaded=1))
    (finished,) = given(*history).when(FinishExternalBuild(1, "passed"))
    assert isinstance(finished, BuildFinished)
    assert (finished.status, finished.detail) == (
        "failed",
        "1 test suite could not be loaded, ended early or failed as a whole.",
    )
