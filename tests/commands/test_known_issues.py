"""Known issues, and what they match of a report."""

import time
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, NoteSearch, UpdateKnownIssue
from commands.reports.matching import MatchRules
from commands.reports.patterns import MAX_TEXT, Pattern, any_of, must_be_a_pattern, searchable
from commands.reports.reading import Match, ReportRead, read_chunks
from domain import known_issues, projects
from domain.builds import ReportRecorded
from domain.core.errors import Invalid, NotFound
from domain.core.events import Event
from domain.known_issues import (
    KNOWN_ISSUE,
    KnownIssueCreated,
    KnownIssueDeleted,
    KnownIssueFailureAdded,
    KnownIssueSearched,
    KnownIssueUpdated,
    MatchRule,
)
from domain.projects import ProjectCreated
from domain.triage import CLASSIFICATIONS, ResultsClassifiedByRules
from tests.commands import test_results
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"")
CREATED = KnownIssueCreated(
    known_issue_id=17, project_id=1, title="Flaky DB", classification="infra", kind="pattern", value="ECONN(RESET)?"
)
DELETED = KnownIssueDeleted(known_issue_id=17, project_id=1)
CREATE = CreateKnownIssue(17, 1, "Flaky DB", "infra", "pattern", "ECONN(RESET)?")


def failing(*failures: tuple[str, str, str]) -> ReportRead:
    """A report of failures: (fail_id, message, trace)."""
    cases = "".join(
        f'<testcase classname="t" name="t{number}" fail_id="{fail_id}"><failure message="{message}">{trace}</failure>'
        "</testcase>"
        for number, (fail_id, message, trace) in enumerate(failures)
    )
    return read_chunks([f"<testsuite name='s'>{cases}</testsuite>".encode()])


def rule(number: int, kind: Any, value: str, classification: Any = "infra") -> MatchRule:
    return MatchRule(number, classification, kind, value)


def matched(rules: list[MatchRule], report: ReportRead) -> list[tuple[int, int]]:
    return [(match.row, match.known_issue_id) for match in MatchRules(rules).find_matches(report)]


def test_create() -> None:
    given(PROJECT).when(CREATE).then(CREATED)
    given(PROJECT, CREATED).when(CREATE).then_nothing()
    with pytest.raises(NotFound, match="project 1"):
        given().when(CREATE)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(a", "missing )"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=a)", "invalid perl operator"),
        ("x" * 1_001, "at most 1,000"),
        (".*", "every failure"),
        ("x*", "every failure"),
        (r"\pL{1000}", "too large"),
    ],
)
def test_patterns_are_checked(pattern: str, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        must_be_a_pattern("pattern", pattern)
    (error,) = caught.value.errors
    assert (error.field, says in error.message) == ("pattern", True), error.message
    with pytest.raises(Invalid):
        given(CREATED).when(UpdateKnownIssue(17, match=("pattern", pattern)))


def test_only_what_changes_is_told() -> None:
    command = UpdateKnownIssue(
        17, title="Flaky DB", classification="flaky", match=("signature", "s1"), defect_key="A-1"
    )
    updated = KnownIssueUpdated(
        known_issue_id=17, project_id=1, classification="flaky", kind="signature", value="s1", defect_key="A-1"
    )
    given(CREATED).when(command).then(updated)
    given(CREATED, updated).when(command).then_nothing()
    cleared = KnownIssueUpdated(known_issue_id=17, project_id=1, cleared=("defect_key",))
    given(CREATED, updated).when(UpdateKnownIssue(17, cleared=("defect_key", "defect_url"))).then(cleared)
    state = KNOWN_ISSUE.at(17).fold([CREATED, updated, cleared])
    assert state is not None
    assert (state.defect_key, state.kind) == (None, "signature")


def test_delete() -> None:
    given(CREATED).when(DeleteKnownIssue(17)).then(DELETED)
    given(CREATED, DELETED).when(DeleteKnownIssue(17)).then_nothing()
    with pytest.raises(NotFound):
        given().when(DeleteKnownIssue(17))
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(UpdateKnownIssue(17, title="x"))


def searched(down_to: int, *found: tuple[int, int], edition: int = 1) -> KnownIssueSearched:
    return KnownIssueSearched(
        known_issue_id=17,
        project_id=1,
        edition=edition,
        down_to=down_to,
        classification="infra",
        result_ids=[result_id for result_id, _ in found],
        job_ids=[job_id for _, job_id in found],
    )


def test_what_a_search_finds_is_noted_once() -> None:
    first, last = NoteSearch(17, 1, 500, [(600, 5), (510, 6)]), NoteSearch(17, 1, 0, [])
    given(CREATED).when(first).then(searched(500, (600, 5), (510, 6)))
    given(CREATED, searched(500)).when(first).then_nothing()
    given(CREATED, searched(500)).when(last).then(searched(0))
    assert given(CREATED, searched(0)).when(first) == [], "another search was faster"
    given(CREATED, DELETED).when(first).then_nothing()


def test_an_issue_that_changed_is_searched_for_anew() -> None:
    def updated(**changes: Any) -> KnownIssueUpdated:
        return KnownIssueUpdated(known_issue_id=17, project_id=1, **changes)

    late, again = NoteSearch(17, 1, 0, [(600, 5)]), NoteSearch(17, 2, 300, [(600, 5)])
    for change in (updated(classification="flaky"), updated(kind="fail_id", value="f")):
        assert given(CREATED, searched(500), change).when(late) == [], "it is of the edition before"
        (event,) = given(CREATED, searched(0), change).when(again)
        assert isinstance(event, KnownIssueSearched)
        assert (event.edition, event.classification) == (2, change.classification or "infra")
    assert given(CREATED, updated(title="Other")).when(again) == [], "its title says nothing of failures"


def test_it_knows_what_it_was_taught() -> None:
    taught = KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=1, fail_id="f", signature="s")
    state = KNOWN_ISSUE.at(17).fold([CREATED, taught])
    assert state is not None
    assert state.knows("fail_id", "f")
    assert state.knows("signature", "s")
    assert state.knows("pattern", "ECONN(RESET)?")
    assert not state.knows("signature", "f")


