"""What is asked of projects, and what follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Decision
from domain.base import AnyStream, Event
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.errors import NotFound
from domain.projects import (
    PROJECT,
    UPDATABLE,
    MemberAdmitted,
    Project,
    ProjectCreated,
    ProjectUpdated,
    WebhookSecretRotated,
)


@dataclass(frozen=True)
class CreateProject(Decision):
    """`slugs` are the candidates with their claims, best first: the first free one is taken."""

    project_id: int
    title: str
    creator_id: int
    slugs: tuple[tuple[str, str], ...]
    sealed_webhook_secret: bytes
    description: str = ""
    scm_endpoint_id: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id), *(CLAIM.at(claim) for _, claim in self.slugs))

    def decide(self, project: Project | None, *claims: Claim) -> Iterable[Event]:
        if project is not None:
            return
        owner = f"project-{self.project_id}"
        free = [slug for slug, claim in zip(self.slugs, claims, strict=True) if claim.owner in ("", owner)]
        slug, claim = free[0]
        yield ClaimTaken(claim=claim, owner=owner)
        yield ProjectCreated(
            project_id=self.project_id,
            title=self.title,
            slug=slug,
            sealed_webhook_secret=self.sealed_webhook_secret,
            description=self.description,
            scm_endpoint_id=self.scm_endpoint_id,
        )
        yield MemberAdmitted(project_id=self.project_id, user_id=self.creator_id, access="admin")


@dataclass(frozen=True)
class UpdateProject(Decision):
    """None leaves a field as it is."""

    project_id: int
    title: str | None = None
    description: str | None = None
    scm_endpoint_id: int | None = None
    retention_days: int | None = None
    retention_builds: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id),)

    def decide(self, project: Project | None) -> Iterable[Event]:
        if project is None:
            raise NotFound(f"There is no project {self.project_id}.")
        changed = {
            field: value
            for field in UPDATABLE
            if (value := getattr(self, field)) not in (None, getattr(project, field))
        }
        if changed:
            yield ProjectUpdated(project_id=self.project_id, **changed)


@dataclass(frozen=True)
class RotateWebhookSecret(Decision):
    project_id: int
    sealed_webhook_secret: bytes

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id),)

    def decide(self, project: Project | None) -> Iterable[Event]:
        if project is None:
            raise NotFound(f"There is no project {self.project_id}.")
        yield WebhookSecretRotated(project_id=self.project_id, sealed_webhook_secret=self.sealed_webhook_secret)
