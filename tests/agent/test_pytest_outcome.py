"""Which runs of pytest are incomplete. Those of xdist that give up after crashes of workers end as if they were not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.plugin_run import PluginRun
from tests.agent.pytest_forks import PytestForks

from commands.reports.reading import ReportRead, read_report
from domain.reports import UNEXPLAINED

SUITE = {
    "test_a.py": """
        import os
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_crash(n):
            if os.environ["PYTEST_XDIST_WORKER"] in os.environ["CRASHING"]:
                os._exit(3)
        @pytest.mark.parametrize("n", range(3))
        def test_good(n): pass
        def test_broken(): assert 0
    """,
    "test_once.py": """
        import os
        from pathlib import Path

        def test_once():
            if not Path("crashed").exists():
                Path("crashed").touch()
                os._exit(3)
        def test_good(): pass
    """,
    "test_equal.py": """
        def test_equal(): pass
        def test_skipped():
            import pytest
            pytest.skip()
    """,
}
CRASH = ["test_a.py::test_crash[0]"]
GIVES_UP = "-p xdist -n 1 --max-worker-restart=0"
TWO_EACH = "-p xdist --tx 2*popen --dist each"


class Ran:
    """A run of pytest, its report, and the number of tests that did not run, by the report and by pytest's output."""

    def __init__(self, forks: PytestForks, run: PluginRun, options: str, crashing: str = "") -> None:
        options = f"-p pytest_rerunfailures {options} --junit-xml=r.xml"
        self.done = forks.run(run, options, CRASHING=crashing)
        self.read: ReportRead = read_report(run.root / "r.xml")
        begin, end = "the run ended early: ", " of its tests did not run"
        ended = [warning for warning in self.read.warnings if warning.startswith(begin)]
        self.left = int(ended[0].removeprefix(begin).removesuffix(end)) if ended else 0
        line = f"Testhide: the run ended early; tests that did not run: {self.left}."
        assert self.read.is_unreadable == (line in self.done.stdout) == (self.left > 0), self.done.stdout


@pytest.mark.parametrize("ignored", [CRASH, None])
def test_a_run_that_gives_up_after_a_crash_fails(
    forks: PytestForks, folder: Path, ignored: Sequence[str] | None
) -> None:
    ran = Ran(forks, PluginRun(folder, files=SUITE, ignored=ignored), f"{GIVES_UP} test_a.py", "gw0")

    assert ran.done.returncode == 1
    assert ran.left == 6
    assert ran.read.node_ids == CRASH
    assert ran.read.explained_exit_code == UNEXPLAINED


@pytest.mark.parametrize(
    ("options", "crashing", "left"),
    [
        (f"{GIVES_UP} --dist loadfile", "gw0", 6),
        (f"{GIVES_UP} --dist loadscope", "gw0", 6),
        (f"{GIVES_UP} --dist worksteal", "gw0", 6),
        (f"{GIVES_UP} -k 'crash or good'", "gw0", 5),
        (f"{GIVES_UP} --deselect test_a.py::test_broken", "gw0", 5),
        ("-p xdist -n 1 --max-worker-restart=1", "gw0 gw1", 5),
        (f"{GIVES_UP} --reruns 1", "gw0", 7),
        (f"{TWO_EACH} --max-worker-restart=0", "gw1", 6),
        (f"{TWO_EACH} --max-worker-restart=0 --reruns 2", "gw0", 6),
    ],
)
def test_tests_that_did_not_run_after_crashes_are_counted(
    forks: PytestForks, folder: Path, options: str, crashing: str, left: int
) -> None:
    """If a crashed test is to run again, it has not run."""
    ran = Ran(forks, PluginRun(folder, files=SUITE, ignored=["test_a.py"]), f"{options} test_a.py", crashing)

    assert ran.left == left
    assert ran.read.explained_exit_code == UNEXPLAINED


def test_a_run_that_gives_up_during_collection_ran_no_test(forks: PytestForks, folder: Path) -> None:
    conftest = """
        import os
        import pytest

        @pytest.hookimpl(optionalhook=True)
        def pytest_xdist_node_collection_finished(node):  # in the main process
            open("collected", "w").close()
        def pytest_collection():
            if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
                open("collected").close()  # waits for the other worker
                os._exit(3)
    """
    run = PluginRun(folder, files={**SUITE, "conftest.py": conftest})
    os.mkfifo(run.root / "collected")
    ran = Ran(forks, run, "-p xdist -n 2 --max-worker-restart=0 test_a.py")

    assert ran.left == 7
    assert ran.read.explained_exit_code == UNEXPLAINED


@pytest.mark.parametrize(
    "options",
    [
        "-p xdist -n 1 test_a.py",
        f"{TWO_EACH} test_a.py",
        f"{TWO_EACH} --reruns 1 test_a.py",
        f"{GIVES_UP} test_a.py::test_crash[0]",
        "-p xdist -n 1 --reruns 1 test_once.py",
        "test_equal.py --keep-duplicates test_equal.py",
        "-p xdist -n 2 test_equal.py --keep-duplicates test_equal.py",
        "test_equal.py --collect-only",
        "test_equal.py --setup-plan",
        "test_equal.py -k equal",
    ],
)
def test_a_run_that_does_not_give_up_is_complete(forks: PytestForks, folder: Path, options: str) -> None:
    run = PluginRun(folder, files=SUITE, ignored=["test_a.py"])
    ran = Ran(forks, run, options, "gw0")

    assert ran.left == 0
    assert (ran.done.returncode, ran.read.explained_exit_code) == (0, 0), ran.done.stdout
