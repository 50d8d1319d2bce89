"""Jira integrations: Jira projects in which the server creates tickets for failures."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import Id, Name, to_view
from api.projects import find_visible_project
from commands.jira import CreateJiraIntegration, DeleteJiraIntegration, UpdateJiraIntegration
from commands.value_checks import described_as
from domain.core.errors import Forbidden, NotFound
from domain.jira import JIRA, Deployment, JiraIntegrationCreated, find_deployment
from integrations.ticket_ports import NewIntegration, TicketFailure
from projections import jira
from projections.jira import JiraRow, new_row

Host = Annotated[str, Meta(min_length=1, max_length=1_000), described_as(format="https-url")]
JiraEmail = Annotated[
    str, Meta(min_length=1, max_length=254, pattern=r"^[^\s:]+\Z", description="an email address, without a colon")
]
ApiToken = Annotated[str, Meta(min_length=1, max_length=10_000), described_as(pattern="^[!-~]+$")]
ProjectKey = Annotated[str, Meta(min_length=2, max_length=100), described_as(pattern="^[A-Z][A-Z0-9_]+$")]


class NewJiraIntegration(msgspec.Struct):
    """A new Jira integration. It serves the project `testhide_project_id` or, without one, all projects."""

    name: Name
    host: Host
    """Base URL of Jira, over https, such as `https://acme.atlassian.net`."""
    email: JiraEmail
    """Email of the Atlassian account that the API token belongs to."""
    api_token: ApiToken
    """API token of Jira Cloud, or personal access token of Jira Data Center. Write-only."""
    project_key: ProjectKey
    auto_create: bool = False
    """Whether new failures become tickets."""
    issue_type: Name = "Bug"
    testhide_project_id: Id | None = None
    """Id of the project whose failures become tickets; null if the failures of all projects do."""
    deployment: Deployment | None = None
    """Kind of Jira; by default `cloud` for hosts below `atlassian.net` and `data_center` for others."""


class JiraIntegrationChanges(msgspec.Struct):
    """Changes of a Jira integration. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    email: JiraEmail | UnsetType = UNSET
    """Email of the Atlassian account that the API token belongs to."""
    api_token: ApiToken | UnsetType = UNSET
    """New API token."""
    project_key: ProjectKey | UnsetType = UNSET
    auto_create: bool | UnsetType = UNSET
    """Whether new failures become tickets."""
    issue_type: Name | UnsetType = UNSET


class JiraIntegrationItem(msgspec.Struct):
    id: int
    name: str
    host: str
    """Base URL of Jira."""
    email: str
    """Email of the Atlassian account that the API token belongs to."""
    project_key: str
    auto_create: bool
    """Whether new failures become tickets."""
    issue_type: str
    testhide_project_id: int | None
    """Id of the project whose failures become tickets; null if the failures of all projects do."""
    deployment: Deployment
    """Kind of Jira."""
    last_error: str | None
    """Error of the last attempt to write a ticket; null if that attempt succeeded, or if there was none."""
    last_error_at: datetime | None
    """Time at which writing tickets began to fail with `last_error`; null without an error."""
    created_at: datetime
    updated_at: datetime


class TestedJiraIntegration(msgspec.Struct):
    ok: bool
    """Whether tickets can be created, as far as Jira can tell without creating one."""
    error: str
    """A sentence that says what is wrong; empty if nothing is."""


