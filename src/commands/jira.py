"""Commands on Jira integrations: create, update, record errors, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.errors import NotFound
from domain.core.events import AnyStream, Event
from domain.jira import (
    JIRA,
    Deployment,
    JiraIntegration,
    JiraIntegrationCreated,
    JiraIntegrationDeleted,
    JiraIntegrationFailing,
    JiraIntegrationRecovered,
    JiraIntegrationUpdated,
)
from domain.projects import PROJECT, Project


@dataclass(frozen=True)
class CreateJiraIntegration(Command):
    jira_id: int
    project_id: int | None
    deployment: Deployment
    title: str
    host: str
    email: str
    sealed_token: bytes
    project_key: str
    issue_type: str
    auto_create: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (JIRA.at(self.jira_id), *(() if self.project_id is None else (PROJECT.at(self.project_id),)))

    def decide(self, integration: JiraIntegration | None, *projects: Project | None) -> Iterable[Event]:
        if integration is not None:
            return
        if self.project_id is not None:
            must_be_open(projects[0], self.project_id)
        yield self.event(JiraIntegrationCreated)


@dataclass(frozen=True)
class UpdateJiraIntegration(Command, of=JIRA):
    """Changes the given fields. A field that is None stays unchanged."""

    jira_id: int
    title: str | None = None
    email: str | None = None
    sealed_token: bytes | None = None
    project_key: str | None = None
    issue_type: str | None = None
    auto_create: bool | None = None

    def decide(self, integration: JiraIntegration | None) -> Iterable[Event]:
        integration = must_exist(integration, f"Jira integration {self.jira_id}")
        yield from self.update(JiraIntegrationUpdated, integration, project_id=integration.project_id)


@dataclass(frozen=True)
class RecordJiraOutcome(Command, of=JIRA):
    """Records that writing a ticket failed, or that it succeeded again. Records an error only once, even if it comes
    back several times in a row.
    """

    jira_id: int
    error: str = ""
    """Why writing the ticket failed; empty if it succeeded."""

    def decide(self, integration: JiraIntegration | None) -> Iterable[Event]:
        if integration is None or integration.deleted or integration.error == self.error:
            return
        yield self.event(
            JiraIntegrationFailing if self.error else JiraIntegrationRecovered, integration, error=self.error
        )


@dataclass(frozen=True)
class DeleteJiraIntegration(Command, of=JIRA):
    jira_id: int

    def decide(self, integration: JiraIntegration | None) -> Iterable[Event]:
        if integration is None:
            raise NotFound(f"There is no Jira integration {self.jira_id}.")
        if not integration.deleted:
            yield self.event(JiraIntegrationDeleted, integration)
