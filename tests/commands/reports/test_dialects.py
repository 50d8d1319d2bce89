import pytest
from tests.commands.reports import samples
from tests.commands.reports.reading import parsed

from commands.reports.parser.notes import Notes
from commands.reports.parser.values import milliseconds
from commands.reports.reading import read_chunks


def test_testhide_format_is_read_whole() -> None:
    cases, (suite,), summary = report = parsed(samples.TESTHIDE)
    assert report.kinds == set()
    assert (summary.dialect, [case.known_issue for case in cases].count(True)) == ("testhide", 1)
    assert report.ids == [
        "t/test_shop.py::TestCart::test_add[1-é]",
        "t/test_shop.py::test_total",
        "t/test_shop.py::test_known",
        "t/test_broken.py",
        "t/test_shop.py::test_later",
        "t/test_shop.py::test_xpass",
    ]
    assert report.statuses == ["passed", "failed", "failed", "failed", "skipped", "passed"]
    add, total, known, broken, later, _ = cases
    assert add.attachments == ("shots/1.png", "https://files.test/2.png")
    assert (add.docstr, add.jira, add.info) == ("Adds one.", "SHOP-1", "slow disk")
    assert add.properties == (("owner", "cart"),)
    assert (add.system_out, add.line, add.duration_ms) == ("step 1\nstep 2", 4, 10)
    assert add.signature == ""
    assert (total.exception_type, total.error_kind) == ("AssertionError", "failure")
    assert (total.fail_id, total.test_resolution) == ("d41d8cd98f00b204e9800998ecf8427e", "Unresolved")
    assert len(total.signature) == 16
    assert total.trace.startswith("Traceback")
    assert (known.known_issue, total.known_issue) == (True, False)
    assert known.test_resolution == "known issue"
    assert (broken.error_kind, broken.exception_type) == ("error", "ModuleNotFoundError")
    assert (later.message, later.trace) == ("not yet", "t/test_shop.py:20: not yet")
    assert suite.name == "pytest"
    assert dict(suite.properties)["shard"] == "2 of 4"
    assert (suite.counts.failed, suite.counts.errors, suite.declared.failures) == (3, 1, 2)


def test_pytest_ids_are_rebuilt_without_a_file() -> None:
    report = parsed(samples.PYTEST)
    assert report.kinds == set()
    assert report.ids == [
        "t/test_x.py::TestDeep::TestInner::test_bad[a.b]",
        "t/test_x.py::test_fine",
        "t/test_x.py::test_xfail",
        "t/test_gone.py",
    ]
    assert report.cases[0].exception_type == "AssertionError"
    assert report.statuses == ["failed", "passed", "skipped", "failed"]


def test_surefire_attempts_come_in_the_order_they_ran() -> None:
    report = parsed(samples.SUREFIRE)
    assert report.kinds == set()
    assert [(case.name, case.status, case.message) for case in report.cases] == [
        ("bar", "failed", "expected: <1> but was: <2>"),
        ("bar", "failed", "second"),
        ("bar", "failed", "third"),
        ("shaky", "failed", "once"),
        ("shaky", "failed", "twice"),
        ("shaky", "passed", ""),
        ("explodes", "failed", "java.lang.NullPointerException"),
        ("later", "skipped", "not now"),
    ]
    assert [case.error_kind for case in report.cases[:5]] == [
        "failure",
        "failure",
        "error",
        "failure",
        "error",
    ]
    assert report.cases[1].system_out == "again"
    assert report.cases[5].system_out == "a < b && c"
    assert set(report.ids) == {f"com.acme.FooTest.{name}" for name in ("bar", "shaky", "explodes", "later")}
    assert report.suites[0].counts.tests == 4
    assert milliseconds("1,002.5", Notes(1)) == 1_002_500
    assert report.cases[0].exception_type == "org.opentest4j.AssertionFailedError"


