"""Projects: the workspaces that jobs, builds and members belong to."""

from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event, changes_of, copy_fields

Access = Literal["read", "write", "admin"]
ACCESS_RANK: dict[str, int] = {"read": 1, "write": 2, "admin": 3}
Clearable = Literal["scm_endpoint_id"]


class ProjectEvent(Event, frozen=True):
    project_id: int

    @property
    def stream(self) -> str:
        return f"project-{self.project_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class ProjectCreated(ProjectEvent, frozen=True):
    name: ClassVar[str] = "project.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "slug", "sealed_webhook_secret", "description")
    title: str = ""
    slug: str = ""
    claim: str = ""
    """Id of the claim that keeps the slug unique."""
    sealed_webhook_secret: bytes = b""
    description: str = ""
    scm_endpoint_id: int | None = None


class ProjectUpdated(ProjectEvent, frozen=True):
    """The project was changed. Fields that are not None have their new values; fields in `cleared` were set to None."""

    name: ClassVar[str] = "project.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "description")
    title: str | None = None
    description: str | None = None
    scm_endpoint_id: int | None = None
    retention_days: int | None = None
    """Age in days at which finished builds are deleted; 0 for no limit."""
    retention_builds: int | None = None
    """Number of the newest finished builds of each job that are kept; 0 for no limit."""
    cleared: tuple[Clearable, ...] = ()


class WebhookSecretRotated(ProjectEvent, frozen=True):
    """The webhook secret was replaced. The old secret is invalid from now on."""

    name: ClassVar[str] = "project.webhook_secret_rotated"
    sealed: ClassVar[tuple[str, ...]] = ("sealed_webhook_secret",)
    sealed_webhook_secret: bytes = b""


class MemberAdmitted(ProjectEvent, frozen=True):
    name: ClassVar[str] = "project.member_admitted"
    user_id: int
    access: Access


class MemberRemoved(ProjectEvent, frozen=True):
    name: ClassVar[str] = "project.member_removed"
    user_id: int


class ProjectClosed(ProjectEvent, frozen=True):
    """The deletion of the project began. From now on nobody can add jobs or node pools to it, so that the deletion
    misses none.
    """

    name: ClassVar[str] = "project.closed"


class ProjectDeleted(ProjectEvent, frozen=True):
    """The project was deleted. All its jobs and node pools were deleted before."""

    name: ClassVar[str] = "project.deleted"
    destroys_key: ClassVar[bool] = True


class Project(msgspec.Struct, frozen=True):
    project_id: int
    title: str
    description: str
    scm_endpoint_id: int | None
    retention_days: int = 0
    retention_builds: int = 0
    members: dict[int, Access] = {}
    claim: str = ""
    sealed_webhook_secret: bytes = b""
    closed: bool = False
    deleted: bool = False


def evolve(state: Project | None, event: Event) -> Project | None:
    match event:
        case ProjectCreated():
            return copy_fields(Project, event)
        case ProjectUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case WebhookSecretRotated() if state is not None:
            return msgspec.structs.replace(state, sealed_webhook_secret=event.sealed_webhook_secret)
        case MemberAdmitted() if state is not None:
            return msgspec.structs.replace(state, members=state.members | {event.user_id: event.access})
        case MemberRemoved() if state is not None:
            members = {user_id: access for user_id, access in state.members.items() if user_id != event.user_id}
            return msgspec.structs.replace(state, members=members)
        case ProjectClosed() if state is not None:
            return msgspec.structs.replace(state, closed=True)
        case ProjectDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


PROJECT = Category[Project | None]("project", None, evolve)
EVENTS = (
    ProjectCreated,
    ProjectUpdated,
    WebhookSecretRotated,
    MemberAdmitted,
    MemberRemoved,
    ProjectClosed,
    ProjectDeleted,
)
