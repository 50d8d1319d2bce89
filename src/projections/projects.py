"""Read model of projects and their members."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from domain.builds import BuildQueued
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobCreated, JobDeleted
from domain.projects import (
    Access,
    MemberAdmitted,
    MemberRemoved,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from domain.users import UserDeleted
from projections.engine.model import (
    Change,
    Delete,
    DeleteWhere,
    Int,
    Projection,
    Row,
    Rows,
    Table,
    changed_columns,
    row_of,
)
from projections.engine.queries import fetch_all, find_row
from store.postgres.queries import Source

VERSION = 1


class ProjectRow(Row, frozen=True):
    table = Table("projects", VERSION)
    id: int
    name: str
    slug: str
    description: str
    scm_endpoint_id: int | None
    sealed_webhook_secret: bytes
    created_at: datetime
    jobs_count: int = 0
    last_build_at: datetime | None = None
    retention_days: Int = 0
    retention_builds: Int = 0


class MemberRow(Row, frozen=True):
    table = Table("project_members", VERSION, key=("project_id", "user_id"), indexes=("(user_id)",))
    project_id: int
    user_id: int
    access: str


CHANGED_BY = (ProjectUpdated, WebhookSecretRotated, JobCreated, JobDeleted, BuildQueued)
"""Events that change the row of an existing project."""


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ProjectCreated():
            yield copy_fields(ProjectRow, event, id=event.project_id, name=event.title, created_at=event.at)
        case ProjectDeleted():
            yield Delete(ProjectRow, event.project_id)
            yield DeleteWhere(MemberRow, "project_id", event.project_id)
        case UserDeleted():
            yield DeleteWhere(MemberRow, "user_id", event.user_id)
        case MemberAdmitted():
            yield MemberRow(event.project_id, event.user_id, event.access)
        case MemberRemoved():
            yield Delete(MemberRow, event.project_id, event.user_id)
        case ProjectUpdated() | WebhookSecretRotated() | JobCreated() | JobDeleted() | BuildQueued():
            project = rows.get(ProjectRow, event.project_id)
            if project is not None:
                yield msgspec.structs.replace(project, **_changes(event, project))


def _changes(
    event: ProjectUpdated | WebhookSecretRotated | JobCreated | JobDeleted | BuildQueued, project: ProjectRow
) -> dict[str, Any]:
    match event:
        case JobCreated():
            return {"jobs_count": project.jobs_count + 1}
        case JobDeleted():
            return {"jobs_count": project.jobs_count - 1}
        case BuildQueued():
            return {"last_build_at": max(event.at, project.last_build_at or event.at)}
        case WebhookSecretRotated():
            return {"sealed_webhook_secret": event.sealed_webhook_secret}
        case ProjectUpdated():
            return changed_columns(project, event)


PROJECTION = Projection(
    "projects",
    VERSION,
    (ProjectRow, MemberRow),
    row_of(ProjectRow, "project_id", *CHANGED_BY),
    apply,
    handles=(*CHANGED_BY, MemberAdmitted, MemberRemoved, ProjectCreated, ProjectDeleted, UserDeleted),
)


async def fetch_visible(
    source: Source, project_ids: Sequence[int] | None, *, after: int = 0, offset: int = 0, limit: int | None = None
) -> list[ProjectRow]:
    """Returns a page of the projects with these ids, ordered by id. None as `project_ids` means all projects."""
    return await fetch_all(
        source,
        ProjectRow,
        f"SELECT * FROM {ProjectRow.table} WHERE id > %(after)s"
        " AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"ids": project_ids, "after": after, "offset": offset, "limit": limit},
    )


async def find(source: Source, project_id: int) -> ProjectRow | None:
    return await find_row(source, ProjectRow, project_id)


async def fetch_access(source: Source, user_id: int) -> dict[int, Access]:
    """Returns project id -> `read`, `write` or `admin`, for the projects that the user is a member of."""
    query = f"SELECT * FROM {MemberRow.table} WHERE user_id = %(user)s"
    members = await fetch_all(source, MemberRow, query, {"user": user_id})
    return {member.project_id: cast(Access, member.access) for member in members}