class JiraController(Controller):
    path = "/jira"
    tags = ["Jira"]

    @get(guards=[CAN_READ])
    async def list_jira_integrations(self, ctx: RequestContext, paged: Paged) -> Response[list[JiraIntegrationItem]]:
        """Returns a page of the Jira integrations of the caller's projects, ordered by id. Admins also see the
        integrations that serve all projects.
        """
        found = await jira.fetch_page(ctx.source, ctx.user.projects, **paged.window)
        return paginate(ctx.request, paged, [to_item(row) for row in found])

    @post(guards=[PROJECT_ADMINS])
    async def create_jira_integration(self, ctx: RequestContext, data: NewJiraIntegration) -> JiraIntegrationItem:
        """Connects a Jira project. The account of the token needs only the rights to create issues and to comment on
        them.
        """
        if data.testhide_project_id is not None:
            await find_visible_project(ctx, data.testhide_project_id)
        elif not ctx.user.is_admin:
            raise Forbidden("Only admins have Jira integrations of all projects; give a testhide_project_id.")
        host = (data.host if "://" in data.host else f"https://{data.host}").rstrip("/")
        entered = NewIntegration(host, data.api_token, data.project_key)
        await ctx.services.ticket_hosts.check(entered, is_admin=ctx.user.is_admin)
        receipt = await ctx(
            CreateJiraIntegration(
                jira_id=await ctx.services.ids.draw("jira"),
                project_id=data.testhide_project_id,
                deployment=data.deployment or find_deployment(host),
                title=data.name,
                host=host,
                email=data.email,
                sealed_token=ctx.services.secrets.seal(data.api_token),
                project_key=data.project_key,
                issue_type=data.issue_type,
                auto_create=data.auto_create,
            )
        )
        created = receipt.events[0].event
        assert isinstance(created, JiraIntegrationCreated)
        return to_item(new_row(created))

    @get("/{id:int}", guards=[CAN_READ])
    async def get_jira_integration(self, ctx: RequestContext, id: int) -> JiraIntegrationItem:
        """Returns a Jira integration without its token."""
        return to_item(await find_visible(ctx, id))

    @put("/{id:int}", guards=[PROJECT_ADMINS])
    async def update_jira_integration(
        self, ctx: RequestContext, id: int, data: JiraIntegrationChanges
    ) -> JiraIntegrationItem:
        """Changes a Jira integration, for example its token or the Jira project for its tickets. The `host` cannot be
        changed.
        """
        await find_visible(ctx, id)
        token = "" if data.api_token is UNSET else data.api_token
        entered = NewIntegration("", token, "" if data.project_key is UNSET else data.project_key)
        await ctx.services.ticket_hosts.check(entered, is_admin=ctx.user.is_admin)
        await ctx(
            UpdateJiraIntegration(
                id,
                title=None if data.name is UNSET else data.name,
                email=None if data.email is UNSET else data.email,
                sealed_token=ctx.services.secrets.seal(token) if token else None,
                project_key=None if data.project_key is UNSET else data.project_key,
                issue_type=None if data.issue_type is UNSET else data.issue_type,
                auto_create=None if data.auto_create is UNSET else data.auto_create,
            )
        )
        return to_item(await find_visible(ctx, id))

    @delete("/{id:int}", guards=[PROJECT_ADMINS])
    async def delete_jira_integration(self, ctx: RequestContext, id: int) -> None:
        """Deletes a Jira integration. Its tickets stay in Jira, and results stay linked to them."""
        await find_visible(ctx, id)
        await ctx(DeleteJiraIntegration(id))

    @post("/{id:int}/test", status_code=200, guards=[PROJECT_ADMINS])
    async def test_jira_integration(self, ctx: RequestContext, id: int) -> TestedJiraIntegration:
        """Asks Jira whether the token, the project and the issue type can be used. Creates nothing."""
        await find_visible(ctx, id)
        integration = await ctx.log.load_state(JIRA.at(id))
        if integration is None or integration.deleted:
            raise NotFound(f"There is no Jira integration {id}.")
        try:
            await ctx.services.ticket_hosts.open(integration).check()
        except TicketFailure as error:
            return TestedJiraIntegration(False, str(error))
        return TestedJiraIntegration(True, "")


async def find_visible(ctx: RequestContext, jira_id: int) -> JiraRow:
    """Returns the row of an integration. Raises NotFound if the user cannot see the integration, and Forbidden if the
    user's access is lower than the route requires. Only admins see integrations that serve all projects.
    """
    row = await ctx.find(jira.find, "Jira integration", jira_id)
    if row.project_id is not None:
        await ctx.must_access(row.project_id, f"Jira integration {jira_id}")
    elif not ctx.user.is_admin:
        raise NotFound(f"There is no Jira integration {jira_id}.")
    return row


def to_item(row: JiraRow) -> JiraIntegrationItem:
    return to_view(JiraIntegrationItem, row, testhide_project_id=row.project_id)
