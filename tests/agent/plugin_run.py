"""A workspace in which test runners run under the agent's plugin, and what their JUnit files hold."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from agent.build import injection

BIN = str(Path(sys.executable).parent)
SUITE = {
    "pytest.ini": "[pytest]\n",
    "tests/test_a.py": """
        import pytest

        def test_plain(): pass

        @pytest.mark.parametrize("x", ["a", "b::c", "x[y]", "ä"])
        def test_many(x): assert x

        class TestOuter:
            def test_one(self): assert 0
            class TestInner:
                @pytest.mark.parametrize("n", [1, 2])
                def test_deep(self, n): pass

        def test_größe(): pass
    """,
    "tests/test_b.py": """
        import unittest
        import pytest

        class Case(unittest.TestCase):
            def test_u(self): pass

        @pytest.fixture
        def broken(): raise ValueError

        def test_set_up(broken): pass
        def test_plain(): pass
    """,
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content), encoding="utf-8")


def cases(report: bytes) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(report).iter("testcase"))


def node_ids(report: bytes) -> list[str]:
    """Return the node id of each case, or a text with its name if it has none or several."""
    found = []
    for case in cases(report):
        ids = [str(one.get("value")) for one in case.iter("property") if one.get("name") == "nodeid"]
        found.append(ids[0] if len(ids) == 1 else f"{len(ids)} in {case.get('name')}")
    return found


class PluginRun:
    """Runs commands in a workspace with the files that the agent writes for test runners."""

    def __init__(
        self,
        folder: Path,
        test_ids: Sequence[str] | None = None,
        files: dict[str, str] | None = None,
        ignored: Sequence[str] | None = None,
        shard: dict[str, object] | None = None,
    ) -> None:
        self.root = folder / "workspace"
        self.root.mkdir()
        write(self.root, files or SUITE)
        message = {"test_ids": test_ids, "ignore_failures_of": ignored, "shard": shard}
        lists = injection.write_lists(folder, self.root, message, None)
        self._base = {"PATH": f"{BIN}:{os.defpath}", "HOME": str(folder), "LANG": "C.UTF-8", **lists}
        self._folder = folder
        injection.install_plugin(folder)
        self.env = injection.add_plugin(folder, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **self._base})

    def shell(self, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        whole = {**self.env, **env}
        if "PYTHONPATH" in env:  # the agent prepends its folder in the same way
            whole["PYTHONPATH"] = f"{self._folder}/python:{env['PYTHONPATH']}"
        return subprocess.run(["sh", "-c", command], cwd=self.root, env=whole, capture_output=True, text=True)

    def ids(self, report: str = "r.xml") -> list[str]:
        return node_ids((self.root / report).read_bytes())
