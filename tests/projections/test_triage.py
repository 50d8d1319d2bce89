"""What was said of results, as rows; and what a deleted build takes along."""

from typing import Any

import hypothesis
from hypothesis import strategies as st

from domain import triage
from domain.builds import BuildDeleted
from domain.core.events import Event, Recorded
from domain.jobs import JobDeleted
from domain.known_issues import KnownIssueSearched
from domain.results import FAILED, PASSED, ResultText
from domain.triage import (
    TRIAGE,
    DefectLinked,
    KnownIssueLinked,
    ResolutionSet,
    ResultClassified,
    ResultsClassifiedByRules,
)
from projections import results
from projections.engine.model import DeleteRange, DeleteWhere
from projections.results import OutputsRow, ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import BlockRow
from projections.triage import PROJECTION, RuleMatchRow, TriageRow
from tests.projections.test_results import block
from tests.support.memory_rows import MemoryRows
from tests.support.spec import given
from tests.support.strategies import histories

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
OF_RESULT: dict[str, Any] = {"result_id": 700, **IDS}
BY_RULES = ResultsClassifiedByRules(**IDS, result_ids=[700, 703], known_issue_ids=[17, 9], classifications=b"\2\0")
CLASSIFIED = ResultClassified(**OF_RESULT, classification="flaky", set_by_kind="user", set_by=7)
LINKED = KnownIssueLinked(**OF_RESULT, known_issue_id=17, classification="infra")


def test_what_rules_say_lies_apart() -> None:
    rows = given(BY_RULES).when(PROJECTION)
    assert rows.all(RuleMatchRow) == [RuleMatchRow(700, 5, 17, 2), RuleMatchRow(703, 5, 9, 0)]
    assert rows.all(TriageRow) == []


def test_what_people_say_is_a_row() -> None:
    defect = DefectLinked(**OF_RESULT, defect_key="A-1", defect_url="https://jira/A-1")
    resolution = ResolutionSet(**OF_RESULT, resolution="fixed", set_by=8)
    row = given(CLASSIFIED, defect, resolution, LINKED).when(PROJECTION).one(TriageRow)
    assert row == TriageRow(
        id=700,
        job_id=5,
        classification="flaky",
        set_by_kind="user",
        set_by=7,
        defect_key="A-1",
        defect_url="https://jira/A-1",
        resolution="fixed",
        resolution_by=8,
        known_issue_id=17,
    )


def test_a_linked_issue_classifies_what_nobody_has() -> None:
    row = given(LINKED).when(PROJECTION).one(TriageRow)
    assert (row.classification, row.set_by_kind, row.known_issue_id) == ("infra", "user", 17)


def test_a_search_classifies_only_what_nobody_has() -> None:
    found = KnownIssueSearched(
        known_issue_id=17,
        project_id=1,
        edition=1,
        down_to=0,
        classification="infra",
        result_ids=[700, 703],
        job_ids=[5, 6],
    )
    theirs, ours = given(CLASSIFIED, found, found).when(PROJECTION).all(TriageRow)
    assert (theirs.classification, theirs.set_by_kind, theirs.known_issue_id) == ("flaky", "user", None)
    assert ours == TriageRow(703, 6, classification="infra", set_by_kind="rule", known_issue_id=17)


def test_a_deleted_job_leaves_no_rows() -> None:
    rows = given(CLASSIFIED, JobDeleted(job_id=5, project_id=1)).when(PROJECTION)
    assert rows.all(TriageRow) == []


def test_a_deleted_build_takes_its_rows_along_and_no_others() -> None:
    texts = [ResultText(0, "boom", system_out="out")]
    other = ResultClassified(**{**OF_RESULT, "result_id": 703}, classification="flaky", set_by_kind="ai")
    rows = given(
        block(7, FAILED, PASSED, PASSED, texts=texts),
        block(8, FAILED, PASSED, texts=texts),
        CLASSIFIED,
        other,
        BuildDeleted(**IDS, results=[(700, 3)]),
    ).when(results.PROJECTION, PROJECTION)
    assert [row.id for row in rows.all(ResultTextRow)] == [800]
    assert [row.first_result_id for row in rows.all(OutputsRow)] == [800]
    assert [row.id for row in rows.all(TriageRow)] == [703]


def test_every_table_of_results_is_swept() -> None:
    event = BuildDeleted(**IDS, results=[(700, 3), (900, 1)])
    swept: dict[str, list[Any]] = {}
    for projection in (results.PROJECTION, PROJECTION):
        for change in projection.apply(_recorded(event), MemoryRows()):
            assert isinstance(change, DeleteRange)
            span = change.first if isinstance(change, DeleteWhere) else (change.first, change.last)
            swept.setdefault(change.row.__name__, []).append(span)
    both = [(700, 702), (900, 900)]
    named = (BlockRow, ResultTextRow, OutputsRow, SupersededRow, RuleMatchRow, TriageRow)
    assert swept == {row.__name__: both for row in named} | {ReportRow.__name__: [7]}


@hypothesis.given(histories(*(event for event in triage.EVENTS if event is not ResultsClassifiedByRules)))
def test_a_row_says_what_the_stream_folds_to(history: list[Event]) -> None:
    for row in given(*history).when(PROJECTION).all(TriageRow):
        state = TRIAGE.at(row.id).fold(event for event in history if event.stream == f"result-{row.id}")
        assert {name: getattr(row, name) for name in state.__struct_fields__} == {
            name: getattr(state, name) for name in state.__struct_fields__
        }


@hypothesis.given(st.lists(st.sampled_from([BY_RULES, CLASSIFIED, LINKED, BuildDeleted(**IDS, results=[(700, 9)])])))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)


def _recorded(event: Event) -> Recorded:
    return Recorded(event.stream, 1, 1, event)
