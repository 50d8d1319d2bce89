"""SCM endpoints: connect projects to repositories at source code hosts, and read branches and commits there."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, to_view
from api.projects import find_visible_project
from commands.handler import must_exist
from commands.scm import CreateScmEndpoint, DeleteScmEndpoint, UpdateScmEndpoint
from domain.core.errors import (
    FieldError,
    Invalid,
    NotFound,
    OutsideFailure,
    OutsideTimeout,
    Unavailable,
    collect_errors,
)
from domain.scm import SCM_ENDPOINT, ScmEndpointCreated, ScmType, normalize_host
from integrations.source_ports import (
    NewSource,
    SourceFailure,
    SourceHost,
    SourceNotFound,
    SourceUnavailable,
)
from projections import scm
from projections.scm import ScmEndpointRow, new_row

RETRY_AFTER_S = 10
"""Seconds after which the caller may try again, sent in `Retry-After` if the source code host gives no other time."""

Repo = Annotated[str, Meta(min_length=1, max_length=1_000)]
Token = Annotated[str, Meta(min_length=1, max_length=10_000)]
Host = Annotated[str, Meta(min_length=1, max_length=1_000)]
OUTSIDE = {"problems": (OutsideFailure, Unavailable, OutsideTimeout)}


class NewScmEndpoint(msgspec.Struct):
    type: ScmType
    """Kind of host: `github`, `gitlab`, `bitbucket`, or `git` for any other git server."""
    name: Name
    project_id: Id
    repo: Repo
    token: Token | None
    """Token that can read the repository and set statuses of commits. For a GitHub App, the private key of the app as
    PEM. Only for the type `git`, the token may be null.
    """
    host: Host | None = None
    app_id: Id | None = None
    installation_id: Id | None = None


class ScmEndpointChanges(msgspec.Struct):
    """Changes of an SCM endpoint. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    repo: Repo | UnsetType = UNSET
    token: Token | UnsetType = UNSET
    """New token. It is also required if the endpoint moves to another server, since the stored token is not sent to
    that server.
    """
    host: Annotated[str, Meta(max_length=1_000)] | UnsetType | None = UNSET
    """Base URL of a self-hosted server; null for the public host. An empty text is accepted only if GET returns an
    empty `host` for this endpoint.
    """


class ScmEndpointItem(msgspec.Struct):
    id: int
    type: ScmType
    """Kind of host: `github`, `gitlab`, `bitbucket`, or `git` for any other git server."""
    host: str
    """Name of the host; empty for a repository in a folder of the server."""
    name: str
    project_id: int
    repo: str
    has_token: bool
    """Whether a token is stored. It is never shown."""
    app_id: int | None
    installation_id: int | None
    created_at: datetime
    updated_at: datetime


class UpdatedScmEndpoint(ScmEndpointItem):
    updated: bool
    """Whether the request changed anything."""


class CommitItem(msgspec.Struct):
    sha: str
    message: str
    """First line of the commit message."""
    author: str
    """Name of the author."""
    date: datetime
    """Time of the commit."""


class TestedScmEndpoint(msgspec.Struct):
    ok: bool
    """Whether the server can read the repository and set statuses of its commits."""
    error: str
    """Sentence that says what is wrong; empty if nothing is wrong."""


