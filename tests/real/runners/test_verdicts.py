"""Real runs, from the exit code and the reports of a test runner to the verdict of a build."""

from pathlib import Path

import pytest

from domain.results import FAILED
from tests.real.runners.project import Project, read, statuses_of
from tests.real.runners.verdicts import judge

FINE = 'describe("fine", () => { it("passes", () => {}); });'
BAD = 'describe("bad", () => { it("passes", () => {}); it("fails", () => { throw new Error("boom"); }); });'
UNLOADABLE = 'require("./nothing of this name");'


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_a_build_passes_when_its_runner_did_or_only_quarantined_tests_failed(tmp_path: Path, runner: str) -> None:
    fine, bad, broken = (tmp_path / name for name in ("fine", "bad", "broken"))
    for folder in (fine, bad, broken):
        folder.mkdir()
    assert judge([Project(fine, runner, {"a.test.js": FINE}).run()]) == ("passed", 1)

    run = Project(bad, runner, {"a.test.js": FINE, "b.test.js": BAD}).run()
    failed = [node_id for node_id, status in statuses_of(read(run[1])).items() if status == "failed"]
    assert (len(failed), judge([run]), judge([run], failed)) == (1, ("failed", 2), ("passed", 2))

    unloadable = Project(broken, runner, {"a.test.js": FINE, "b.test.js": BAD, "c.test.js": UNLOADABLE}).run()
    assert judge([unloadable], failed)[0] == "failed", "a suite is missing"


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_two_tests_of_one_name_are_no_attempts(tmp_path: Path, runner: str) -> None:
    twice = 'describe("twice", () => { it("x", () => { throw new Error("boom"); }); it("x", () => {}); });'
    run = Project(tmp_path, runner, {"a.test.js": BAD, "b.test.js": twice}).run()
    report = read(run[1])
    assert (list(report.statuses).count(FAILED), list(report.finals), sum(report.flaky)) == (2, [1] * 4, 0)
    quarantined = [
        node_id for node_id, status in statuses_of(report).items() if "bad" in node_id and status == "failed"
    ]
    assert (len(quarantined), judge([run], quarantined)) == (1, ("failed", 2))


@pytest.mark.real("node")
@pytest.mark.parametrize(("runner", "code"), [("jest", 2), ("mocha", 255)])
def test_a_run_that_a_test_ends_leaves_no_report_and_fails(tmp_path: Path, runner: str, code: int) -> None:
    ending = 'describe("ends", () => { it("exits", () => { process.exit(0); }); });'
    project = Project(tmp_path, runner, {"a.test.js": FINE, "b.test.js": ending})
    assert project.run() == (code, None)
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    assert project.run(is_first=False) == (code, None), "a report of an earlier run is none of this one"


FIRST = 'describe("first", () => { it("fails", () => { throw new Error("boom"); }); });'
SETTINGS = {
    "jest": ("package.json", '{"jest": {"bail": true}}'),
    "mocha": (".mocharc.json", '{"bail": true}'),
    "vitest": ("vitest.config.mjs", "export default { test: { bail: 1, fileParallelism: false } };"),
}


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_tests_after_a_failure_run_although_the_project_turns_bail_on(tmp_path: Path, runner: str) -> None:
    project = Project(tmp_path, runner, {"a.test.js": FIRST, "b.test.js": BAD})
    file, settings = SETTINGS[runner]
    (tmp_path / file).write_text(settings)
    run = project.run()
    results = statuses_of(read(run[1]))
    failed = [node_id for node_id, status in results.items() if status == "failed"]
    assert (run[0], len(results), len(failed), judge([run], failed)) == (1, 3, 2, ("passed", 1))
    refused = project.run("--bail")
    assert (refused[0] > 1, refused[1]) == (True, None)


@pytest.mark.real("node")
@pytest.mark.parametrize(("runner", "option"), [("jest", "test/b.test.js"), ("vitest", "test/b.test.js")])
def test_the_files_to_run_can_be_named(tmp_path: Path, runner: str, option: str) -> None:
    project = Project(tmp_path, runner, {"a.test.js": BAD, "b.test.js": FINE})
    code, report = project.run(option)
    assert (code, list(statuses_of(read(report)).values())) == (0, ["passed"])


@pytest.mark.real("node")
def test_no_quarantine_excuses_an_error_outside_of_the_tests_of_vitest(tmp_path: Path) -> None:
    """Its JUnit file does not mention the error."""
    leaking = """
        describe("leaks", () => {
          it("passes", () => { setTimeout(() => { throw new Error("outside"); }, 0); });
          it("waits", () => new Promise((resolve) => setTimeout(resolve, 50)));
        });
    """
    run = Project(tmp_path, "vitest", {"a.test.js": BAD, "b.test.js": leaking}).run()
    failed = [node_id for node_id, status in statuses_of(read(run[1])).items() if status == "failed"]
    assert (run[0], len(failed), judge([run], failed)[0]) == (2, 1, "failed")


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest"])
def test_shards_are_reports_of_one_build(tmp_path: Path, runner: str) -> None:
    """All at one path, as the machines of a matrix send them."""
    files = {f"{name}.test.js": FINE.replace("fine", name) for name in "abc"} | {"d.test.js": BAD}
    project = Project(tmp_path, runner, files)
    shards = [project.run(f"--shard={number}/2") for number in (1, 2)]
    for order in (shards, shards[::-1]):
        assert judge(order) == ("failed", 4)
    assert sorted(code for code, _ in shards) == [0, 1]
