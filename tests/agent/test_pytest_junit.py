"""pytest's JUnit file under the agent's plugin: reruns, subtests, collection errors, and the explained exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.plugin_run import PluginRun
from tests.agent.pytest_forks import PytestForks

from commands.reports.parser import Case, Suite, Summary, parse_report
from commands.reports.reading import read_report
from commands.selected_tests import mark_ran
from domain.results import FAILED

SUITE = {
    "test_a.py": """
        from pathlib import Path
        import unittest
        import pytest

        def assert_second_time(name):
            is_first = not Path(name).exists()
            Path(name).touch()
            assert not is_first, name

        @pytest.fixture
        def slow_start(): assert_second_time("set up")

        @pytest.fixture
        def slow_end():
            yield
            assert_second_time("torn down")

        def test_flaky(): assert_second_time("called")
        def test_set_up(slow_start): pass
        def test_torn_down(slow_end): pass
        def test_bad(): assert 0
        @pytest.mark.xfail(reason="later")
        def test_expected(): assert 0
        @pytest.mark.xfail
        def test_unexpected(): pass
    """,
    "test_sub.py": """
        import unittest
        import pytest

        @pytest.mark.parametrize("x", ["a", "b"])
        def test_parts(subtests, x):
            for n in (1, 2):
                with subtests.test("part", n=n, x=x):
                    assert (n, x) != (1, "b")

        def test_nameless(subtests):
            for n in (1, 2):
                with subtests.test():
                    assert n == 2

        class Case(unittest.TestCase):
            def test_u(self):
                for n in (1, 2):
                    with self.subTest(n=n):
                        self.assertEqual(n, 1)
    """,
    "test_exit.py": """
        import pytest

        def test_first(): assert 0
        def test_exit(): pytest.exit("enough", returncode=0)
        def test_left(): pass
    """,
    "test_gone.py": "import nothing_of_this_name",
    "test_fine.py": "def test_fine(): pass",
    "conftest.py": """
        import pytest

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtestloop(session):
            yield
            if session.config.getoption("--gate"):
                session.testsfailed += 1  # as pytest-cov does below its limit
        def pytest_addoption(parser):
            parser.addoption("--gate", action="store_true")
    """,
}
XDIST = pytest.mark.parametrize("xdist", ["", "-p xdist -n 1"])


class Ran:
    """One run of pytest: the results that its JUnit file tells, as (node id, status), and what explains its exit."""

    def __init__(self, forks: PytestForks, folder: Path, options: str, ignored: Sequence[str] | None = None) -> None:
        run = PluginRun(folder, files=SUITE, ignored=ignored)
        self.done = forks.run(run, f"-p pytest_rerunfailures {options} --junit-xml=r.xml")
        with (run.root / "r.xml").open("rb") as file:
            items = list(parse_report(file))
        self.cases = [item for item in items if isinstance(item, Case)]
        self.warnings = [warning.message for item in items if isinstance(item, Summary) for warning in item.warnings]
        properties = [pair for item in items if isinstance(item, Suite) for pair in item.properties]
        self.properties = dict(properties)
        self.explained = self.properties["testhide_explained_exit_code"]

    def results(self) -> list[tuple[str, str]]:
        return [(case.node_id, case.status) for case in self.cases]


@XDIST
def test_each_attempt_of_a_repeated_test_is_told(forks: PytestForks, folder: Path, xdist: str) -> None:
    ran = Ran(forks, folder, f"{xdist} --reruns 2 test_a.py")

    assert ran.done.returncode == 1, ran.done.stdout
    repeated = {name: ["failed", "passed"] for name in ("test_flaky", "test_set_up", "test_torn_down")}
    for name, statuses in {**repeated, "test_bad": ["failed"] * 3}.items():
        assert [status for node_id, status in ran.results() if node_id == f"test_a.py::{name}"] == statuses
    first = next(case for case in ran.cases if case.name == "test_flaky")
    assert first.message.startswith("AssertionError: called")
    assert "is_first, name\nE       AssertionError: called" in first.trace
    assert ran.warnings == []


@XDIST
def test_each_subtest_is_a_result(forks: PytestForks, folder: Path, xdist: str) -> None:
    ran = Ran(forks, folder, f"{xdist} test_sub.py")

    assert sorted(ran.results()) == [
        ("test_sub.py::Case::test_u", "passed"),
        ("test_sub.py::Case::test_u::(n=1)", "passed"),
        ("test_sub.py::Case::test_u::(n=2)", "failed"),
        ("test_sub.py::test_nameless", "failed"),
        ("test_sub.py::test_nameless::(<subtest>)", "failed"),
        ("test_sub.py::test_nameless::(<subtest>) #2", "passed"),
        ("test_sub.py::test_parts[a]", "passed"),
        ("test_sub.py::test_parts[a]::[part] (n=1, x='a')", "passed"),
        ("test_sub.py::test_parts[a]::[part] (n=2, x='a')", "passed"),
        ("test_sub.py::test_parts[b]", "failed"),
        ("test_sub.py::test_parts[b]::[part] (n=1, x='b')", "failed"),
        ("test_sub.py::test_parts[b]::[part] (n=2, x='b')", "passed"),
    ]
    assert ran.warnings == []


def test_a_test_on_every_worker_has_a_result_for_each(forks: PytestForks, folder: Path) -> None:
    ran = Ran(forks, folder, "-p xdist --tx 2*popen --dist each --reruns 1 test_a.py test_sub.py")

    expected = {"test_a.py::test_bad": ["failed"] * 2, "test_sub.py::Case::test_u::(n=2)": ["failed"]}
    for name, statuses in expected.items():
        for worker in ("gw0", "gw1"):
            cases = [case for case in ran.cases if ("xdist_worker", worker) in case.properties]
            assert [case.status for case in cases if case.node_id == name] == statuses


def test_collection_errors_and_expected_failures_are_told(forks: PytestForks, folder: Path) -> None:
    ran = Ran(forks, folder, "--continue-on-collection-errors test_gone.py test_a.py")

    assert ("test_gone.py", "failed") in ran.results()
    assert [case.properties for case in ran.cases if "expected" in case.name] == [
        (("outcome", "xfailed"),),
        (("outcome", "xpassed"),),
    ]


@pytest.mark.parametrize(
    ("options", "code", "explained"),
    [
        ("test_fine.py", 0, "0"),
        ("test_a.py", 1, "1"),
        ("test_sub.py", 1, "1"),
        ("test_gone.py --continue-on-collection-errors test_fine.py", 1, "1"),
        ("test_a.py --maxfail 1", 1, "none"),
        ("test_a.py --gate", 1, "none"),
        ("test_fine.py -k nothing", 5, "none"),
    ],
)
def test_the_exit_code_that_failed_tests_explain(
    forks: PytestForks, folder: Path, options: str, code: int, explained: str
) -> None:
    """Of xdist's runs, the next tests of quarantine say it."""
    ran = Ran(forks, folder, options)

    assert ran.done.returncode == code, ran.done.stdout
    assert ran.explained == explained


