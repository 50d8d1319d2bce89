"""Reports of maven's surefire by examples/runners/maven.sh: modules, repeated attempts, classes and JVMs that fail."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from commands.reports.reading import ReportRead, read_report
from domain.results import STATUSES
from tests.real.runners.verdicts import judge

SCRIPT = Path(__file__).parents[3] / "examples" / "runners" / "maven.sh"
REPOSITORY = "/usr/share/maven-repo"
PARENT = """
  <groupId>com.acme</groupId><artifactId>all</artifactId><version>1</version><packaging>pom</packaging>
  <modules>{modules}</modules>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>{dependencies}</dependencies>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
MODULE = """
  <parent><groupId>com.acme</groupId><artifactId>all</artifactId><version>1</version></parent>
  <artifactId>{name}</artifactId>
"""
JUNIT_4 = DEPENDENCY.format("junit", "junit", "4.x")
JUNIT_5 = DEPENDENCY.format("org.junit.jupiter", "junit-jupiter", "debian")
IMPORTS = {
    JUNIT_4: "import static org.junit.Assert.*; import org.junit.*;",
    JUNIT_5: "import static org.junit.jupiter.api.Assertions.*; import org.junit.jupiter.api.*;"
    " import org.junit.jupiter.params.*; import org.junit.jupiter.params.provider.*;",
}
CART = """
class CartTest {
  @Test void passes() {}
  @Test void fails() { assertEquals(1, 2); }
  @Test void errs() { throw new IllegalStateException("boom"); }
  @Test @Disabled("later") void skipped() {}
  @ParameterizedTest @ValueSource(ints = {1, 2}) void small(int n) { assertTrue(n < 2); }
  @Nested class Inner { @Test void deep() {} @Test void fails() { fail("no"); } }
}
"""
FINE = "class FineTest { @Test void passes() {} }"
FLAKY = """
public class FlakyTest {
  static int runs;
  @Test public void flaky() { assertTrue("first run", ++runs > 1); }
  @Test public void fails() { fail("always"); }
}
"""
UNPREPARED = """
public class UnpreparedTest {
  @BeforeClass public static void prepare() { throw new IllegalStateException("no database"); }
  @Test public void passes() {}
}
"""
EXITING = "public class ExitingTest { @Test public void exits() { System.exit(0); } }"


class Run(NamedTuple):
    exit_code: int
    reports: Mapping[str, Path]
    """By their paths."""

    def judge(self, quarantined: Sequence[str] = ()) -> str:
        return judge([(self.exit_code, path) for path in self.reports.values()], quarantined)[0]

    def statuses(self) -> dict[str, list[str]]:
        """Returns the status of each attempt at each test by its id."""
        statuses: dict[str, list[str]] = {}
        for report in map(read_report, self.reports.values()):
            for test, status in zip(report.tests, report.statuses, strict=True):
                statuses.setdefault(report.node_ids[test], []).append(STATUSES[status])
        return statuses

    def read(self) -> list[ReportRead]:
        return [read_report(path) for path in self.reports.values()]


