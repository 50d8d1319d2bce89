"""Real runs of node's own test runner."""

import os
import subprocess
from pathlib import Path

import pytest

from domain.results import STATUSES
from tests.real.runners.project import read
from tests.real.runners.verdicts import Run, judge

OPTIONS = ("--test", "--test-reporter=junit", "--test-reporter-destination=junit.xml")
FILES = {
    "shop.test.js": """const { test, describe, it } = require("node:test");
test("passes", () => {});
test("may fail", { todo: "later" }, () => { throw new Error("not yet"); });
test("is left out", { skip: "no network" }, () => {});
describe("cart", () => { describe("sums", () => {
    it("rounds", { todo: true }, () => { throw new Error("not yet"); });
    it("adds", () => {});
}); });
""",
    "plain.js": 'require("node:assert").equal(1, 1);',
}


def run(folder: Path, files: dict[str, str]) -> Run:
    """Runs the tests in a folder that is named as the workspace of a build."""
    workspace = folder / "builds" / "7-1" / "workspace"
    (workspace / "test").mkdir(parents=True)
    for name, content in files.items():
        (workspace / "test" / name).write_text(content)
    command = ["node", *OPTIONS, *(f"test/{name}" for name in files)]
    done = subprocess.run(command, cwd=workspace, env={"PATH": os.environ["PATH"]}, capture_output=True)
    return done.returncode, workspace / "junit.xml"


@pytest.mark.real("node")
def test_a_todo_that_fails_leaves_the_build_passed(tmp_path: Path) -> None:
    done = run(tmp_path, FILES)
    assert (done[0], judge([done])) == (0, ("passed", 3))
    report = read(done[1])
    statuses = [STATUSES[status] for status in report.statuses]
    assert dict(zip((report.node_ids[test] for test in report.tests), statuses, strict=True)) == {
        "test.passes": "passed",
        "test.may fail": "skipped",
        "test.is left out": "skipped",
        "test.rounds": "skipped",
        "test.adds": "passed",
        "test.test/plain.js": "passed",
    }
    assert report.warnings == []


@pytest.mark.real("node")
def test_a_file_that_fails_fails_the_build(tmp_path: Path) -> None:
    done = run(tmp_path, FILES | {"broken.js": 'require("node:assert").equal(1, 2);'})
    assert (done[0], judge([done])) == (1, ("failed", 3))
    assert "test.test/broken.js" in read(done[1]).node_ids
