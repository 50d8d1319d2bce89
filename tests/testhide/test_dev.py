"""./dev itself: what it does without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "dev"


def dev(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **variables}
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environ)


def test_help_works_from_anywhere(tmp_path: Path) -> None:
    done = dev("help", cwd=tmp_path)
    assert done.returncode == 0
    assert "./dev demo" in done.stdout


def test_the_demo_in_the_readme_has_all_tests_of_the_example() -> None:
    (counts,) = re.findall(r"(\d+) passed, (\d+) failed, (\d+) skipped", (DEV.parent / "README.md").read_text())
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "-o", "addopts="],
        cwd=DEV.parent / "examples" / "shop",
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"collected {sum(map(int, counts))} items" in collected.stdout


def test_an_interpreter_that_does_not_serve_is_refused(tmp_path: Path) -> None:
    done = dev("up", TESTHIDE_VENV=str(tmp_path / "venv"), TESTHIDE_PYTHON="/bin/false")
    assert (done.returncode, done.stderr) == (
        1,
        "dev: TESTHIDE_PYTHON=/bin/false is no Python 3.11 or newer with venv and pip\n",
    )


@pytest.mark.parametrize("is_set_up", [True, False])
def test_an_interpreter_that_is_not_there_is_refused(tmp_path: Path, is_set_up: bool) -> None:
    folder = Path(sys.prefix) if is_set_up else tmp_path / "venv"
    done = dev("--version", TESTHIDE_VENV=str(folder), TESTHIDE_PYTHON="/no/such/python")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dev: TESTHIDE_PYTHON=/no/such/python is not there\n"


@pytest.mark.parametrize(("verb", "what"), [("bench", "benchmark"), ("long", "long check")])
def test_the_names_that_it_lists_are_those_of_programs(verb: str, what: str) -> None:
    """And those of the README. Helpers have no name to call them by."""
    listed = dev(verb, TESTHIDE_VENV=sys.prefix).stderr.partition("NAME is one of: ")[2].split()
    (documented,) = re.findall(rf"\./dev {verb} NAME +run a {what}: (.*)", (DEV.parent / "README.md").read_text())
    assert listed == documented.split(", ")
    folder = {"bench": "bench", "long": "bench/long"}[verb]
    assert all('if __name__ == "__main__":' in (DEV.parent / folder / f"{name}.py").read_text() for name in listed)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_it_is_a_shell_script(shell: str) -> None:
    assert subprocess.run([shell, "-n", DEV], check=False).returncode == 0


def test_ci_run_is_a_shell_script() -> None:
    assert subprocess.run(["bash", "-n", DEV.parent / ".ci/run"], check=False).returncode == 0