@pytest.mark.parametrize(
    ("report", "ids", "statuses"),
    [
        (
            samples.JEST,
            [
                "src/sum.test.js > sum > negatives > adds",
                "src/sum.test.js > sum > later",
                "src/sum.test.js > plain",
            ],
            ["failed", "skipped", "passed"],
        ),
        (
            samples.MOCHA,
            ["test/array.spec.js > Array finds", "test/array.spec.js > Array loses"],
            ["passed", "failed"],
        ),
        (
            samples.PLAYWRIGHT,
            [
                "login.spec.ts > form > logs in [firefox]",
                "login.spec.ts > form > logs in [firefox]",
                "login.spec.ts > title [firefox]",
            ],
            ["failed", "passed", "passed"],
        ),
        (
            samples.GTEST,
            [f"Sizes/ParseTest.{name}" for name in ("Reads/0", "Reads/1", "DISABLED_Reads")],
            ["passed", "failed", "skipped"],
        ),
        (samples.GO, ["acme.test/pkg.TestName/sub", "acme.test/pkg.TestName"], ["passed", "failed"]),
        (samples.NESTED, ["C.a", "C.b", "C.c"], ["passed", "failed", "passed"]),
        (
            samples.NUNIT,
            [f"Acme.Tests.FooTests.{name}" for name in ("Adds", "Breaks", "Even(3)", "Later")],
            ["passed", "failed", "failed", "skipped"],
        ),
        (
            samples.XUNIT,
            [
                "Acme.Tests.dll > Acme.FooTests",
                "Acme.FooTests.Adds(x: 1)",
                "Acme.FooTests.Fails",
                "Acme.FooTests.Later",
            ],
            ["failed", "passed", "failed", "skipped"],
        ),
        (
            samples.TRX,
            ["Acme.BarTests.Adds", "Acme.FooTests.Fails", "Acme.FooTests.Rows (1)", "Acme.FooTests.Later"],
            ["passed", "failed", "passed", "skipped"],
        ),
    ],
    ids=["jest", "mocha", "playwright", "gtest", "go", "nested", "nunit", "xunit", "trx"],
)
def test_ids_and_statuses(report: str, ids: list[str], statuses: list[str]) -> None:
    result = parsed(report)
    assert result.kinds == set()
    assert result.ids == ids
    assert result.statuses == statuses


def test_details_of_other_dialects() -> None:
    assert parsed(samples.PLAYWRIGHT).cases[0].attachments == ("shots/failed.png",)
    gtest = parsed(samples.GTEST).cases[1]
    assert gtest.message == "parse.cc:12\nExpected equality"
    assert "second" in gtest.trace
    nunit = parsed(samples.NUNIT).cases
    assert (nunit[1].error_kind, nunit[1].exception_type) == ("error", "System.DivideByZeroException")
    assert (nunit[1].system_out, nunit[1].attachments) == ("said this", ("C:/ci/shot.png",))
    assert [case.suite for case in nunit] == ["FooTests"] * 4
    assert nunit[3].message == "not yet"
    xunit = parsed(samples.XUNIT)
    assert xunit.cases[1].properties == (("area", "math"),)
    assert xunit.cases[2].system_out == "hello"
    trx = parsed(samples.TRX).cases
    assert trx[0].duration_ms == 1500
    assert (trx[1].message, trx[1].system_out) == ("Assert.True() Failure\nExpected: True", "said")
    assert trx[1].attachments == ("shot.png",)


def trx(name: str, *definitions: tuple[str, str]) -> str:
    """Returns a TRX report: the tests, all of them `Acme.FooTests.Adds`, have these assemblies and outcomes."""
    results = "".join(
        f'<UnitTestResult testId="{number}" testName="Adds" outcome="{outcome}"/>'
        for number, (_, outcome) in enumerate(definitions)
    )
    tests = "".join(
        f'<UnitTest id="{number}" storage="{path.lower()}"><TestMethod codeBase="{path}" className="Acme.FooTests"/>'
        "</UnitTest>"
        for number, (path, _) in enumerate(definitions)
    )
    return f'<TestRun name="{name}"><Results>{results}</Results><TestDefinitions>{tests}</TestDefinitions></TestRun>'


def test_the_suite_of_a_trx_test_is_its_assembly_in_every_build() -> None:
    windows = parsed(trx("ci@WIN7 2026-03-01 10:00:00", (r"C:\ci\Acme.Tests.dll", "Passed")))
    linux = parsed(trx("@vm 2026-03-02 11:22:33", ("/ci/bin/Acme.Tests.dll", "Failed")))
    assert [case.suite for report in (windows, linux) for case in report.cases] == ["Acme.Tests.dll"] * 2


def test_tests_of_two_assemblies_are_no_attempts_of_one_test() -> None:
    paths = ["/ci/a/Acme.dll", "/ci/b/Acme.dll", "/ci/b/Pay.dll"]
    report = trx("run", *zip(paths, ("Failed", "Passed", "Passed"), strict=True))
    assert [case.suite for case in parsed(report).cases] == [*paths[:2], "Pay.dll"]
    read = read_chunks([report.encode()])
    assert (list(read.finals), list(read.flaky)) == ([1, 1, 1], [0, 0, 0])


