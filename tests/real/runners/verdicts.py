"""The verdict of a build whose command made real runs of test runners."""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.builds import FinishBuild
from commands.reports.reading import read_report
from commands.results import RecordReport
from domain.builds import BUILD, AnyBuild, BuildAssigned, BuildFinished, BuildQueued, BuildStarted, ReportRecorded
from domain.core.events import Event, LoadedState
from domain.quarantine import QUARANTINE, TestsQuarantined

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
BEGUN = (BuildAssigned(**IDS, node_id=3, attempt=1), BuildStarted(**IDS, node_id=3, attempt=1))

Run = tuple[int, Path | None]
"""Exit code, and the report if there is one."""


def judge(
    runs: Sequence[Run], quarantined: Sequence[str] = (), selected: Sequence[str] | None = None
) -> tuple[str, int]:
    """Returns the verdict of a build whose command made these runs, and how many of its tests passed."""
    quarantine = QUARANTINE.initial
    if quarantined:
        entries = TestsQuarantined(job_id=5, project_id=1, first_id=1, node_ids=list(quarantined), reason="flaky")
        quarantine = QUARANTINE.evolve(quarantine, entries)
    queued = BuildQueued(**IDS, test_ids=None if selected is None else list(selected))
    history: list[Event] = [queued, *BEGUN]
    for number, path in enumerate(path for _, path in runs if path is not None):
        report = read_report(path)
        command = RecordReport(
            build=LoadedState("build-7", 0, fold(history)),
            attempt=1,
            path="junit.xml",
            report=report,
            first_result_id=1_000 * number + 1,
            case_ids=array("q", range(len(report.node_ids))),
            digest=hashlib.sha256(path.read_bytes()).digest(),
        )
        history += command.decide(fold(history), quarantine)
    exit_code = next((code for code, _ in runs if code), 0)
    (finished,) = FinishBuild(7, 3, 1, exit_code, None, None).decide(fold(history))
    assert isinstance(finished, BuildFinished)
    return finished.status, sum(event.passed for event in history if isinstance(event, ReportRecorded))


def fold(history: Sequence[Event]) -> AnyBuild:
    build = BUILD.at(7).fold(history)
    assert build is not None
    return build
