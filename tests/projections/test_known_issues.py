"""Known issues as rows."""

from datetime import UTC, datetime, timedelta

import hypothesis

from domain import known_issues
from domain.core.events import Event
from domain.known_issues import (
    KnownIssueCreated,
    KnownIssueDeleted,
    KnownIssueFailureAdded,
    KnownIssueSearched,
    KnownIssueUpdated,
)
from projections.known_issues import PROJECTION, IssueFailureRow, KnownIssueRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CREATED = KnownIssueCreated(
    at=NOW,
    known_issue_id=17,
    project_id=1,
    title="Flaky DB",
    classification="infra",
    kind="pattern",
    value="ECONN",
    defect_key="A-1",
)
TAUGHT = KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=1, fail_id="f", signature="s")


def test_a_known_issue_changes() -> None:
    update = KnownIssueUpdated(
        at=LATER, known_issue_id=17, project_id=1, kind="signature", value="s", cleared=("defect_key",)
    )
    row = given(CREATED, update).when(PROJECTION).one(KnownIssueRow)
    assert row == KnownIssueRow(17, 1, "Flaky DB", "infra", "signature", "s", None, None, NOW, LATER, 2)


def test_a_search_is_over_when_it_came_to_the_end() -> None:
    def searched(down_to: int) -> KnownIssueSearched:
        return KnownIssueSearched(
            known_issue_id=17, project_id=1, edition=1, down_to=down_to, classification="infra", result_ids=[9]
        )

    rows = given(CREATED, searched(9)).when(PROJECTION)
    assert rows.one(KnownIssueRow).searched == 0
    assert rows.apply(searched(0)).one(KnownIssueRow).searched == 1


def test_what_it_learnt_are_rows_of_their_own() -> None:
    rows = given(CREATED, TAUGHT, TAUGHT).when(PROJECTION)
    assert rows.all(IssueFailureRow) == [
        IssueFailureRow(17, 1, "fail_id", "f"),
        IssueFailureRow(17, 1, "signature", "s"),
    ]
    rows.apply(KnownIssueDeleted(known_issue_id=17, project_id=1))
    assert (rows.all(IssueFailureRow), rows.all(KnownIssueRow)) == ([], [])


@hypothesis.given(histories(*known_issues.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
