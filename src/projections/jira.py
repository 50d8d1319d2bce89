"""Read model of Jira integrations. Their API tokens are only in the log."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain import jira
from domain.core.events import Recorded, copy_fields
from domain.projects import ProjectDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, fetch_column, find_row
from store.postgres.queries import Source

VERSION = 1


class JiraRow(Row, frozen=True):
    table = Table("jira_integrations", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int | None
    name: str
    host: str
    email: str
    project_key: str
    issue_type: str
    deployment: jira.Deployment
    auto_create: bool
    created_at: datetime
    updated_at: datetime
    last_error: str | None = None
    """Why the last ticket could not be written; None if it was written."""
    last_error_at: datetime | None = None


def new_row(event: jira.JiraIntegrationCreated) -> JiraRow:
    return copy_fields(JiraRow, event, id=event.jira_id, name=event.title, created_at=event.at, updated_at=event.at)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case jira.JiraIntegrationCreated():
            yield new_row(event)
        case jira.JiraIntegrationUpdated() | jira.JiraIntegrationFailing() | jira.JiraIntegrationRecovered():
            if row := rows.get(JiraRow, event.jira_id):
                yield _changed(row, event)
        case jira.JiraIntegrationDeleted():
            yield Delete(JiraRow, event.jira_id)
        case ProjectDeleted():
            yield DeleteWhere(JiraRow, "project_id", event.project_id)


def _changed(row: JiraRow, event: jira.JiraEvent) -> JiraRow:
    match event:
        case jira.JiraIntegrationFailing():
            return msgspec.structs.replace(row, last_error=event.error, last_error_at=event.at)
        case jira.JiraIntegrationRecovered():
            return msgspec.structs.replace(row, last_error=None, last_error_at=None)
        case _:
            return msgspec.structs.replace(row, **changed_columns(row, event), updated_at=event.at)


PROJECTION = Projection(
    "jira",
    VERSION,
    (JiraRow,),
    row_of(
        *(JiraRow, "jira_id", jira.JiraIntegrationUpdated),
        *(jira.JiraIntegrationFailing, jira.JiraIntegrationRecovered),
    ),
    apply,
    handles=(jira.JiraEvent, ProjectDeleted),
)


async def find(source: Source, jira_id: int) -> JiraRow | None:
    return await find_row(source, JiraRow, jira_id)


async def fetch_page(source: Source, projects: list[int] | None, **window: Unpack[Window]) -> list[JiraRow]:
    """Returns a page of the integrations of these projects, ordered by id. If `projects` is None, returns integrations
    of all projects, and integrations without a project.
    """
    return await fetch_all(
        source,
        JiraRow,
        f"SELECT * FROM {JiraRow.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"projects": projects, **window},
    )


async def find_served_projects(source: Source, projects: Collection[int]) -> set[int]:
    """Returns the projects among `projects` for which an integration writes tickets."""
    query = (
        "SELECT p.id FROM unnest(%(projects)s::bigint[]) AS p (id) WHERE EXISTS"
        f" (SELECT FROM {JiraRow.table} j WHERE j.auto_create AND (j.project_id IS NULL OR j.project_id = p.id))"
    )
    return set(await fetch_column(source, query, {"projects": list(projects)}))


async def fetch_of_project(source: Source, project_id: int) -> list[int]:
    """Returns the ids of the integrations that write tickets for a project's failures."""
    return await fetch_column(
        source,
        f"SELECT id FROM {JiraRow.table} WHERE auto_create AND (project_id IS NULL OR project_id = %(project)s)"
        " ORDER BY id",
        {"project": project_id},
    )