class Project:
    """A project with one test class in each module, whose repository of artifacts is that of the machine."""

    def __init__(self, folder: Path, junit: str, modules: Mapping[str, str]) -> None:
        self._folder = folder
        names = "".join(f"<module>{name}</module>" for name in modules)
        self._write("pom.xml", PARENT.format(modules=names, dependencies=junit))
        for name, source in modules.items():
            self._write(f"{name}/pom.xml", MODULE.format(name=name))
            class_name = source.split("class ")[1].split()[0]
            self.write(
                f"{name}/src/test/java/com/acme/{class_name}.java", f"package com.acme; {IMPORTS[junit]} {source}"
            )
        mirror = f"<mirror><id>debian</id><mirrorOf>*</mirrorOf><url>file://{REPOSITORY}</url></mirror>"
        self.write("settings.xml", f"<settings><mirrors>{mirror}</mirrors></settings>")

    def _write(self, name: str, model: str) -> None:
        start = '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        self.write(name, f"{start}{model}</project>")

    def write(self, name: str, content: str) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_text(content)

    def run(self, *options: str, wanted: Sequence[str] = (), **variables: str) -> Run:
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "LANG": "C.UTF-8", **variables}
        env["MAVEN_OPTS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # short runs take half the time
        if wanted:
            self.write("ids.txt", "".join(f"{node_id}\n" for node_id in wanted))
            env["TESTHIDE_TEST_IDS_FILE"] = str(self._folder / "ids.txt")
        for report in self._folder.glob("*/target/surefire-reports/*.xml"):
            report.unlink()
        done = subprocess.run(
            [
                "sh",
                str(SCRIPT),
                *("--settings", "settings.xml", f"-Dmaven.repo.local={self._folder / 'repository'}"),
                "-Dsurefire.exitTimeout=1",  # Debian's surefire waits for its JVM to end until this is over
                *options,
            ],
            cwd=self._folder,
            env=env,
            capture_output=True,
            text=True,
        )
        assert "BUILD" in done.stdout, done.stdout + done.stderr
        found = sorted(self._folder.glob("*/target/surefire-reports/TEST-*.xml"))
        return Run(done.returncode, {str(path.relative_to(self._folder)): path for path in found})


@pytest.mark.real("mvn")
def test_modules_and_selected_tests(tmp_path: Path) -> None:
    project = Project(tmp_path, JUNIT_5, {"shop": CART, "pay": CART, "fine": FINE})
    run = project.run()
    assert (run.exit_code, len(run.reports)) == (1, 3)
    assert [report.warnings for report in run.read()] == [[], [], []]
    assert run.statuses() == {
        "com.acme.CartTest.passes": ["passed"] * 2,
        "com.acme.CartTest.fails": ["failed"] * 2,
        "com.acme.CartTest.errs": ["failed"] * 2,
        "com.acme.CartTest.skipped": ["skipped"] * 2,
        "com.acme.CartTest.small{int}[1]": ["passed"] * 2,
        "com.acme.CartTest.small{int}[2]": ["failed"] * 2,
        "com.acme.CartTest$Inner.deep": ["passed"] * 2,
        "com.acme.CartTest$Inner.fails": ["failed"] * 2,
        "com.acme.FineTest.passes": ["passed"],
    }
    failed = [node_id for node_id, (status, *_) in run.statuses().items() if status == "failed"]
    assert (run.judge(), run.judge(failed[1:]), run.judge(failed)) == ("failed", "failed", "passed")

    wanted = ["com.acme.CartTest.passes", "com.acme.CartTest.small{int}[1]", "com.acme.CartTest$Inner.fails"]
    assert set(project.run(wanted=wanted).statuses()) == {*wanted, "com.acme.CartTest.small{int}[2]"}


@pytest.mark.real("mvn")
def test_repeated_attempts_and_what_no_quarantine_excuses(tmp_path: Path) -> None:
    project = Project(tmp_path, JUNIT_4, {"flaky": FLAKY, "unprepared": UNPREPARED, "exiting": EXITING})
    fails, unprepared = "com.acme.FlakyTest.fails", "com.acme.UnpreparedTest"

    run = project.run("--projects=flaky,unprepared", "-Dsurefire.rerunFailingTestsCount=1")
    assert run.statuses() == {
        "com.acme.FlakyTest.flaky": ["failed", "passed"],
        fails: ["failed", "failed"],
        unprepared: ["failed"],
    }
    assert [(report.warnings, report.is_unreadable, sum(report.flaky)) for report in run.read()] == [
        ([], False, 1),
        ([], False, 0),
    ]
    assert (run.exit_code, run.judge([fails, unprepared])) == (1, "failed"), "the tests of a class did not run"

    run = project.run("--projects=flaky,exiting")
    assert (run.exit_code, len(run.reports)) == (2, 1), "a JVM that exits leaves no report"
    assert run.judge(list(run.statuses())) == "failed"
