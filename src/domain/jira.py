"""Jira integrations: connections to a Jira project in which tickets for failures are created."""

from typing import ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from domain.core.data_keys import jira_key
from domain.core.events import Category, Event, changes_of, copy_fields

Deployment = Literal["cloud", "data_center"]
"""Kind of Jira: Atlassian's cloud, or a company's own server. These values are stored, so they must not change."""

CLOUD_DOMAIN = ".atlassian.net"
"""End of the host names of Jira Cloud."""


class JiraEvent(Event, frozen=True):
    jira_id: int
    project_id: int | None
    """Id of the project; None for an integration of all projects."""

    @property
    def stream(self) -> str:
        return f"jira-{self.jira_id}"

    @property
    def data_key(self) -> str | None:
        return jira_key(self.project_id, self.jira_id)


class JiraIntegrationCreated(JiraEvent, frozen=True):
    name: ClassVar[str] = "jira_integration.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "host", "email", "sealed_token", "project_key", "issue_type")
    deployment: Deployment
    auto_create: bool
    title: str = ""
    host: str = ""
    """Base URL of Jira, without a slash at its end."""
    email: str = ""
    sealed_token: bytes = b""
    project_key: str = ""
    issue_type: str = ""


class JiraIntegrationUpdated(JiraEvent, frozen=True):
    """The integration was changed. A field that is None is unchanged."""

    name: ClassVar[str] = "jira_integration.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "email", "sealed_token", "project_key", "issue_type")
    title: str | None = None
    email: str | None = None
    sealed_token: bytes | None = None
    project_key: str | None = None
    issue_type: str | None = None
    auto_create: bool | None = None


class JiraIntegrationFailing(JiraEvent, frozen=True):
    """A ticket could not be written, because Jira refused it or could not be reached. Of several failures in a row with
    the same error, only the first is recorded.
    """

    name: ClassVar[str] = "jira_integration.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class JiraIntegrationRecovered(JiraEvent, frozen=True):
    name: ClassVar[str] = "jira_integration.recovered"


class JiraIntegrationDeleted(JiraEvent, frozen=True):
    name: ClassVar[str] = "jira_integration.deleted"
    destroys_key: ClassVar[bool] = True


class JiraIntegration(msgspec.Struct, frozen=True):
    jira_id: int
    project_id: int | None
    deployment: Deployment
    auto_create: bool
    title: str
    host: str
    email: str
    sealed_token: bytes
    project_key: str
    issue_type: str
    error: str = ""
    """Why the last ticket could not be written; empty if it was written."""
    deleted: bool = False


def find_deployment(host: str) -> Deployment:
    """Returns the kind of Jira that a base URL most likely leads to."""
    return "cloud" if (urlsplit(host).hostname or "").endswith(CLOUD_DOMAIN) else "data_center"


def evolve(state: JiraIntegration | None, event: Event) -> JiraIntegration | None:
    match event:
        case JiraIntegrationCreated():
            return copy_fields(JiraIntegration, event)
        case JiraIntegrationUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case JiraIntegrationFailing() if state is not None:
            return msgspec.structs.replace(state, error=event.error)
        case JiraIntegrationRecovered() if state is not None:
            return msgspec.structs.replace(state, error="")
        case JiraIntegrationDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


JIRA = Category[JiraIntegration | None]("jira", None, evolve)
EVENTS = (
    JiraIntegrationCreated,
    JiraIntegrationUpdated,
    JiraIntegrationFailing,
    JiraIntegrationRecovered,
    JiraIntegrationDeleted,
)