class ScmController(Controller):
    path = "/scm"
    tags = ["SCM Endpoints"]

    @get(guards=[CAN_READ])
    async def list_scm_endpoints(
        self,
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by project")] = None,
    ) -> Response[list[ScmEndpointItem]]:
        """Returns a page of the SCM endpoints of the caller's projects, ordered by id."""
        found = await scm.fetch_page(ctx.source, ctx.user.projects, project_id=project_id, **paged.window)
        return paginate(ctx.request, paged, [to_item(row) for row in found])

    @post(guards=[PROJECT_ADMINS])
    async def create_scm_endpoint(self, ctx: RequestContext, data: NewScmEndpoint) -> ScmEndpointItem:
        """Creates an SCM endpoint. If the project uses no SCM endpoint yet, it uses this one from now on."""
        await find_visible_project(ctx, data.project_id)
        host = _enter_host(data.type, data.host)
        errors: list[FieldError] = []
        if data.token is None and data.type != "git":
            wrong = f"is required: a repository of the type {data.type} is not read without one"
            errors.append(FieldError("token", wrong))
        if (data.app_id is None) != (data.installation_id is None):
            missing = "app_id" if data.app_id is None else "installation_id"
            wrong = "is missing: a GitHub App needs app_id, installation_id and a private key"
            errors.append(FieldError(missing, wrong))
        source = NewSource(data.type, host, data.repo, data.token, data.app_id)
        with collect_errors(errors):
            await ctx.services.source_hosts.check(source, is_admin=ctx.user.is_admin)
        if errors:
            raise Invalid.fields(errors)
        receipt = await ctx(
            CreateScmEndpoint(
                scm_endpoint_id=await ctx.services.ids.draw("scm_endpoints"),
                project_id=data.project_id,
                type=data.type,
                title=data.name,
                repo=data.repo,
                host=host,
                sealed_token=None if data.token is None else ctx.services.secrets.seal(data.token),
                app_id=data.app_id,
                installation_id=data.installation_id,
            )
        )
        created = receipt.events[0].event
        assert isinstance(created, ScmEndpointCreated)
        return to_item(new_row(created))

    @get("/{id:int}", guards=[CAN_READ])
    async def get_scm_endpoint(self, ctx: RequestContext, id: int) -> ScmEndpointItem:
        """Returns an SCM endpoint without its token."""
        return to_item(await find_visible(ctx, id))

    @put("/{id:int}", opt={"representation": ScmEndpointItem}, guards=[PROJECT_ADMINS])
    async def update_scm_endpoint(self, ctx: RequestContext, id: int, data: ScmEndpointChanges) -> UpdatedScmEndpoint:
        """Changes an SCM endpoint, such as its token or its repository. Fields that are left out stay unchanged."""
        row = await find_visible(ctx, id)
        if data.host == "" and row.shown_host:
            raise Invalid.field("host", "must not be empty: send null for the public host, or leave it out to keep it")
        endpoint = must_exist(await ctx.log.load_state(SCM_ENDPOINT.at(id)), f"SCM endpoint {id}")
        # A field that is not sent, or is sent as a GET showed it, stays as it is in the log, which may be newer.
        token = None if data.token is UNSET else data.token
        command = UpdateScmEndpoint(
            id,
            title=None if data.name is UNSET else data.name,
            host=None if data.host is UNSET or data.host == row.shown_host else _enter_host(row.type, data.host),
            repo=None if data.repo is UNSET or data.repo == row.repo else data.repo,
            sealed_token=None if token is None else ctx.services.secrets.seal(token),
        )
        host = endpoint.host if command.host is None else command.host
        repo = endpoint.repo if command.repo is None else command.repo
        # If the endpoint stays at its server, that server was checked when the endpoint was connected to it.
        is_allowed = ctx.user.is_admin or not command.is_elsewhere(endpoint)
        await ctx.services.source_hosts.check(NewSource(row.type, host, repo, token, row.app_id), is_admin=is_allowed)
        receipt = await ctx(command)
        return to_view(UpdatedScmEndpoint, to_item(await find_visible(ctx, id)), updated=bool(receipt.events))

    @delete("/{id:int}", guards=[PROJECT_ADMINS])
    async def delete_scm_endpoint(self, ctx: RequestContext, id: int) -> None:
        """Deletes an SCM endpoint. Builds keep their commits. Jobs of its project that have no `repository` cannot
        check out commits any more: changes start no builds of these jobs, and their queued builds of commits fail.
        """
        await find_visible(ctx, id)
        await ctx(DeleteScmEndpoint(id))

    @get("/{id:int}/branches", opt=OUTSIDE, guards=[CAN_READ])
    async def list_branches(
        self,
        ctx: RequestContext,
        id: int,
        q: Annotated[str, Parameter(max_length=200, description="Filter branches by name prefix")] = "",
        limit: Annotated[int, Parameter(ge=1, le=100, description="Max results")] = 50,
    ) -> list[str]:
        """Returns names of branches, as the host of the repository lists them."""
        with reported_failures():
            return await (await open_source(ctx, id)).fetch_branches(q, limit)

    @get("/{id:int}/commits", opt=OUTSIDE, guards=[CAN_READ])
    async def list_commits(
        self,
        ctx: RequestContext,
        id: int,
        branch: Annotated[
            str | None, Parameter(min_length=1, max_length=200, description="Branch name (default: default branch)")
        ] = None,
        limit: Annotated[int, Parameter(ge=1, le=100, description="Max commits")] = 20,
    ) -> list[CommitItem]:
        """Returns the newest commits of a branch, as the host of the repository lists them."""
        with reported_failures():
            source = await open_source(ctx, id)
            try:
                found = await source.fetch_commits(branch, limit)
            except SourceNotFound as error:
                if branch is not None:
                    raise NotFound(str(error)) from None
                raise
        return [CommitItem(one.sha, one.message, one.author, one.date) for one in found]

    @post("/{id:int}/test", status_code=200, guards=[PROJECT_ADMINS])
    async def test_scm_endpoint(self, ctx: RequestContext, id: int) -> TestedScmEndpoint:
        """Asks the host whether the server may read the repository and set statuses of its commits. Changes nothing."""
        try:
            await (await open_source(ctx, id)).check()
        except SourceFailure as error:
            return TestedScmEndpoint(False, str(error))
        return TestedScmEndpoint(True, "")


async def find_visible(ctx: RequestContext, scm_endpoint_id: int) -> ScmEndpointRow:
    return await ctx.find_visible(scm.find, "SCM endpoint", scm_endpoint_id)


async def open_source(ctx: RequestContext, scm_endpoint_id: int) -> SourceHost:
    """Returns the repository of an SCM endpoint, without calling its host. Raises NotFound if the SCM endpoint does not
    exist or the user cannot see it. Raises SourceFailure if the repository is a folder that the operator does not
    allow.
    """
    await find_visible(ctx, scm_endpoint_id)
    endpoint = await ctx.log.load_state(SCM_ENDPOINT.at(scm_endpoint_id))
    if endpoint is None or endpoint.deleted:
        raise NotFound(f"There is no SCM endpoint {scm_endpoint_id}.")
    return ctx.services.source_hosts.open(endpoint)


@contextmanager
def reported_failures() -> Iterator[None]:
    """Context manager that turns a SourceFailure in the block into an error for the answer: OutsideTimeout, Unavailable
    or OutsideFailure.
    """
    try:
        yield
    except SourceUnavailable as error:
        if error.is_timeout:
            raise OutsideTimeout(str(error)) from None
        raise Unavailable(str(error), error.retry_after_s or RETRY_AFTER_S) from None
    except SourceFailure as error:
        raise OutsideFailure(str(error)) from None


def _enter_host(type: ScmType, host: str | None) -> str:
    return "" if host is None else normalize_host(type, host)


def to_item(row: ScmEndpointRow) -> ScmEndpointItem:
    return to_view(ScmEndpointItem, row, host=row.shown_host)