def test_a_run_that_dies_leaves_a_report_without_an_end(forks: PytestForks, folder: Path) -> None:
    run = PluginRun(
        folder, files={"test_a.py": "def test_a(): pass", "test_b.py": "import os\ndef test_b(): os._exit(1)"}
    )
    forks.run(run, "test_a.py --junit-xml=r/b.xml")
    codes = [forks.run(run, f"test_{name}.py --junit-xml=r/{name}.xml").returncode for name in ("a", "b")]

    assert codes == [0, 1]
    assert [read_report(run.root / "r" / name).is_unreadable for name in ("a.xml", "b.xml")] == [False, True]


def test_a_worker_that_crashes_when_a_test_is_repeated_fails_this_test(forks: PytestForks, folder: Path) -> None:
    crashing = """
        import os
        import pytest
        from pathlib import Path

        @pytest.fixture
        def second_time_crashes():
            if Path("called").exists():
                os._exit(3)
        def test_a(second_time_crashes):
            Path("called").touch()
            assert 0
    """
    run = PluginRun(folder, files={"test_a.py": crashing})
    once = "-p xdist -p pytest_rerunfailures -n 1 --reruns 1 --max-worker-restart=0 --dist loadfile"
    assert forks.run(run, f"{once} --junit-xml=r.xml").returncode == 1
    read = read_report(run.root / "r.xml")
    assert (read.node_ids, list(read.statuses), list(read.finals)) == (["test_a.py::test_a"], [FAILED, FAILED], [0, 1])


def test_a_selected_test_that_is_expected_to_fail_has_run(forks: PytestForks, folder: Path) -> None:
    selected = ["test_a.py::test_expected", "test_skip.py::test_skipped"]
    skipped = "import pytest\n@pytest.mark.skip(reason='later')\ndef test_skipped(): pass"
    run = PluginRun(folder, selected, SUITE | {"test_skip.py": skipped})
    forks.run(run, "test_a.py test_skip.py --junit-xml=r.xml")
    assert list(mark_ran(selected, read_report(run.root / "r.xml"))) == [1, 0]


