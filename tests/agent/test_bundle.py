"""The zipapp: one file for many Python versions, reproducible."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import StartAgent

import agent as package
from agent.bundle import build_zipapp

FOLDER = Path(package.__file__).parent
SOURCES = sorted([*FOLDER.rglob("*.py"), *FOLDER.with_name("formats").rglob("*.py")])


def _pythons() -> list[str]:
    """Return the Python versions of this machine, except the one that runs the tests."""
    names = (f"/usr/bin/python3.{minor}" for minor in range(9, 20))
    return [name for name in names if os.path.exists(name) and not name.endswith(f"3.{sys.version_info[1]}")]


@pytest.mark.parametrize("python", _pythons())
def test_it_runs_on_other_python_versions(server: FakeServer, start: StartAgent, python: str) -> None:
    build = server.queue("echo here; touch out", artifacts=["out"])
    agent = start("--once", python=python)

    assert agent.wait() == 0
    assert build.printed == ["here"]
    assert "Warning" not in agent.printed


def test_it_runs_as_a_module_and_as_a_folder() -> None:
    source = Path(package.__file__).parent
    for words in (["-m", "agent"], [str(source)]):
        done = subprocess.run(
            [sys.executable, *words, "--version"],
            cwd=source.parent,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == package.VERSION + "\n"


def test_the_bundle_is_the_same_each_time() -> None:
    first, second = build_zipapp(), build_zipapp()

    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert first.startswith(b"#!/usr/bin/env python3\n")
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert names == sorted(names)
    assert {"__main__.py", "agent/__init__.py", "agent/build/build_task.py", "formats/reports.py"} <= set(names)
    assert "agent/bundle.py" not in names


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_source_is_python_3_9_and_imports_only_the_standard_library(source: Path) -> None:
    is_for_builds = source.name.startswith("testhide_")
    tree = ast.parse(source.read_text(), feature_version=(3, 8) if is_for_builds else (3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names | ({"pytest", "_pytest"} if is_for_builds else {"agent", "formats"})
    assert len(source.read_text().splitlines()) < 250
