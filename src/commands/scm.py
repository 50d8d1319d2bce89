"""Commands on SCM endpoints: create, update, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.errors import NotFound
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project, ProjectUpdated
from domain.scm import (
    SCM_ENDPOINT,
    ScmEndpoint,
    ScmEndpointCreated,
    ScmEndpointDeleted,
    ScmEndpointUpdated,
    ScmType,
)


@dataclass(frozen=True)
class CreateScmEndpoint(Command):
    """Creates an SCM endpoint. It becomes the one of its project, if the project has none."""

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
    """Changes the given fields. A field that is None stays unchanged."""

    scm_endpoint_id: int
    title: str | None = None
    host: str | None = None
    repo: str | None = None
    sealed_token: bytes | None = None

    def decide(self, endpoint: ScmEndpoint | None) -> Iterable[Event]:
        endpoint = must_exist(endpoint, f"SCM endpoint {self.scm_endpoint_id}")
        yield from self.update(ScmEndpointUpdated, endpoint, project_id=endpoint.project_id)


@dataclass(frozen=True)
class DeleteScmEndpoint(Command, of=SCM_ENDPOINT):
    """Deletes an SCM endpoint. Its project has no endpoint then, if this was the one."""

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