def test_the_id_of_a_subtest_selects_its_test(forks: PytestForks, folder: Path) -> None:
    run = PluginRun(
        folder, ["test_sub.py::test_parts[b]::[part] (n=1, x='b')", "test_sub.py::Case::test_u::(n=1)"], SUITE
    )
    done = forks.run(run, "test_sub.py --junit-xml=r.xml")

    assert {node_id.partition("::[")[0].partition("::(")[0] for node_id in run.ids()} == {
        "test_sub.py::test_parts[b]",
        "test_sub.py::Case::test_u",
    }
    assert "Testhide: 2 of" in done.stdout


IGNORED = [f"test_a.py::test_{name}" for name in ("flaky", "set_up", "torn_down", "bad")]


GONE = "test_gone.py --continue-on-collection-errors test_a.py"


@XDIST
@pytest.mark.parametrize(
    ("options", "ignored", "code", "explained", "count"),
    [
        ("test_a.py test_fine.py", IGNORED, 0, "0", 4),
        ("--reruns 1 test_a.py", IGNORED, 0, "0", 1),
        ("test_a.py", IGNORED[:-1], 1, "1", 0),
        ("test_a.py --gate", IGNORED, 1, "none", 4),
        ("test_a.py --maxfail 9", ["test_a.py"], 0, "0", 4),
        ("test_a.py --maxfail 1", ["test_a.py"], 1, "none", 0),
        (GONE, ["test_gone.py", *IGNORED], 1, "1", 0),
        ("test_sub.py", ["test_sub.py::test_parts", "test_sub.py::test_nameless", "test_sub.py::Case"], 0, "0", None),
        ("test_sub.py", ["test_sub.py::test_parts", "test_sub.py::test_nameless"], 1, "1", 0),
        ("test_fine.py -k nothing", ["test_fine.py"], 5, "none", 0),
    ],
)
def test_failures_in_quarantine_do_not_fail_a_run(
    forks: PytestForks,
    folder: Path,
    xdist: str,
    options: str,
    ignored: list[str],
    code: int,
    explained: str,
    count: int | None,
) -> None:
    # Each worker of xdist reports what it cannot collect.
    ran = Ran(forks, folder, f"{xdist.replace('1', '2') if options == GONE else xdist} {options}", ignored)

    assert ran.done.returncode in (code, 2 if "maxfail 1" in options else code), ran.done.stdout
    assert ran.explained == explained
    if count is not None:
        assert int(ran.properties.get("testhide_ignored_failures", 0)) == count
        line = f"Testhide: failures ignored, since their tests are in quarantine: {count}."
        assert (line in ran.done.stdout) == (count > 0)
    assert "failed" in dict(ran.results()).values() or code == 5, "the failures are in the report all the same"


def test_a_run_without_a_report_ignores_no_failure(forks: PytestForks, folder: Path) -> None:
    run = PluginRun(folder, files={"test_a.py": "def test_a(): assert 0"}, ignored=["test_a.py"])
    assert forks.run(run, "").returncode == 1


@pytest.mark.parametrize(
    ("options", "left"),
    [("test_exit.py", 2), ("-x test_exit.py", 2), ("-x test_a.py::test_bad", 0), ("-k left test_exit.py", 0)],
)
def test_a_run_that_ends_early_says_how_many_tests_it_did_not_run(
    forks: PytestForks, folder: Path, options: str, left: int
) -> None:
    run = PluginRun(folder, files=SUITE, ignored=["test_exit.py"])
    done = forks.run(run, f"{options} --junit-xml=r.xml")
    read = read_report(run.root / "r.xml")

    assert read.is_unreadable == (left > 0), done.stdout
    assert (f"the run ended early: {left} of its tests did not run" in read.warnings) == (left > 0)


def test_a_second_run_into_the_same_file_adds_to_it(forks: PytestForks, folder: Path) -> None:
    files = {
        "test_a.py": "def test_a(): assert 0",
        "test_b.py": "def test_b(): pass",
        "test_c.py": "import os\ndef test_c(): os._exit(1)",
    }
    run = PluginRun(folder, files=files)

    def outcomes(*tests: str, build: str = "7") -> list[tuple[str, str]]:
        for test in tests:
            forks.run(run, f"test_{test}.py --junit-xml=r.xml", TESTHIDE_BUILD_ID=build)
        with (run.root / "r.xml").open("rb") as file:
            return [(case.name, case.status) for case in parse_report(file) if isinstance(case, Case)]

    report = run.root / "r.xml"
    assert outcomes("a", "b") == [("test_a", "failed"), ("test_b", "passed")]
    assert not read_report(report).is_unreadable
    assert outcomes("b", build="8") == [("test_b", "passed")], "the file is of another build"
    assert outcomes("c", "b", build="8") == [("test_b", "passed")] * 2
    assert read_report(report).is_unreadable, "the second run was cut off"