@pytest.mark.parametrize(
    ("kind", "fixed"),
    [
        (CreateKnownIssue, {}),
        (UpdateKnownIssue, {"match": st.none() | st.just(("signature", "a"))}),
        (NoteSearch, {"found": st.just([(1, 5)])}),
        (DeleteKnownIssue, {}),
    ],
)
def test_deciding_again_does_nothing(kind: type[Any], fixed: dict[str, Any]) -> None:

    @hypothesis.given(commands(kind, **fixed), histories(*known_issues.EVENTS, *projects.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*known_issues.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(KNOWN_ISSUE, history)


def test_a_fail_id_says_most_then_a_signature_then_a_pattern() -> None:
    report = failing(("f1", "boom", "t"), ("f2", "boom", "t"), ("", "other ECONNRESET", "t"))
    signature = report.texts[0].signature
    assert signature == report.texts[1].signature
    rules = [rule(1, "pattern", "."), rule(2, "signature", signature), rule(3, "fail_id", "f1")]
    assert matched(rules, report) == [(0, 3), (1, 2), (2, 1)]
    assert matched([], report) == []


def test_of_equals_the_older_one_matches() -> None:
    report = failing(("f1", "boom", "t"))
    assert matched([rule(9, "fail_id", "f1"), rule(2, "fail_id", "f1")], report) == [(0, 2)]
    assert matched([rule(9, "pattern", "boom"), rule(2, "pattern", "b.*m")], report) == [(0, 2)]


def test_patterns_see_message_and_trace_and_nothing_else() -> None:
    report = failing(("", "in the message", "in the trace"), ("", "x", "y"))
    assert matched([rule(1, "pattern", "in the message(?s:.)*in the trace")], report) == [(0, 1)]
    passed = read_chunks([b"<testsuite><testcase name='a'><system-out>boom</system-out></testcase></testsuite>"])
    assert matched([rule(1, "pattern", "boom")], passed) == []


def test_patterns_see_only_so_much() -> None:
    assert len(searchable("x" * 10, "\u00e4" * MAX_TEXT)) == MAX_TEXT
    report = failing(("", "m", "x" * MAX_TEXT + "late"))
    assert matched([rule(1, "pattern", "late")], report) == []
    assert Pattern("\u00e4{2}\n").matches(searchable("\ud800 \u00e4\u00e4", "t"))


def test_a_pattern_that_no_re2_takes_is_left_out() -> None:
    report = failing(("", "boom", "t"))
    assert matched([rule(1, "pattern", "(bo"), rule(2, "pattern", "boom")], report) == [(0, 2)]


@pytest.mark.parametrize(
    "patterns",
    [
        ("x", "boom|(?i)BANG"),
        ("(?P<a>x)", "(?P<a>boom)"),
        (r"\Qx", "boom"),
        (r"\Qx bo\Eo", r"\\Q"),
        ("boom$", "^x"),
        ("x)|(?:x", "boom"),
    ],
)
def test_many_patterns_match_what_each_does(patterns: tuple[str, ...]) -> None:
    report = failing(("", "boom", ""), ("", "Bang", ""), ("", "other", "t"), ("", "x boom", "t"))
    rules = [rule(number, "pattern", pattern) for number, pattern in enumerate(patterns, start=1)]
    one_by_one = {
        row: number for number, alone in reversed(list(enumerate(rules, 1))) for row, _ in matched([alone], report)
    }
    assert matched(rules, report) == [(row, number) for row, number in sorted(one_by_one.items())]


def test_patterns_that_cannot_stand_beside_each_other() -> None:
    both = any_of(["(?i)x", "y", r"\Qa.b", r"\Qc|\E+"])
    assert both is not None
    texts = (b"X", b"y", b"Y", b"a.b", b"acb", b"c||", b"c")
    assert [both.matches(text) for text in texts] == [True, True, False, True, False, True, False]


def test_evil_patterns_are_linear() -> None:
    report = failing(("", "a" * 30_000, "t"))
    began = time.monotonic()
    assert matched([rule(1, "pattern", "(a+)+b"), rule(2, "pattern", "(a|a)*c")], report) == []
    assert time.monotonic() - began < 2


def test_all_automatic_classifications_of_a_report_are_one_event() -> None:
    read = failing(*[(f"f{number % 2}", "boom", "t") for number in range(2_500)])
    matches = MatchRules([rule(17, "fail_id", "f1", "flaky")]).find_matches(read)
    assert matches[0] == Match(1, 17, "flaky")
    events = test_results.decided(
        test_results.command(read, matches=matches), test_results.QUEUED, test_results.STARTED
    )
    (classified,) = (event for event in events if isinstance(event, ResultsClassifiedByRules))
    assert classified.result_ids == list(range(101, 2_600, 2))
    assert set(classified.known_issue_ids) == {17}
    assert {CLASSIFICATIONS[index] for index in classified.classifications} == {"flaky"}
    summary = events[-1]
    assert isinstance(summary, ReportRecorded)
    build = test_results.state(test_results.QUEUED, test_results.STARTED, *events)
    assert build is not None
    assert summary.blocks == build.results_version == len(events) - 1
    assert build.failed == 2_500, "what is understood is still broken"
