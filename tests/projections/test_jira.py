"""Jira integrations as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import jira
from domain.core.events import Event
from domain.jira import (
    JiraIntegrationCreated,
    JiraIntegrationDeleted,
    JiraIntegrationFailing,
    JiraIntegrationRecovered,
    JiraIntegrationUpdated,
)
from domain.projects import ProjectDeleted
from projections.jira import PROJECTION, JiraRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
CREATED = JiraIntegrationCreated(
    at=NOW,
    jira_id=5,
    project_id=3,
    deployment="cloud",
    auto_create=True,
    title="ACME",
    host="https://acme.atlassian.net",
    email="u@acme.com",
    sealed_token=b"t",
    project_key="BACK",
    issue_type="Bug",
)
HOST = "https://acme.atlassian.net"
ROW = JiraRow(5, 3, "ACME", HOST, "u@acme.com", "BACK", "Bug", "cloud", True, NOW, NOW)


def test_an_integration_changes() -> None:
    assert given(CREATED).when(PROJECTION).one(JiraRow) == ROW
    updated = JiraIntegrationUpdated(
        at=LATER, jira_id=5, project_id=3, title="New", project_key="QA", sealed_token=b"u"
    )
    row = JiraRow(5, 3, "New", HOST, "u@acme.com", "QA", "Bug", "cloud", True, NOW, LATER)
    assert given(CREATED, updated).when(PROJECTION).one(JiraRow) == row


def test_the_last_error_is_shown_until_a_ticket_is_written() -> None:
    failing = JiraIntegrationFailing(at=LATER, jira_id=5, project_id=3, error="no project")
    row = given(CREATED, failing).when(PROJECTION).one(JiraRow)
    assert (row.last_error, row.last_error_at) == ("no project", LATER)
    recovered = JiraIntegrationRecovered(at=LATER, jira_id=5, project_id=3)
    assert given(CREATED, failing, recovered).when(PROJECTION).one(JiraRow) == ROW


def test_what_is_deleted_leaves_no_row() -> None:
    for end in (JiraIntegrationDeleted(jira_id=5, project_id=3), ProjectDeleted(project_id=3)):
        assert given(CREATED, end).when(PROJECTION).all(JiraRow) == []


@hypothesis.given(histories(*jira.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
