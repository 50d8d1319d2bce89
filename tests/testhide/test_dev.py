"""./dev itself: what it does without a network."""

import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "dev"


def dev(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def test_help_works_from_anywhere(tmp_path: Path) -> None:
    done = dev("help", cwd=tmp_path)
    assert done.returncode == 0
    assert "./dev demo" in done.stdout


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_it_is_a_shell_script(shell: str) -> None:
    assert subprocess.run([shell, "-n", DEV], check=False).returncode == 0


def test_ci_run_is_a_shell_script() -> None:
    assert subprocess.run(["bash", "-n", DEV.parent / ".ci/run"], check=False).returncode == 0
