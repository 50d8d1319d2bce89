"""Shards and matrices of jest, vitest, mocha, go, surefire, gradle and dotnet: machines that share the tests of a
build, and machines that run the same tests with other values. Each sends a report of the same name. The build, or the
group of builds, is failed if one of them failed, and its counts are their sums.
"""

import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from domain.results import FAILED, PASSED
from tests.real.runners import test_dotnet, test_go, test_gradle, test_maven
from tests.real.runners.project import Project, read, statuses_of
from tests.real.runners.verdicts import judge
from tests.support.builders import CONFIGURATION, Shop, finish, given_build, upload
from tests.support.server import Server

Run = tuple[int, Path]
"""Exit code and report of a machine."""
JS = """describe("NAME", () => {
    it("is fine", () => {});
    it("is old", () => { if (process.env.VERSION === "WRONG") throw new Error("boom"); });
});"""
GO = """package NAME

import ("os"; "testing")

func TestFine(t *testing.T) {}
func TestOld(t *testing.T) {
	if os.Getenv("VERSION") == "WRONG" { t.Error("boom") }
}
"""
JAVA = """public class NAME {
  @org.junit.Test public void fine() {}
  @org.junit.Test public void old() { org.junit.Assert.assertNotEquals("WRONG", System.getenv("VERSION")); }
}
"""


def source(template: str, name: str, wrong: str = "-") -> str:
    return template.replace("NAME", name).replace("WRONG", wrong)


def keep(run: tuple[int, Path | None], folder: Path, name: str) -> Run:
    """Puts a report where no later run replaces it."""
    code, report = run
    assert report is not None
    return code, Path(shutil.move(report, folder / f"{name}{report.suffix}"))


def must_fail(server: Server, runs: Sequence[Run]) -> None:
    """Asserts that one of two runs failed, by one test, and that so does what they are machines of."""
    assert sorted(code for code, _ in runs) == [0, 1]
    statuses = [list(read(report).statuses) for _, report in runs]
    assert sorted(found.count(FAILED) for found in statuses) == [0, 1]
    passed = sum(found.count(PASSED) for found in statuses)
    assert [judge(order) for order in permutations(runs)] == [("failed", passed)] * 2

    shop = Shop(server)
    for order in permutations(runs):
        build = given_build(server, shop.job)
        for _, report in order:
            upload(server.admin, build, report.read_bytes(), f"report{report.suffix}").then(201)
        finish(server, build)
        shown = shop.build(build)
        assert (shown["status"], shown["passed"], shown["failed"]) == ("failed", passed, 1)

    job = shop.new_job()
    configuration = CONFIGURATION | {"matrix": {"axes": {"machine": ["1", "2"]}}}
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
    group = shop.admin.create("/builds/start", job_id=job)["group_id"]
    agent = shop.new_agent()
    for code, report in runs:
        build_of_group = agent.take_up()
        agent.report(build_of_group, report.read_bytes(), f"report{report.suffix}").raise_for_status()
        agent.finished(build_of_group, code).raise_for_status()
        shop.ended(build_of_group["id"])
    found = shop.admin.fetch(f"/build-groups/{group}")
    builds = found["builds"]
    assert (found["status"], sorted(build["status"] for build in builds)) == ("failed", ["failed", "passed"])
    assert (sum(build["total_tests"] for build in builds), sum(build["failed_tests"] for build in builds)) == (
        passed + 1,
        1,
    )


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", ["jest", "vitest", "mocha"])
def test_javascript(server: Server, tmp_path: Path, runner: str) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    kept.mkdir()
    project = Project(work, runner, {"a.test.js": source(JS, "a", "old"), "b.test.js": source(JS, "b")})

    def run(version: str, file: str) -> Run:
        other = "b" if file == "a" else "a"
        options = ("--ignore", f"test/{other}.test.js") if runner == "mocha" else (f"test/{file}.test.js",)
        return keep(project.run(*options, VERSION=version), kept, f"{version}-{file}")

    failing = run("old", "a")
    must_fail(server, (failing, run("old", "b")))
    must_fail(server, (failing, run("new", "a")))


@pytest.mark.real("go", "gotestsum")
def test_go_packages(server: Server, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name, wrong in (("a", "old"), ("b", "-")):
        (work / name).mkdir(parents=True)
        (work / name / f"{name}_test.go").write_text(source(GO, name, wrong))
    (work / "go.mod").write_text(test_go.FILES["go.mod"])

    def run(version: str, package: str) -> Run:
        """Runs the script in the folder of a package, since it tests all packages below."""
        return keep(test_go.run_script(work / package, VERSION=version), tmp_path, f"{version}-{package}")

    failing = run("old", "a")
    must_fail(server, (failing, run("old", "b")))
    must_fail(server, (failing, run("new", "a")))


@pytest.mark.real("mvn")
def test_modules_of_maven(server: Server, tmp_path: Path) -> None:
    work = tmp_path / "work"
    modules = {"a": source(JAVA, "ATest", "old"), "b": source(JAVA, "BTest")}
    project = test_maven.Project(work, test_maven.JUNIT_4, modules)
    old = project.run("--projects=a", VERSION="old")
    (report,) = old.reports.values()
    failing = keep((old.exit_code, report), tmp_path, "old-a")
    new = project.run(VERSION="new")
    runs = {name: (new.exit_code, report) for name, report in new.reports.items()}
    must_fail(server, (failing, next(run for name, run in runs.items() if name.startswith("b/"))))
    must_fail(server, (failing, next(run for name, run in runs.items() if name.startswith("a/"))))


@pytest.mark.real("gradle")
def test_projects_of_gradle(server: Server, tmp_path: Path) -> None:
    files = {
        "settings.gradle": "include 'a', 'b'",
        "build.gradle": test_gradle.FILES["build.gradle"],
        "gradlew": test_gradle.FILES["gradlew"],
        "a/src/test/java/ATest.java": source(JAVA, "ATest", "old"),
        "b/src/test/java/BTest.java": source(JAVA, "BTest"),
    }
    work = tmp_path / "work"
    project = test_gradle.Project(work, files)
    code, (report,) = project.run("--exclude-task", ":b:test", VERSION="old")
    failing = keep((code, report), tmp_path, "old-a")
    code, (new_a, new_b) = project.run(VERSION="new")
    must_fail(server, (failing, (code, new_b)))
    must_fail(server, (failing, (code, new_a)))


@pytest.mark.real("node", "g++")
def test_filters_of_dotnet(server: Server, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    project = test_dotnet.Project(work)
    shards = {"a": ["Adds", "Discounts"], "b": ["Weighs(1)", "Ships", "Ends"]}

    def run(shard: str, *variables: str) -> Run:
        wanted = [f"{test_dotnet.CART}.{name}" for name in shards[shard]]
        made = project.run("cart.dll", wanted=wanted, variables=variables)
        return keep(made, tmp_path, "-".join((shard, *variables)))

    failing = run("a", "BROKEN")
    assert statuses_of(read(failing[1]))[f"{test_dotnet.CART}.Discounts"] == "failed"
    must_fail(server, (failing, run("b", "BROKEN")))
    must_fail(server, (failing, run("a")))
