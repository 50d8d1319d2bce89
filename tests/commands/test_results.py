"""Reports read into columns, and recorded."""

import gzip
from array import array
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.reports.reading import BLOCK_ROWS, ReportRead, read_chunks, read_report
from commands.reports.recording import load_build
from commands.results import LATE, NewCases, RecordReport
from domain.artifacts import number_path
from domain.builds import BUILD, AnyBuild, BuildFinished, BuildQueued, BuildRequeued, BuildStarted, ReportRecorded
from domain.core.columns import Int32s
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event, LoadedState
from domain.jobs import Configuration
from domain.results import (
    DIFFERED,
    FAILED,
    FLIPPED,
    PASSED,
    SKIPPED,
    CasesSeen,
    ResultsRecorded,
    ResultsReplaced,
    commit_number,
)
from testhide.processes import Core

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
QUEUED = BuildQueued(**IDS, configuration=Configuration(), branch="main", commit_sha="abc1")
STARTED = BuildStarted(**IDS, node_id=3, attempt=1, commit_sha="abc123")

Test = tuple[str, str, str]
"""Suite, name, what is inside of its element."""


def report(*tests: Test) -> ReportRead:
    """Tests of one suite that follow each other lie in one element."""
    suites = (
        f'<testsuite name="{suite}">'
        + "".join(
            f'<testcase classname="t.test_x" name="test_{name}" time="0.5">{inside}</testcase>'
            for _, name, inside in cases
        )
        + "</testsuite>"
        for suite, cases in groupby(tests, key=itemgetter(0))
    )
    return read_chunks([f"<testsuites>{''.join(suites)}</testsuites>".encode()])


FAILURE = '<failure message="boom">trace</failure>'


def command(read: ReportRead, *, path: str = "r.xml", attempt: int = 1, **more: Any) -> RecordReport:
    ids = array("q", range(1, len(read.node_ids) + 1))
    build = LoadedState("build-7", 1, state(QUEUED))
    more.setdefault("digest", bytes(read.statuses) + b"digest")
    return RecordReport(build, attempt, path, read, 100, ids, **more)


def state(*history: Event) -> AnyBuild:
    build = BUILD.at(7).fold(history)
    assert build is not None
    return build


def decided(asked: RecordReport, *history: Event) -> list[Event]:
    return list(asked.decide(state(*history)))


def test_attempts_are_numbered_and_the_last_decides() -> None:
    read = report(("s", "a", FAILURE), ("s", "b", ""), ("s", "a", ""), ("s", "a", "<skipped/>"))
    assert read.node_ids == ["t/test_x.py::test_a", "t/test_x.py::test_b"]
    assert list(read.statuses) == [FAILED, PASSED, PASSED, SKIPPED]
    assert list(read.attempts) == [1, 1, 2, 3]
    assert list(read.finals) == [0, 1, 0, 1]


def test_a_pass_after_a_failure_is_flaky() -> None:
    assert list(report(("s", "a", FAILURE), ("s", "a", "")).flaky) == [0, 1]
    assert list(report(("s", "a", ""), ("s", "a", FAILURE)).flaky) == [0, 0]
    assert list(report(("s", "a", FAILURE), ("s", "a", FAILURE), ("s", "a", "")).flaky) == [0, 0, 1]


def test_a_failure_in_another_suite_is_no_attempt() -> None:
    read = report(("s", "a", FAILURE), ("u", "a", ""))
    assert (list(read.finals), list(read.attempts), list(read.flaky)) == ([1, 1], [1, 1], [0, 0])
    assert read.node_ids == ["t/test_x.py::test_a"]


def test_two_suites_of_one_name_are_two() -> None:
    """As when the reports of shards are merged: each has a suite `pytest`."""
    shards = (
        f'<testsuite name="pytest"><testcase name="test_a">{inside}</testcase></testsuite>' for inside in (FAILURE, "")
    )
    read = read_chunks([f"<testsuites>{''.join(shards)}</testsuites>".encode()])
    assert (list(read.finals), list(read.flaky), read.suites) == ([1, 1], [0, 0], ["pytest"])


