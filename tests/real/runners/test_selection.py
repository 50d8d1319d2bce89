"""The scripts in examples/runners: a test runner runs the tests that $TESTHIDE_TEST_IDS_FILE lists, and no others."""

from pathlib import Path

import pytest

from tests.real.runners.project import Project, read, statuses_of
from tests.real.runners.verdicts import judge

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
FILES = {f"{name}.test.js": SUITE.replace("sum", f"sum in {name}") for name in "ab"}


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_a_runner_runs_only_the_wanted_tests(tmp_path: Path, runner: str) -> None:
    project = Project(tmp_path, runner, FILES)

    def run(*wanted: str) -> dict[str, str]:
        return statuses_of(read(project.run(wanted=wanted)[1]))

    def verdict(*wanted: str) -> str:
        return judge([project.run(wanted=wanted)], selected=wanted)[0]

    whole = run()
    assert len(whole) == 8
    failed = [node_id for node_id, status in whole.items() if status == "failed"]
    assert len(failed) == 2

    assert set(run(failed[0])) == {failed[0]}
    special = [node_id for node_id in whole if "$1.5 | 2" in node_id or "(a+b)" in node_id]
    assert set(run(*special)) == set(special)

    gone = special[0].replace("adds", "gone")
    assert (verdict(*special), verdict(*special, gone), verdict(gone)) == ("passed", "failed", "failed")
