"""Commands on SCM endpoints: create, update, delete. Finds the endpoint of a build."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.builds import BuildQueued
from domain.core.errors import Invalid, NotFound
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project, ProjectUpdated
from domain.scm import (
    SCM_ENDPOINT,
    ScmEndpoint,
    ScmEndpointCreated,
    ScmEndpointDeleted,
    ScmEndpointUpdated,
    ScmType,
    is_same_repository,
    server_of,
)
from store.log.event_log import EventLog


@dataclass(frozen=True)
class CreateScmEndpoint(Command):
    """Creates an SCM endpoint. If its project has no endpoint yet, the project uses the new one."""

    scm_endpoint_id: int
    project_id: int
    type: ScmType
    title: str
    repo: str
    host: str = ""
    sealed_token: bytes | None = None
    app_id: int | None = None
    installation_id: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return SCM_ENDPOINT.at(self.scm_endpoint_id), PROJECT.at(self.project_id)

    def decide(self, endpoint: ScmEndpoint | None, project: Project | None) -> Iterable[Event]:
        if endpoint is not None:
            return
        must_be_open(project, self.project_id)
        yield self.event(ScmEndpointCreated)
        if project is not None and project.scm_endpoint_id is None:
            yield ProjectUpdated(project_id=self.project_id, scm_endpoint_id=self.scm_endpoint_id)


@dataclass(frozen=True)
class UpdateScmEndpoint(Command, of=SCM_ENDPOINT):
    """Changes the given fields. A field that is None stays unchanged. If the endpoint moves to another server, a new
    token is required, since the stored token must not be sent there.
    """

    scm_endpoint_id: int
    title: str | None = None
    host: str | None = None
    repo: str | None = None
    sealed_token: bytes | None = None

    def decide(self, endpoint: ScmEndpoint | None) -> Iterable[Event]:
        endpoint = must_exist(endpoint, f"SCM endpoint {self.scm_endpoint_id}")
        if endpoint.sealed_token is not None and self.sealed_token is None and self.is_elsewhere(endpoint):
            field = "repo" if endpoint.type == "git" else "host"
            raise Invalid.field(field, "leads to another server: send the token for it in the same request")
        yield from self.update(ScmEndpointUpdated, endpoint, project_id=endpoint.project_id)

    def is_elsewhere(self, endpoint: ScmEndpoint) -> bool:
        """Returns whether the command moves the endpoint to another server, or from https to http."""
        host = endpoint.host if self.host is None else self.host
        repo = endpoint.repo if self.repo is None else self.repo
        return server_of(endpoint.type, endpoint.host, endpoint.repo) != server_of(endpoint.type, host, repo)


@dataclass(frozen=True)
class DeleteScmEndpoint(Command, of=SCM_ENDPOINT):
    """Deletes an SCM endpoint. A project that used the endpoint has none afterwards."""

    scm_endpoint_id: int

    def then_reads(self, endpoint: ScmEndpoint | None) -> Sequence[AnyStream]:
        return () if endpoint is None or endpoint.deleted else (PROJECT.at(endpoint.project_id),)

    def decide(self, endpoint: ScmEndpoint | None, *projects: Project | None) -> Iterable[Event]:
        if endpoint is None:
            raise NotFound(f"There is no SCM endpoint {self.scm_endpoint_id}.")
        for project in projects:
            yield self.event(ScmEndpointDeleted, endpoint)
            if project is not None and project.scm_endpoint_id == self.scm_endpoint_id:
                yield ProjectUpdated(project_id=endpoint.project_id, cleared=("scm_endpoint_id",))


async def find_project_endpoint(log: EventLog, project_id: int) -> ScmEndpoint | None:
    """Returns the SCM endpoint that a project uses; None if the project uses none, or if the endpoint was deleted."""
    project = await log.load_state(PROJECT.at(project_id))
    if project is None or project.scm_endpoint_id is None:
        return None
    endpoint = await log.load_state(SCM_ENDPOINT.at(project.scm_endpoint_id))
    if endpoint is None or endpoint.deleted or not endpoint.repo:  # erased with the project that it belonged to
        return None
    return endpoint


async def find_project_repository(log: EventLog, project_id: int) -> str:
    """Returns the address of the repository of a project's SCM endpoint; empty without an endpoint. Builds check this
    repository out if their job names none.
    """
    endpoint = await find_project_endpoint(log, project_id)
    return "" if endpoint is None else endpoint.clone_url


async def find_build_endpoint(log: EventLog, queued: BuildQueued) -> ScmEndpoint | None:
    """Returns the SCM endpoint of a build's project if the build checks out the endpoint's repository: the build names
    either no repository or this one. Otherwise returns None.
    """
    endpoint = await find_project_endpoint(log, queued.project_id)
    if endpoint is None:
        return None
    is_its = queued.repository is None or is_same_repository(queued.repository, endpoint.clone_url)
    return endpoint if is_its else None
