"""Reports of gradle by examples/runners/gradle.sh: modules, parameters, classes and JVMs that fail."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from commands.reports.reading import read_report
from tests.real.runners.project import statuses_of
from tests.real.runners.verdicts import judge

SCRIPT = Path(__file__).parents[3] / "examples" / "runners" / "gradle.sh"
FILES = {
    "settings.gradle": "include 'shop', 'unprepared', 'exiting'",
    "build.gradle": """
        subprojects {
          apply plugin: 'java'
          repositories { maven { url 'file:///usr/share/maven-repo' } }
          dependencies { testCompile 'junit:junit:4.x' }
        }
    """,
    "gradlew": '#!/bin/sh\nexec gradle --offline --no-daemon --gradle-user-home "$HOME/gradle" "$@"\n',
    "shop/src/test/java/CartTest.java": """
        import java.util.*; import org.junit.*; import org.junit.runner.*; import org.junit.runners.*;
        @RunWith(Parameterized.class)
        public class CartTest {
          @Parameterized.Parameters public static List<Object[]> numbers() {
            return Arrays.asList(new Object[] {1}, new Object[] {2});
          }
          int number;
          public CartTest(int number) { this.number = number; }
          @Test public void small() { Assert.assertTrue(number < 2); }
          @Test public void fine() {}
          @Test @Ignore public void later() {}
        }
    """,
    "unprepared/src/test/java/UnpreparedTest.java": """
        import org.junit.*;
        public class UnpreparedTest {
          @BeforeClass public static void prepare() { throw new IllegalStateException("no database"); }
          @Test public void passes() {}
        }
    """,
    "exiting/src/test/java/ExitingTest.java": """
        import org.junit.*;
        public class ExitingTest { @Test public void exits() { System.exit(3); } }
    """,
}


class Project:
    def __init__(self, folder: Path, files: Mapping[str, str] = FILES) -> None:
        self._folder = folder
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        (folder / "gradlew").chmod(0o755)

    def run(self, *options: str, wanted: Sequence[str] = (), **variables: str) -> tuple[int, list[Path]]:
        """Returns the exit code of the script and the reports."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder), **variables}
        env["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # short runs take half the time
        if wanted:
            (self._folder / "ids.txt").write_text("".join(f"{node_id}\n" for node_id in wanted))
            env["TESTHIDE_TEST_IDS_FILE"] = str(self._folder / "ids.txt")
        for path in self._reports():
            path.unlink()
        done = subprocess.run(["sh", str(SCRIPT), *options], cwd=self._folder, env=env, capture_output=True, text=True)
        assert "BUILD" in done.stdout, done.stdout + done.stderr
        return done.returncode, self._reports()

    def _reports(self) -> list[Path]:
        return sorted(self._folder.glob("*/build/test-results/test/*.xml"))


@pytest.mark.real("gradle")
def test_gradle_is_read_and_selected(tmp_path: Path) -> None:
    project = Project(tmp_path)
    exit_code, paths = project.run()
    shop, unprepared = (read_report(path) for path in paths)
    assert exit_code == 2, "a JVM that exits leaves no report"
    assert (shop.warnings, shop.unloaded, unprepared.warnings, unprepared.unloaded) == ([], 0, [], 1)
    small = [f"CartTest.small[{number}]" for number in (0, 1)]
    assert statuses_of(shop) == {
        small[0]: "passed",
        small[1]: "failed",
        "CartTest.fine[0]": "passed",
        "CartTest.fine[1]": "passed",
    }
    every = [*shop.node_ids, *unprepared.node_ids]
    assert judge([(1, path) for path in paths], every)[0] == "failed", "the tests of a class did not run"

    exit_code, (path,) = project.run(wanted=small)
    assert (exit_code, set(statuses_of(read_report(path)))) == (1, set(small))
    verdicts = [judge([(exit_code, path)], quarantined, small)[0] for quarantined in ((), small)]
    assert verdicts == ["failed", "passed"]