def test_nested_suites_count_for_those_around_them() -> None:
    inner, outer = parsed(samples.NESTED).suites
    assert (inner.name, inner.counts.tests, inner.counts.failed) == ("inner", 2, 1)
    assert (outer.name, outer.counts.tests, outer.counts.failed) == ("outer", 3, 1)


def test_a_wrong_count_is_a_warning() -> None:
    sample = samples.PYTEST.replace("pytest tests", "tests").replace('"pytest"', '"unit"')
    report = parsed(sample.replace('tests="4"', 'tests="9"').replace('failures="1"', 'failures="x"'))
    assert report.kinds == {"lost_tests", "bad_failures"}
    (mismatch,) = (warning for warning in report.summary.warnings if warning.kind == "lost_tests")
    assert mismatch.message == "the suite 'unit' declares 9 tests instead of 4"


def test_what_a_reporter_should_not_write_is_a_warning() -> None:
    report = parsed(
        '<testsuite><properties><property name="testhide_schema_version" value="3"/></properties>'
        '<testcase classname="C" name="a" test_resolution="Strange"/>'
        '<testcase classname="C" name="b" test_resolution="Known Issue" time="soon"/>'
        '<testcase classname="C"/><testcase classname="C" name="d" status="failed"/></testsuite>'
    )
    assert report.kinds == {
        "schema_version",
        "unknown_resolution",
        "resolution_mismatch",
        "bad_number",
        "missing_name",
    }
    assert report.statuses == ["passed", "passed", "passed", "failed"]
    assert not any(case.known_issue for case in report.cases)


def test_trx_without_definitions_keeps_its_cases() -> None:
    cut = samples.TRX[: samples.TRX.index("<TestDefinitions>")]
    report = parsed(cut)
    assert report.ids == ["Adds", "Acme.FooTests.Fails", "Rows (1)", "Later"]
    assert {"truncated", "definitions_missing"} <= report.kinds


@pytest.mark.parametrize(
    ("case", "status", "warns"),
    [
        ('status="run"', "passed", False),
        ('status="Passed"', "passed", False),
        ('status=""', "passed", False),
        ('status="timeout"', "failed", False),
        ('status="crashed"', "failed", False),
        ('status="odd"', "failed", True),
        ('status="run" result="failed"', "failed", False),
        ('status="run" result="odd"', "failed", True),
        ('status="failed" result="completed"', "failed", False),
        ('status="run" result="suppressed"', "skipped", False),
        ('status="notrun" result="completed"', "skipped", False),
    ],
)
def test_a_status_of_a_junit_case_that_does_not_say_that_it_passed_is_never_green(
    case: str, status: str, warns: bool
) -> None:
    report = parsed(f'<testsuite name="s"><testcase name="a" {case}/></testsuite>')
    assert (report.cases[0].status, "unknown_status" in report.kinds) == (status, warns)


@pytest.mark.parametrize(("status", "expected"), [("failed", "failed"), ("blocked", "skipped"), ("run", "skipped")])
def test_a_skipped_case_is_skipped_unless_its_status_is_that_of_a_failure(status: str, expected: str) -> None:
    case = f'<testcase name="a" status="{status}"><skipped message="m"/></testcase>'
    assert parsed(f'<testsuite name="s">{case}</testsuite>').statuses == [expected]


def test_an_unknown_outcome_is_never_green() -> None:
    report = parsed(samples.TRX.replace('outcome="Passed"/>', 'outcome="Odd"/>'))
    assert report.cases[0].status == "failed"
    assert "unknown_result" in report.kinds


def test_a_todo_of_nodes_runner_may_fail_and_names_that_are_paths_are_the_same_in_every_build() -> None:
    todo = '<skipped type="todo" message="later"/><failure message="not yet">Error: not yet</failure>'
    report = parsed(f"""<testsuites>
<testsuite name="cart" tests="1" failures="1" skipped="1">
<testcase name="adds" classname="test">{todo}</testcase></testsuite>
<testcase name="/var/lib/testhide/agent/builds/11-2/workspace/test/parse.js" classname="test"/>
<testcase name="C:\\agent\\builds\\11-2\\workspace\\parse.js" classname="test"/>
<testcase name="of /builds/11-2/workspace/parse.js" classname="test"/>
</testsuites>""")
    assert report.kinds == set()
    assert [(case.name, case.status, case.message) for case in report.cases] == [
        ("adds", "skipped", "later"),
        ("test/parse.js", "passed", ""),
        ("parse.js", "passed", ""),
        ("of /builds/11-2/workspace/parse.js", "passed", ""),
    ]
