"""JavaScript projects whose tests a real test runner runs, by the scripts in examples/runners."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from commands.reports.reading import ReportRead, read_report
from domain.results import STATUSES

HERE = Path(__file__).parent
SCRIPTS = Path(__file__).parents[3] / "examples" / "runners"
OPTIONS = {"jest": [], "vitest": ["--globals"], "mocha": ["test"]}


class Project:
    def __init__(self, folder: Path, runner: str, files: dict[str, str]) -> None:
        self._folder, self._runner = folder, runner
        (folder / "node_modules").symlink_to(HERE / "node_modules")
        (folder / "package.json").write_text("{}")
        (folder / "test").mkdir()
        for name, content in files.items():
            (folder / "test" / name).write_text(content)

    def run(
        self, *options: str, wanted: tuple[str, ...] = (), is_first: bool = True, **variables: str
    ) -> tuple[int, Path | None]:
        """Runs the script; returns its exit code and the report that it wrote."""
        report = self._folder / "junit.xml"
        if is_first:
            report.unlink(missing_ok=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "CI": "true", **variables}
        env["JEST_JUNIT_REPORT_TEST_SUITE_ERRORS"] = "true"  # as the agent sets it
        if wanted:
            ids = self._folder / "ids.txt"
            ids.write_text("".join(f"{node_id}\n" for node_id in wanted))
            env["TESTHIDE_TEST_IDS_FILE"] = str(ids)
        done = subprocess.run(
            ["sh", str(SCRIPTS / f"{self._runner}.sh"), *OPTIONS[self._runner], *options],
            cwd=self._folder,
            env=env,
            capture_output=True,
            text=True,
        )
        if not report.exists():
            return done.returncode, None
        return done.returncode, report.rename(self._folder / f"{len(list(self._folder.iterdir()))}.xml")


def statuses_of(report: ReportRead) -> dict[str, str]:
    """Returns the status of each test that ran by its id."""
    rows = zip(report.tests, report.statuses, strict=True)
    return {report.node_ids[test]: STATUSES[status] for test, status in rows if STATUSES[status] != "skipped"}


def read(path: Path | None) -> ReportRead:
    assert path is not None, "there is no report"
    return read_report(path)