def test_results_of_several_xdist_workers_are_no_attempts() -> None:
    cases = "".join(
        f'<testcase name="test_a"><properties><property name="xdist_worker" value="{worker}"/></properties>{inside}'
        "</testcase>"
        for worker, inside in (("gw0", FAILURE), ("gw1", ""), ("gw0", FAILURE))
    )
    read = read_chunks([f'<testsuite name="pytest">{cases}</testsuite>'.encode()])
    assert (list(read.finals), list(read.attempts), list(read.flaky)) == ([0, 1, 1], [1, 1, 2], [0, 0, 0])


def test_only_what_says_something_has_a_text() -> None:
    read = report(("s", "a", ""), ("s", "b", FAILURE), ("s", "c", "<system-out>hello</system-out>"))
    assert [(text.row, text.message, text.system_out) for text in read.texts] == [(1, "boom", ""), (2, "", "hello")]
    assert read.texts[0].signature


def test_many_suites_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.reports.reading.MAX_SUITES", 2)
    read = report(("a", "1", ""), ("b", "2", ""), ("c", "3", ""), ("d", "4", ""), ("a", "5", ""))
    assert read.suites == ["a", "b", "(other suites)"]
    assert list(read.row_suites) == [0, 1, 2, 2, 0]
    assert any("suites" in warning for warning in read.warnings)


def test_the_text_of_a_report_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.reports.reading.MAX_TEXT_BYTES", 100)
    loud = f"<system-out>{'x' * 200}</system-out>"
    read = report(("s", "a", loud), ("s", "b", loud), ("s", "c", loud + FAILURE))
    assert [(text.row, text.message, bool(text.system_out)) for text in read.texts] == [
        (0, "", True),
        (2, "boom", False),
    ]
    assert any("2 results was left out" in warning for warning in read.warnings)


def test_what_is_no_report() -> None:
    assert not read_chunks([b"<html><body>502</body></html>"]).is_report
    assert not read_chunks([b""]).is_report
    assert report(("s", "a", "")).is_report


def test_a_compressed_report_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("commands.reports.reading.MAX_UNPACKED", 1_000_000)
    file = tmp_path / "r.xml.gz"
    file.write_bytes(gzip.compress(b'<testsuite name="s"><testcase name="test_a"/>' + b" " * 50_000_000))
    read = read_report(file)
    assert (read.rows, read.is_unreadable) == (1, True)
    assert "unpacks to more than" in read.warnings[0]


def test_a_compressed_report_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "r.xml.gz"
    cases = "".join(f'<testcase name="test_{number}"/>' for number in range(1_000))
    file.write_bytes(gzip.compress(f'<testsuite name="s">{cases}</testsuite>'.encode())[:-20])
    read = read_report(file)
    assert (read.rows > 900, read.is_unreadable) == (True, True)


def test_record() -> None:
    read = report(("s", "a", FAILURE), ("s", "b", ""), ("u", "a", ""), ("u", "c", "<skipped message='later'/>"))
    new = NewCases(1, 4, 2, ["t/test_x.py::test_b", "t/test_x.py::test_c"], ["s", "u"])
    seen, block, summary = decided(command(read, new_cases=new), QUEUED, STARTED)
    assert seen == CasesSeen(project_id=1, first_case_id=2, node_ids=new.node_ids, suites=["s", "u"])
    assert isinstance(block, ResultsRecorded)
    assert (block.first_result_id, [*block.case_ids], [*block.suites]) == (100, [1, 2, 1, 3], [0, 0, 1, 1])
    assert (block.statuses, block.finals, block.attempts) == (b"\1\0\0\2", b"\1\1\1\1", b"\1\1\1\1")
    assert (block.commit, [text.row for text in block.texts]) == (commit_number("abc123"), [0, 3])
    assert isinstance(summary, ReportRecorded)
    counts = (summary.cases, summary.passed, summary.failed, summary.skipped, summary.known_issues)
    assert counts == (4, 2, 1, 1, 0)
    assert (summary.blocks, summary.suites, summary.duration_ms) == (1, ["s", "u"], 2_000)


