"""Commands on projects, their members and their webhook secrets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from domain.claims import CLAIM, Claim, ClaimTaken, release_claim
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job, JobDeleted
from domain.projects import (
    PROJECT,
    Access,
    Clearable,
    MemberAdmitted,
    MemberRemoved,
    Project,
    ProjectClosed,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from domain.scm import SCM_ENDPOINT, ScmEndpoint
from domain.users import USER, UserAccount


@dataclass(frozen=True)
class CreateProject(Command):
    """Creates a project. `slugs` lists possible slugs, the best one first, as pairs (slug, id of the claim that keeps
    it unique). The project gets the first slug that is free.
    """

    project_id: int
    title: str
    creator_id: int
    slugs: tuple[tuple[str, str], ...]
    sealed_webhook_secret: bytes
    description: str = ""
    scm_endpoint_id: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        claims = (CLAIM.at(claim) for _, claim in self.slugs)
        return (PROJECT.at(self.project_id), SCM_ENDPOINT.at(self.scm_endpoint_id or 0), *claims)

    def decide(self, project: Project | None, endpoint: ScmEndpoint | None, *claims: Claim) -> Iterable[Event]:
        if project is not None:
            return
        _must_exist(self.scm_endpoint_id, endpoint)
        owner = PROJECT.at(self.project_id).name
        free = [slug for slug, claim in zip(self.slugs, claims, strict=True) if claim.owner in ("", owner)]
        if not free:
            raise Conflict(f"Other projects have the slugs {', '.join(slug for slug, _ in self.slugs)}: try again.")
        slug, claim = free[0]
        yield ClaimTaken(claim=claim, owner=owner)
        yield self.event(ProjectCreated, slug=slug, claim=claim)
        yield MemberAdmitted(project_id=self.project_id, user_id=self.creator_id, access="admin")


@dataclass(frozen=True)
class UpdateProject(Command):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it."""

    project_id: int
    title: str | None = None
    description: str | None = None
    scm_endpoint_id: int | None = None
    retention_days: int | None = None
    retention_builds: int | None = None
    cleared: tuple[Clearable, ...] = ()

    def reads(self) -> Sequence[AnyStream]:
        return PROJECT.at(self.project_id), SCM_ENDPOINT.at(self.scm_endpoint_id or 0)

    def decide(self, project: Project | None, endpoint: ScmEndpoint | None) -> Iterable[Event]:
        project = must_exist(project, f"project {self.project_id}")
        _must_exist(self.scm_endpoint_id, endpoint)
        yield from self.update(ProjectUpdated, project)


@dataclass(frozen=True)
class RotateWebhookSecret(Command, of=PROJECT):
    project_id: int
    sealed_webhook_secret: bytes

    def decide(self, project: Project | None) -> Iterable[Event]:
        must_exist(project, f"project {self.project_id}")
        yield self.event(WebhookSecretRotated)


@dataclass(frozen=True)
class AdmitMember(Command):
    """Makes a user a member of a project, or changes the access of a member."""

    project_id: int
    user_id: int
    access: Access

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id), USER.at(self.user_id))

    def decide(self, project: Project | None, user: UserAccount | None) -> Iterable[Event]:
        project = must_exist(project, f"project {self.project_id}")
        must_exist(user, f"user {self.user_id}")
        if project.members.get(self.user_id) != self.access:
            yield self.event(MemberAdmitted)


@dataclass(frozen=True)
class RemoveMember(Command, of=PROJECT):
    project_id: int
    user_id: int

    def decide(self, project: Project | None) -> Iterable[Event]:
        project = must_exist(project, f"project {self.project_id}")
        if self.user_id not in project.members:
            raise NotFound(f"User {self.user_id} is no member of project {self.project_id}.")
        yield self.event(MemberRemoved)


@dataclass(frozen=True)
class CloseProject(Command, of=PROJECT):
    """Closes a project for new jobs and pools. This is the first step of its deletion."""

    project_id: int

    def decide(self, project: Project | None) -> Iterable[Event]:
        if not must_exist(project, f"project {self.project_id}").closed:
            yield ProjectClosed(project_id=self.project_id)


@dataclass(frozen=True)
class DeleteProject(Command):
    """Deletes a closed project and its jobs for good. The dispatcher then aborts the builds that have not ended.

    `job_ids` lists all jobs of the project, as the read model has them. The list is complete, since a closed project
    gets no new jobs.
    """

    project_id: int
    job_ids: Sequence[int] = ()

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id), *(JOB.at(job_id) for job_id in dict.fromkeys(self.job_ids)))

    def then_reads(self, project: Project | None, *jobs: Job | None) -> Sequence[AnyStream]:
        return () if project is None or project.deleted else (CLAIM.at(project.claim),)

    def decide(self, project: Project | None, *others: Job | Claim | None) -> Iterable[Event]:
        project = must_exist(project, f"project {self.project_id}")
        if not project.closed:
            raise Conflict(f"Project {self.project_id} is still open.")
        for other in others:
            match other:
                case Job(deleted=False) if other.project_id == self.project_id:
                    yield JobDeleted(job_id=other.job_id, project_id=self.project_id)
                case Claim():
                    yield from release_claim(project.claim, other, PROJECT.at(self.project_id).name)
                case _:
                    continue
        yield ProjectDeleted(project_id=self.project_id)


def must_be_open(project: Project | None, project_id: int) -> None:
    """Raises NotFound for an unknown or deleted project, and Conflict for one that is being deleted."""
    if must_exist(project, f"project {project_id}").closed:
        raise Conflict(
            f"Project {project_id} is being deleted and takes nothing new; DELETE /api/v3/projects/{project_id}"
            " brings that to its end."
        )


def _must_exist(scm_endpoint_id: int | None, endpoint: ScmEndpoint | None) -> None:
    if scm_endpoint_id is not None and (endpoint is None or endpoint.deleted):
        raise unknown_scm_endpoint(scm_endpoint_id)


def unknown_scm_endpoint(scm_endpoint_id: int) -> Invalid:
    return Invalid.field(
        "scm_endpoint_id", f"there is no SCM endpoint {scm_endpoint_id} that you may use; GET /api/v3/scm lists them"
    )
