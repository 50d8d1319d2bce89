"""Shards and matrices of pytest and unittest: a build is failed if one of its runs is, whichever comes last."""

from itertools import permutations
from pathlib import Path

import pytest

from domain.results import FAILED
from tests.agent.plugin_run import PluginRun
from tests.real.runners.project import read
from tests.real.runners.verdicts import Run, judge

TESTS = """
    import os
    import unittest

    class Case(unittest.TestCase):
        def test_fine(self): pass
        def test_old(self): self.assertNotEqual(os.environ["VERSION"], "old")
"""
FILES = {"test_a.py": TESTS, "test_b.py": TESTS.replace('"old"', '"new"')}
COMMANDS = {
    "pytest": "python -m pytest -p no:cacheprovider --junitxml={report} {files}",
    "xdist": "python -m pytest -p no:cacheprovider -p xdist -n 2 --junitxml={report} {files}",
    "unittest": "python -m testhide_unittest {modules} --report-xml {report}",
}


@pytest.mark.parametrize("runner", COMMANDS)
def test_one_that_fails_fails_the_build(tmp_path: Path, runner: str) -> None:
    """All reports are sent with one path, as machines of a matrix may do."""
    work = PluginRun(tmp_path, files=FILES)

    def run(report: str, version: str, *files: str) -> Run:
        modules = " ".join(name.removesuffix(".py") for name in files)
        command = COMMANDS[runner].format(report=report, files=" ".join(files), modules=modules)
        done = work.shell(command, VERSION=version)
        assert (work.root / report).is_file(), done.stdout + done.stderr
        return done.returncode, work.root / report

    shards = [run(f"{name}.xml", "old", name) for name in FILES]
    matrix = [run(f"{version}.xml", version, "test_a.py") for version in ("old", "new")]
    for runs in (shards, matrix):
        assert sorted(code for code, _ in runs) == [0, 1]
        assert [list(read(path).statuses).count(FAILED) for _, path in runs] == [1, 0]
        for order in permutations(runs):
            assert judge(order) == ("failed", 3)
    assert judge([run("fine.xml", "none", *FILES)]) == ("passed", 4)