def test_a_large_report_is_cut_into_blocks() -> None:
    read = report(*(("s", str(number), FAILURE if number % 700 == 0 else "") for number in range(2 * BLOCK_ROWS + 1)))
    *blocks, summary = decided(command(read), QUEUED, STARTED)
    sizes = [(block.first_result_id, len(block.case_ids)) for block in blocks if isinstance(block, ResultsRecorded)]
    assert sizes == [(100, 1_000), (1_100, 1_000), (2_100, 1)]
    texts = [[text.row for text in block.texts] for block in blocks if isinstance(block, ResultsRecorded)]
    assert texts == [[0, 700], [400], []]
    assert isinstance(summary, ReportRecorded)
    assert (summary.blocks, summary.cases, summary.failed) == (3, 2_001, 3)


def test_long_texts_end_a_block_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.reports.reading.BLOCK_TEXT", 50)
    loud = f"<system-out>{'x' * 30}</system-out>"
    read = report(*(("s", str(number), loud) for number in range(5)))
    assert list(read.blocks()) == [(0, 2), (2, 4), (4, 5)]


def test_an_empty_report_is_still_recorded() -> None:
    (summary,) = decided(command(read_chunks([b""])), QUEUED, STARTED)
    assert isinstance(summary, ReportRecorded)
    assert (summary.cases, summary.blocks) == (0, 0)
    assert summary.warnings


def test_known_issues_do_not_count_against_the_build() -> None:
    read = report(("s", "a", FAILURE))
    read.known_issues[0] = 1
    *_, summary = events = decided(command(read), QUEUED, STARTED)
    assert isinstance(summary, ReportRecorded)
    assert (summary.failed, summary.known_issues) == (1, 1)
    build = state(QUEUED, STARTED, *events)
    assert (build.failed, build.results_version) == (0, 1)


def test_a_pass_in_another_report_hides_no_failure() -> None:
    first = decided(command(report(("s", "a", FAILURE), ("s", "b", ""))), QUEUED, STARTED)
    second = decided(command(report(("s", "a", "")), path="rerun.xml"), QUEUED, STARTED, *first)
    assert state(QUEUED, STARTED, *first, *second).failed == 1


def test_the_same_report_again_is_nothing_new() -> None:
    asked = command(report(("s", "a", FAILURE)))
    events = decided(asked, QUEUED, STARTED)
    assert decided(asked, QUEUED, STARTED, *events) == []
    finished = BuildFinished(**IDS, status="failed")
    assert decided(asked, QUEUED, STARTED, *events, finished) == []


def test_other_bytes_at_the_same_path_are_one_more_report() -> None:
    first = decided(command(report(("s", "a", FAILURE))), QUEUED, STARTED)
    second = command(report(("s", "a", "")))
    events = decided(second, QUEUED, STARTED, *first)
    build = state(QUEUED, STARTED, *first, *events)
    assert ([known.path for known in build.reports], build.failed) == (["r.xml", "r-2.xml"], 1)
    assert decided(second, QUEUED, STARTED, *first, *events) == []


