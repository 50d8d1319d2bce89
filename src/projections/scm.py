"""Read model of SCM endpoints. Their tokens are only in the log."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain import scm
from domain.core.events import Recorded, copy_fields
from domain.projects import ProjectDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, find_row
from store.postgres.queries import Source

VERSION = 1


class ScmEndpointRow(Row, frozen=True):
    table = Table("scm_endpoints", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int
    type: scm.ScmType
    name: str
    host: str
    """Base URL of a self-hosted server; empty for the public host of the type."""
    repo: str
    has_token: bool
    app_id: int | None
    installation_id: int | None
    created_at: datetime
    updated_at: datetime

    @property
    def shown_host(self) -> str:
        return scm.show_host(self.type, self.host, self.repo)


def new_row(event: scm.ScmEndpointCreated) -> ScmEndpointRow:
    columns = {"id": event.scm_endpoint_id, "name": event.title, "has_token": event.sealed_token is not None}
    return copy_fields(ScmEndpointRow, event, **columns, created_at=event.at, updated_at=event.at)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case scm.ScmEndpointCreated():
            yield new_row(event)
        case scm.ScmEndpointUpdated():
            if endpoint := rows.get(ScmEndpointRow, event.scm_endpoint_id):
                has_token = endpoint.has_token or event.sealed_token is not None
                changes = changed_columns(endpoint, event)
                yield msgspec.structs.replace(endpoint, **changes, has_token=has_token, updated_at=event.at)
        case scm.ScmEndpointDeleted():
            yield Delete(ScmEndpointRow, event.scm_endpoint_id)
        case ProjectDeleted():
            yield DeleteWhere(ScmEndpointRow, "project_id", event.project_id)


PROJECTION = Projection(
    "scm",
    VERSION,
    (ScmEndpointRow,),
    row_of(ScmEndpointRow, "scm_endpoint_id", scm.ScmEndpointUpdated),
    apply,
    handles=(scm.ScmEvent, ProjectDeleted),
)


async def find(source: Source, scm_endpoint_id: int) -> ScmEndpointRow | None:
    return await find_row(source, ScmEndpointRow, scm_endpoint_id)


async def fetch_page(
    source: Source, projects: list[int] | None, *, project_id: int | None = None, **window: Unpack[Window]
) -> list[ScmEndpointRow]:
    """Returns a page of the endpoints of these projects, ordered by id. None as `projects` means all projects.

    With `project_id`, returns only endpoints of this project.
    """
    return await fetch_all(
        source,
        ScmEndpointRow,
        f"SELECT * FROM {ScmEndpointRow.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"
        " AND (%(project)s::bigint IS NULL OR project_id = %(project)s)"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"projects": projects, "project": project_id, **window},
    )
