"""What the two reporters really write, compared with what their runners say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands.reports.reading import Parsed, parsed

PYTEST_SAMPLE = """
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("no setup")

@pytest.fixture
def leaky():
    yield
    raise RuntimeError("no teardown")

class TestDeep:
    class TestInner:
        @pytest.mark.parametrize("x", ["a.b", "c::d", "\\u00e9"])
        def test_inner(self, x):
            "Says x."

def test_fails():
    assert [1, 2] == [1, 3]

def test_errors(broken): ...
def test_leaks(leaky): ...

@pytest.mark.skip(reason="not yet")
def test_skipped(): ...

@pytest.mark.xfail(reason="SHOP-2")
def test_known():
    raise ValueError("x")

@pytest.mark.xfail(strict=True)
def test_xpass(): ...
"""
UNITTEST_SAMPLE = """
import unittest

class Case(unittest.TestCase):
    def test_passes(self):
        "Passes."
        print("out")
    def test_fails(self):
        self.assertEqual(1, 2)
    def test_errors(self):
        {}["x"]
    @unittest.skip("not yet")
    def test_skipped(self): ...
    @unittest.expectedFailure
    def test_known(self):
        self.fail("x")
"""


def run(folder: Path, *command: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TESTHIDE", "PYTHONSAFE"))
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    return done.stdout + done.stderr


def by_name(report: Parsed) -> dict[str, str]:
    return {case.node_id: case.status for case in report.cases}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "test_shop.py").write_text(PYTEST_SAMPLE, encoding="utf-8")
    (tmp_path / "t" / "test_gone.py").write_text("import nothing_of_that_name\n")
    return tmp_path


EXPECTED = {
    "t/test_shop.py::TestDeep::TestInner::test_inner[a.b]": "passed",
    "t/test_shop.py::TestDeep::TestInner::test_inner[c::d]": "passed",
    "t/test_shop.py::TestDeep::TestInner::test_inner[\\xe9]": "passed",
    "t/test_shop.py::test_fails": "failed",
    "t/test_shop.py::test_errors": "failed",
    "t/test_shop.py::test_leaks": "failed",
    "t/test_shop.py::test_skipped": "skipped",
    "t/test_gone.py": "failed",
}


def test_pytest_plugin(suite: Path) -> None:
    reported = run(
        suite,
        "-m",
        "pytest",
        "--continue-on-collection-errors",
        "-p",
        "no:randomly",
        "--report-xml=r.xml",
        "t",
    )
    report = parsed((suite / "r.xml").read_bytes())
    assert by_name(report) == EXPECTED | {
        "t/test_shop.py::test_known": "failed",
        "t/test_shop.py::test_xpass": "passed",
    }, reported
    assert report.kinds == set()
    (known,) = (case for case in report.cases if case.known_issue)
    assert known.name == "test_known"
    counts = report.suites[0].counts
    # The runner counts the strict xpass as failed and the xfail as neither; the report has it the other way round.
    runner = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed)", reported)
    }
    assert counts.failed - counts.errors == runner["failed"] - 1 + runner["xfailed"]
    assert counts.errors == runner["errors"]
    assert counts.skipped == runner["skipped"]
    assert report.summary.dialect == "testhide"


def test_plain_pytest_has_the_same_ids(suite: Path) -> None:
    run(suite, "-m", "pytest", "--continue-on-collection-errors", "--junitxml=r.xml", "t")
    report = parsed((suite / "r.xml").read_bytes())
    ids = by_name(report)
    assert set(ids) == set(EXPECTED) | {"t/test_shop.py::test_known", "t/test_shop.py::test_xpass"}
    assert report.kinds <= {"count_mismatch"}


def test_unittest_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_mod.py").write_text(UNITTEST_SAMPLE)
    reported = run(tmp_path, "-m", "testhide_unittest", "test_mod", "--report-xml", "r.xml", "--meta", "shard=1")
    report = parsed((tmp_path / "r.xml").read_bytes())
    assert report.kinds == set()
    assert by_name(report) == {
        "test_mod.Case.test_passes": "passed",
        "test_mod.Case.test_fails": "failed",
        "test_mod.Case.test_errors": "failed",
        "test_mod.Case.test_skipped": "skipped",
        "test_mod.Case.test_known": "failed",
    }
    assert "FAILED (failures=1, errors=1, skipped=1, expected failures=1)" in reported
    counts = report.suites[0].counts
    assert (counts.failed, counts.errors, counts.skipped) == (3, 1, 1)
    assert [case.known_issue for case in report.cases].count(True) == 1
    passes = next(case for case in report.cases if case.name == "test_passes")
    assert (passes.docstr, passes.system_out) == ("Passes.", "out\n")
    assert ("shard", "1") in report.suites[0].properties
    errors = next(case for case in report.cases if case.name == "test_errors")
    assert (errors.exception_type, errors.error_kind) == ("KeyError", "error")


def test_what_pytest_and_jest_do_not_write_is_no_mismatch(tmp_path: Path) -> None:
    (tmp_path / "test_sub.py").write_text(
        "def test_many(subtests):\n    for n in range(5):\n        with subtests.test(n=n):\n            assert n < 4\n"
    )
    reported = run(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=r.xml", "test_sub.py")
    pytest_report = parsed((tmp_path / "r.xml").read_bytes())
    (pytest_suite,) = pytest_report.suites
    assert pytest_suite.declared.tests != pytest_suite.counts.tests, reported
    assert pytest_report.summary.warnings == ()
    jest = (
        b'<testsuites name="jest tests" tests="1" failures="0" errors="0"><testsuite name="a" errors="0" failures="0"'
        b' skipped="0" tests="1"><testcase classname="a" name="one"/><testcase classname="a" name="later"><skipped/>'
        b"</testcase></testsuite></testsuites>"
    )
    assert parsed(jest).summary.warnings == ()
    lost = parsed(jest.replace(b'skipped="0" tests="1"', b'skipped="0" tests="3"'))
    assert [warning.kind for warning in lost.summary.warnings] == ["lost_tests"]