def test_a_replaced_report_counts_no_more() -> None:
    first = decided(command(report(("s", "a", FAILURE), ("s", "b", FAILURE))), QUEUED, STARTED)
    replacing = command(report(("s", "a", ""), ("s", "c", FAILURE)), is_replacement=True)
    *_, summary = second = decided(replacing, QUEUED, STARTED, *first)
    assert isinstance(summary, ReportRecorded)
    assert (summary.path, summary.replaces, summary.passed, summary.failed) == ("r.xml", 100, 1, -1)
    build = state(QUEUED, STARTED, *first, *second)
    assert build.failed == 1
    assert decided(replacing, QUEUED, STARTED, *first, *second) == []
    third = decided(command(report(("s", "a", "")), is_replacement=True, digest=b"3"), QUEUED, STARTED, *first, *second)
    assert state(QUEUED, STARTED, *first, *second, *third).failed == 0


def test_what_a_replaced_report_had_counts_no_more() -> None:
    *_, block, _ = first = decided(
        command(report(("s", "a", FAILURE), ("s", "b", FAILURE), ("s", "b", ""), ("u", "c", "<skipped/>"))),
        QUEUED,
        STARTED,
    )
    assert isinstance(block, ResultsRecorded)
    build = state(QUEUED, STARTED, *first)
    assert [(known.results_from, known.blocks) for known in build.reports] == [(0, 1)]
    replacing = command(report(("s", "a", "")), is_replacement=True, replaced_blocks=[block])
    replaced, *_, summary = second = decided(replacing, QUEUED, STARTED, *first)
    assert replaced == ResultsReplaced(**IDS, case_ids=Int32s([1, 2]), statuses=b"\1\0", flaky=b"\0\1")
    assert isinstance(summary, ReportRecorded)
    build = state(QUEUED, STARTED, *first, *second)
    assert build.results_version == 3
    assert [(known.results_from, known.blocks) for known in build.reports] == [(0, 1), (1, 2)]


def test_flaky_results_are_counted() -> None:
    read = report(("s", "a", FAILURE), ("s", "a", ""), ("s", "b", FAILURE), ("s", "c", ""), ("s", "d", ""))
    block, summary = decided(command(read, flips=bytes([0, 0, FLIPPED, DIFFERED, 0])), QUEUED, STARTED)
    assert isinstance(block, ResultsRecorded)
    assert block.flips == bytes([0, 0, FLIPPED, DIFFERED, 0])
    assert isinstance(summary, ReportRecorded)
    assert summary.flaky == 3


@pytest.mark.parametrize(
    ("path", "second"),
    [
        ("a.b/junit", "a.b/junit-2"),
        ("TEST-a.b.xml", "TEST-a.b-2.xml"),
        ("a/.xml", "a/.xml-2"),
        ("r.xml.gz", "r-2.xml.gz"),
    ],
)
def test_names_of_further_reports(path: str, second: str) -> None:
    assert list(islice(number_path(path), 2)) == [path, second]


EXTERNAL = msgspec.structs.replace(QUEUED, external=True)


def test_a_report_that_came_after_the_end_is_noted_and_does_not_count() -> None:
    history: tuple[Event, ...] = (EXTERNAL, BuildStarted(**IDS, node_id=None, attempt=1))
    history += (BuildFinished(**IDS, status="passed", detail="1 quarantined failure was ignored."),)
    first = command(report(("s", "a", FAILURE)))
    (late,) = decided(first, *history)
    assert isinstance(late, ReportRecorded)
    assert (late.cases, late.failed, late.blocks, late.warnings) == (0, 0, 0, [LATE])
    assert late.detail == "1 quarantined failure was ignored. The report r.xml came after the end and does not count."
    assert decided(first, *history, late) == []
    (again,) = decided(command(report(("s", "b", ""))), *history, late)
    assert isinstance(again, ReportRecorded)
    assert again.detail == (
        "1 quarantined failure was ignored. 2 reports came after the end and do not count: r.xml, r-2.xml."
    )
    assert state(*history, late, again).failed == 0


