"""Verdicts and counts of builds, against a naive reader of all that was uploaded."""

import hashlib
import io
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from commands.builds import FinishExternalBuild
from commands.reports.reading import read_chunks
from commands.results import RecordReport
from domain.builds import BUILD, AnyBuild, BuildFinished, BuildQueued, BuildStarted, ReportRecorded
from domain.core.events import Event, LoadedState
from domain.quarantine import QUARANTINE, TestsQuarantined

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
BEGUN = (BuildQueued(**IDS, external=True), BuildStarted(**IDS, node_id=None, attempt=1))
QUARANTINED = "c"
INSIDES = {"passed": "", "failed": "<failure message='boom'/>", "skipped": "<skipped/>", "known": "<failure/>"}

suites = st.tuples(st.sampled_from("su"), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*INSIDES]))))
"""The name of a suite, and the names and outcomes of its tests in their order, repetitions included."""
uploads = st.tuples(st.sampled_from(["r.xml", "py311/r.xml"]), st.lists(suites, max_size=3), st.booleans())
"""Path, suites, and whether the file takes the place of the report at its path."""

Upload = tuple[str, list[tuple[str, list[tuple[str, str]]]], bool]


def write(report: Sequence[tuple[str, list[tuple[str, str]]]]) -> bytes:
    out = io.StringIO()
    out.write("<testsuites>")
    for suite, tests in report:
        out.write(f'<testsuite name="{suite}">')
        for name, outcome in tests:
            resolution = ' test_resolution="Known issue"' if outcome == "known" else ""
            out.write(f'<testcase classname="t.test_x" name="test_{name}"{resolution}>{INSIDES[outcome]}</testcase>')
        out.write("</testsuite>")
    out.write("</testsuites>")
    return out.getvalue().encode()


Counted = tuple[str, str, bool]
"""A test's name, its last outcome, and whether that is a pass after a failure."""


def read_naively(sent: Sequence[Upload]) -> list[Counted]:
    """What counts: the last outcome of each test in each suite of each report that is not replaced."""
    kept: list[tuple[str, bytes, list[Counted]]] = []
    at_path: dict[str, tuple[str, bytes, list[Counted]]] = {}
    for path, report, is_replacement in sent:
        one = (path, write(report), [last for _, tests in report for last in count_last(tests)])
        first = at_path.setdefault(path, one)
        if one in kept and (one == first or not is_replacement):
            continue
        if is_replacement and first in kept:
            kept.remove(first)
            at_path[path] = one
        kept.append(one)
    return [result for _, _, results in kept for result in results]


def count_last(tests: Sequence[tuple[str, str]]) -> Iterator[Counted]:
    lasts: dict[str, str] = {}
    for name, outcome in tests:
        if outcome != "skipped" or lasts.get(name) not in ("failed", "known"):  # a skip is no success
            lasts[name] = outcome
    for name, last in lasts.items():
        outcomes = {outcome for other, outcome in tests if other == name}
        yield name, last, last == "passed" and not outcomes.isdisjoint({"failed", "known"})


@given(st.lists(uploads, max_size=6), st.booleans())
def test_no_failure_is_hidden(sent: list[Upload], with_quarantine: bool) -> None:
    quarantine = QUARANTINE.initial
    if with_quarantine:
        quarantine = QUARANTINE.evolve(
            quarantine,
            TestsQuarantined(
                job_id=5, project_id=1, first_id=1, node_ids=[f"t/test_x.py::test_{QUARANTINED}"], reason="flaky"
            ),
        )
    history: list[Event] = [*BEGUN]
    for number, (path, report, is_replacement) in enumerate(sent):
        content = write(report)
        read = read_chunks([content])
        command = RecordReport(
            build=LoadedState("build-7", 0, folded(history)),
            attempt=1,
            path=path,
            report=read,
            first_result_id=100 * number + 1,
            case_ids=array("q", range(len(read.node_ids))),
            digest=hashlib.sha256(content).digest(),
            is_replacement=is_replacement,
        )
        history += command.decide(folded(history), quarantine)
    counting = read_naively(sent)
    outcomes = [outcome for _, outcome, _ in counting]
    reports = [event for event in history if isinstance(event, ReportRecorded)]
    assert [sum(getattr(one, name) for one in reports) for name in ("passed", "failed", "skipped", "known_issues")] == [
        *(outcomes.count("passed"), outcomes.count("failed") + outcomes.count("known")),
        *(outcomes.count("skipped"), outcomes.count("known")),
    ]
    assert sum(one.flaky or 0 for one in reports) == sum(is_flaky for _, _, is_flaky in counting)
    hidden = {QUARANTINED} if with_quarantine else set()
    is_failed = any(outcome == "failed" and name not in hidden for name, outcome, _ in counting)
    (finished,) = FinishExternalBuild(7, "passed").decide(folded(history))
    assert isinstance(finished, BuildFinished)
    assert finished.status == ("failed" if is_failed else "passed")


def folded(history: Sequence[Event]) -> AnyBuild:
    build = BUILD.at(7).fold(history)
    assert build is not None
    return build
