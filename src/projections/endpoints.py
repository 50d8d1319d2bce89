"""Code that the projections of webhooks and of Teams channels share. Each of the two has a table."""

from collections.abc import Iterable, Sequence
from typing import TypeVar, Unpack

import msgspec

from domain.core.events import Event, Recorded, changes_of, copy_fields
from domain.endpoints import (
    EndpointDeleted,
    EndpointEvent,
    EndpointFailing,
    EndpointRecovered,
    EndpointRegistered,
    EndpointUpdated,
)
from domain.projects import ProjectDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Key, Projection, Row, Rows
from projections.engine.queries import Window, fetch_all
from store.postgres.queries import Source, fetch_rows

R = TypeVar("R", bound=Row)

PROJECTED = (EndpointRegistered, EndpointUpdated, EndpointDeleted, EndpointFailing, EndpointRecovered)


def endpoint_projection(name: str, row_type: type[Row], events: Sequence[type[EndpointEvent]]) -> Projection:
    """Returns the projection called `name` for one kind of endpoint. `events` are the event classes of this kind.

    `row_type` needs the columns id, project_id, created_at, updated_at, failing_since and failing_error, and a column
    for each field that the update event may change. The event that registers an endpoint needs a field for each column
    without a default.
    """
    taken = tuple(event for event in events if issubclass(event, PROJECTED))

    def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
        event = recorded.event
        if isinstance(event, taken) and isinstance(event, EndpointUpdated | EndpointFailing | EndpointRecovered):
            yield row_type, (event.endpoint_id,)

    def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
        match recorded.event:
            case ProjectDeleted() as event:
                yield DeleteWhere(row_type, "project_id", event.project_id)
            case event if not isinstance(event, taken):
                return
            case EndpointRegistered() as event:
                yield new_row(row_type, event)
            case EndpointDeleted() as event:
                yield Delete(row_type, event.endpoint_id)
            case EndpointEvent() as event:
                if (row := rows.get(row_type, event.endpoint_id)) is not None:
                    yield _changed(row, event)

    return Projection(name, row_type.table.version, (row_type,), keys, apply, handles=(ProjectDeleted, *taken))


def new_row(row_type: type[R], event: Event) -> R:
    """Returns the row of a new endpoint. `event` has registered the endpoint."""
    assert isinstance(event, EndpointRegistered)
    ids = {"id": event.endpoint_id, "project_id": event.project_id}
    return copy_fields(row_type, event, **ids, created_at=event.at, updated_at=event.at)


def _changed(row: R, event: EndpointEvent) -> R:
    match event:
        case EndpointUpdated():
            return msgspec.structs.replace(row, **changes_of(event), updated_at=event.at)
        case EndpointFailing():
            return msgspec.structs.replace(row, failing_since=event.at, failing_error=event.error)
        case _:
            return msgspec.structs.replace(row, failing_since=None, failing_error=None)


async def fetch_ids_of_project(source: Source, row_type: type[Row], project_id: int, limit: int) -> list[int]:
    """Returns the ids of the endpoints of a project, `limit` at most."""
    query = f"SELECT id FROM {row_type.table} WHERE project_id = %s ORDER BY id LIMIT %s"
    return [endpoint_id for (endpoint_id,) in await fetch_rows(source, query, (project_id, limit))]


async def list_endpoints(
    source: Source,
    row_type: type[R],
    projects: list[int] | None,
    *,
    project_id: int | None = None,
    active: bool | None = None,
    **window: Unpack[Window],
) -> list[R]:
    """Returns a page of the endpoints of these projects, ordered by id.

    If `projects` is None, returns endpoints of all projects, and endpoints without a project.
    """
    return await fetch_all(
        source,
        row_type,
        f"SELECT * FROM {row_type.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"
        " AND (%(project)s::bigint IS NULL OR project_id = %(project)s)"
        " AND (%(active)s::bool IS NULL OR active = %(active)s)"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"projects": projects, "project": project_id, "active": active, **window},
    )