@pytest.mark.parametrize(
    "history",
    [
        (QUEUED,),
        (QUEUED, STARTED, BuildFinished(**IDS, status="aborted")),
        (QUEUED, STARTED, BuildRequeued(**IDS, node_id=3, attempt=1, reason="agent_lost")),
        (QUEUED, BuildStarted(**IDS, node_id=4, attempt=2)),
    ],
)
def test_builds_that_take_no_reports(history: tuple[Event, ...]) -> None:
    with pytest.raises(Conflict):
        decided(command(report(("s", "a", ""))), *history)


async def test_there_is_no_such_build(parts: Core) -> None:
    with pytest.raises(NotFound):
        await load_build(parts.log, 7)


INSIDES = ("", FAILURE, "<skipped/>", "<error message='e'/>", "<system-out>o</system-out>")
TESTS = st.lists(st.tuples(st.sampled_from("su"), st.sampled_from("abc"), st.sampled_from(INSIDES)), max_size=12)


@given(TESTS)
def test_columns_fit_together(tests: list[Test]) -> None:
    read = report(*tests)
    elements = [number for number, (_, cases) in enumerate(groupby(tests, key=itemgetter(0))) for _ in cases]
    names = [(element, name) for element, (_, name, _) in zip(elements, tests, strict=True)]
    columns = (
        read.tests,
        read.row_suites,
        read.durations_ms,
        read.attempts,
        read.finals,
        read.known_issues,
        read.flaky,
    )
    assert {len(column) for column in columns} == {read.rows} == {len(tests)}
    assert sum(read.finals) == len(set(names))
    assert len(read.node_ids) == len({name for _, name, _ in tests})
    for row, (suite, _, _) in enumerate(tests):
        assert read.suites[read.row_suites[row]] == suite
        assert read.attempts[row] == names[: row + 1].count(names[row])
        same = [other for other, name in enumerate(names) if name == names[row]]
        ran = [other for other in same if read.statuses[other] != SKIPPED]
        assert read.finals[row] == (row == (ran if ran and read.statuses[ran[-1]] == FAILED else same)[-1])
        assert not read.flaky[row] or (read.finals[row] and read.statuses[row] == PASSED)


@given(TESTS, st.integers(1, 5))
def test_counts_are_of_the_blocks(tests: list[Test], block_rows: int) -> None:
    read = report(*tests)
    read.cuts = list(range(0, max(read.rows, 1), block_rows))
    *blocks, summary = decided(command(read), QUEUED, STARTED)
    assert isinstance(summary, ReportRecorded)
    rows = [row for block in blocks for row in _rows(block)]
    assert len(rows) == summary.cases
    final = [status for status, is_final in rows if is_final]
    counts = (final.count(PASSED), final.count(FAILED), final.count(SKIPPED))
    assert counts == (summary.passed, summary.failed, summary.skipped)
    assert summary.blocks == len(blocks)


def _rows(block: Event) -> Iterator[tuple[int, int]]:
    assert isinstance(block, ResultsRecorded)
    return zip(block.statuses, block.finals, strict=True)


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        (None, 0),
        (["t.py::a", "t.py::b", "t.py::c[1]"], 0),
        (["t.py::a", "t.py::b", "t.py::c"], 0),
        (["t.py::a", "t.py::b::[part] (n=1)", "t.py::c"], 0),
        (["t.py::a", "t.py::c[2]"], 2),
    ],
)
def test_a_build_of_some_tests_says_that_it_ran_others(wanted: list[str] | None, others: int) -> None:
    cases = "".join(
        f'<testcase name="x"><properties><property name="nodeid" value="t.py::{name}"/></properties>{end}</testcase>'
        for name, end in (("a", ""), ("b", FAILURE), ("c[1]", ""), ("left out", "<skipped/>"))
    )
    read = read_chunks([f"<testsuite>{cases}</testsuite>".encode()])
    queued = msgspec.structs.replace(QUEUED, test_ids=wanted)
    *_, summary = decided(command(read), queued, STARTED)
    assert isinstance(summary, ReportRecorded)
    assert [f"has {others} others" in warning for warning in summary.warnings] == [True] * bool(others)
