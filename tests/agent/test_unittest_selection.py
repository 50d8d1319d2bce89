"""unittest: only the wanted tests run, by the ids that reports give them."""

from pathlib import Path

import pytest
from tests.agent.plugin_run import PluginRun, cases


def test_unittest_runs_only_the_wanted_tests(folder: Path) -> None:
    test = """
        import os, subprocess, sys, unittest

        class Case(unittest.TestCase):
            def test_a(self): pass
            def test_b(self): self.fail()
            def test_inner(self):
                inner = [sys.executable, "-m", "unittest", "discover", "-s", "inner"]
                done = subprocess.run(inner, capture_output=True, text=True)
                self.assertIn("Ran 1 test", done.stderr)

        class Other(unittest.TestCase):
            def test_a(self): self.fail()
    """
    inner = "import unittest\nclass Inner(unittest.TestCase):\n    def test_it(self): pass\n"
    files = {"tests/__init__.py": "", "tests/test_u.py": test, "inner/test_i.py": inner}
    wanted = ["tests.test_u.Case.test_a", "tests.test_u.Case.test_inner"]
    run = PluginRun(folder, wanted, files)

    for command in ("python -m unittest", "python -m unittest tests.test_u"):
        done = run.shell(command)
        assert (done.returncode, "Ran 2 tests" in done.stderr) == (0, True), done.stderr
    named = run.shell("python -m unittest tests.test_u.Other.test_a")
    assert "FAILED (failures=1)" in named.stderr


@pytest.mark.parametrize(
    ("wanted", "command"),
    [
        ("tests/test_u.py::Case::test_a", "discover -s tests"),
        ("tests/test_u.py::Case::test_a", "tests.test_u"),
        ("tests/test_u.py::Case::test_a (i=1)", "discover -s tests"),
        ("tests/test_u.py::test_u::Case::test_a", "discover -s tests"),
        ("test_u.Case.test_a [message] (i=1)", "discover -s tests"),
    ],
)
def test_unittest_knows_the_ids_of_reports(folder: Path, wanted: str, command: str) -> None:
    """As the server reads them from reports of unittest-xml-reporting, which name the file of each test."""
    case = "import unittest\nclass Case(unittest.TestCase):\n"
    case += "    def test_a(self): pass\n    def test_b(self): self.fail()\n"
    run = PluginRun(folder, [wanted], {"tests/__init__.py": "", "tests/test_u.py": case, "tests/test_v.py": case})
    done = run.shell(f"python -m unittest {command}")
    assert (done.returncode, "Ran 1 test" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("wanted", [None, ["test_u.Case.test_a"]])
def test_the_reporter_of_testhide_is_the_one_that_is_installed(folder: Path, wanted: list[str] | None) -> None:
    """No module of the agent has its name: the reporter would run no test, and end with 0."""
    case = "import unittest\nclass Case(unittest.TestCase):\n"
    case += "    def test_a(self): pass\n    def test_b(self): self.fail()\n"
    run = PluginRun(folder, wanted, {"test_u.py": case})
    done = run.shell("python -m testhide_unittest test_u --report-xml r.xml")
    ran = ["test_a", "test_b"] if wanted is None else ["test_a"]
    assert (done.returncode, f"Ran {len(ran)} test" in done.stderr) == (len(ran) - 1, True), done.stderr
    report = (run.root / "r.xml").read_bytes()
    assert [case.get("name") for case in cases(report)] == ran
