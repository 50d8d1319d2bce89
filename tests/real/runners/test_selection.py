"""The scripts in examples/runners: a test runner runs the tests that $TESTHIDE_TEST_IDS_FILE lists, and no others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from commands.reports.parser import Case, parse_report

HERE = Path(__file__).parent
SCRIPTS = Path(__file__).parents[3] / "examples" / "runners"
SUITE = """
describe("sum", () => {
  it("adds (a+b)", () => {});
  it("adds", () => {});
  describe("negatives", () => {
    it("adds", () => { throw new Error("always"); });
    it("adds $1.5 | 2", () => {});
  });
});
"""


class Project:
    def __init__(self, folder: Path, runner: str) -> None:
        self._folder, self._runner = folder, runner
        (folder / "node_modules").symlink_to(HERE / "node_modules")
        (folder / "package.json").write_text("{}")
        (folder / "test").mkdir()
        for name in ("a.test.js", "b.test.js"):
            (folder / "test" / name).write_text(SUITE.replace("sum", f"sum in {name[0]}"))
        self._options = {"jest": [], "vitest": ["--globals"], "mocha": ["test"]}[runner]

    def run(self, *wanted: str) -> dict[str, str]:
        """Runs the script; returns the status of each test that ran by its id."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "CI": "true"}
        if wanted:
            ids = self._folder / "ids.txt"
            ids.write_text("".join(f"{node_id}\n" for node_id in wanted))
            env["TESTHIDE_TEST_IDS_FILE"] = str(ids)
        done = subprocess.run(
            ["sh", str(SCRIPTS / f"{self._runner}.sh"), *self._options],
            cwd=self._folder,
            env=env,
            capture_output=True,
            text=True,
        )
        report = self._folder / "junit.xml"
        assert report.exists(), done.stdout + done.stderr
        with report.open("rb") as file:
            found = {item.node_id: item.status for item in parse_report(file) if isinstance(item, Case)}
        return {node_id: status for node_id, status in found.items() if status != "skipped"}


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_a_runner_runs_only_the_wanted_tests(tmp_path: Path, runner: str) -> None:
    project = Project(tmp_path, runner)
    whole = project.run()
    assert len(whole) == 8
    failed = [node_id for node_id, status in whole.items() if status == "failed"]
    assert len(failed) == 2

    assert set(project.run(failed[0])) == {failed[0]}
    special = [node_id for node_id in whole if "$1.5 | 2" in node_id or "(a+b)" in node_id]
    assert set(project.run(*special)) == set(special)
