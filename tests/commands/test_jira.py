"""Decisions about Jira integrations."""

from typing import Any

import hypothesis
import pytest

from commands.jira import (
    CreateJiraIntegration,
    DeleteJiraIntegration,
    RecordJiraOutcome,
    UpdateJiraIntegration,
)
from domain import jira
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jira import (
    JIRA,
    JiraIntegrationCreated,
    JiraIntegrationDeleted,
    JiraIntegrationFailing,
    JiraIntegrationRecovered,
    JiraIntegrationUpdated,
    find_deployment,
)
from domain.projects import ProjectClosed, ProjectCreated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=3, title="Web", slug="web", sealed_webhook_secret=b"")
ABOUT: dict[str, Any] = {"jira_id": 5, "project_id": 3}
FIELDS: dict[str, Any] = {
    "deployment": "cloud",
    "title": "ACME",
    "host": "https://acme.atlassian.net",
    "email": "u@acme.com",
    "sealed_token": b"t",
    "project_key": "BACK",
    "issue_type": "Bug",
    "auto_create": True,
}
CREATED = JiraIntegrationCreated(**ABOUT, **FIELDS)
CREATE = CreateJiraIntegration(**ABOUT, **FIELDS)
DELETED = JiraIntegrationDeleted(**ABOUT)


def test_create() -> None:
    given(PROJECT).when(CREATE).then(CREATED)
    given(PROJECT, CREATED).when(CREATE).then_nothing()
    of_all: dict[str, Any] = {"jira_id": 5, "project_id": None}
    given().when(CreateJiraIntegration(**of_all, **FIELDS)).then(JiraIntegrationCreated(**of_all, **FIELDS))
    with pytest.raises(NotFound, match="no project 3"):
        given().when(CREATE)
    with pytest.raises(Conflict, match="being deleted"):
        given(PROJECT, ProjectClosed(project_id=3)).when(CREATE)


def test_update_records_what_changed() -> None:
    given(CREATED).when(UpdateJiraIntegration(5, project_key="QA", title="ACME", auto_create=False)).then(
        JiraIntegrationUpdated(**ABOUT, project_key="QA", auto_create=False)
    )
    given(CREATED).when(UpdateJiraIntegration(5, email="u@acme.com")).then_nothing()
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(UpdateJiraIntegration(5, title="x"))


def test_an_error_is_recorded_once() -> None:
    failing = JiraIntegrationFailing(**ABOUT, error="no project")
    given(CREATED).when(RecordJiraOutcome(5, "no project")).then(failing)
    given(CREATED, failing).when(RecordJiraOutcome(5, "no project")).then_nothing()
    given(CREATED, failing).when(RecordJiraOutcome(5, "")).then(JiraIntegrationRecovered(**ABOUT))
    given(CREATED).when(RecordJiraOutcome(5, "")).then_nothing()
    given(CREATED, DELETED).when(RecordJiraOutcome(5, "late")).then_nothing()


def test_delete() -> None:
    given(CREATED).when(DeleteJiraIntegration(5)).then(DELETED)
    given(CREATED, DELETED).when(DeleteJiraIntegration(5)).then_nothing()


def test_the_deployment_follows_from_the_host() -> None:
    assert find_deployment("https://acme.atlassian.net") == "cloud"
    assert find_deployment("https://atlassian.net.example.com") == "data_center"


@hypothesis.given(histories(*jira.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(JIRA, history)


@hypothesis.given(commands(UpdateJiraIntegration), histories(ProjectCreated, *jira.EVENTS))
def test_decided_once(made: UpdateJiraIntegration, history: list[Event]) -> None:
    is_decided_once(made, history)
