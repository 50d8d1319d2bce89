"""Webhooks, as they are read. How deliveries go is no event: it is joined from the workers' tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.core.events import Recorded
from domain.projects import ProjectDeleted
from domain.webhooks import (
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    WebhookRegistered,
    WebhookUpdated,
    changes,
)
from projections.engine.model import Change, Delete, DeleteWhere, Key, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all, fetch_one

VERSION = 1


class WebhookRow(Row, frozen=True):
    table = Table("webhooks", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int | None
    url: str
    events: list[str]
    active: bool
    sealed_secret: bytes | None
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None = None
    """Many attempts in a row have failed since then."""
    failing_error: str | None = None


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case WebhookUpdated() | WebhookFailing() | WebhookRecovered():
            yield WebhookRow, (recorded.event.webhook_id,)
        case _:
            return


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case WebhookRegistered():
            yield WebhookRow(
                id=event.webhook_id,
                project_id=event.project_id,
                url=event.url,
                events=event.events,
                active=event.active,
                sealed_secret=event.sealed_secret,
                created_at=event.at,
                updated_at=event.at,
            )
        case WebhookUpdated() | WebhookFailing() | WebhookRecovered():
            webhook = rows.get(WebhookRow, event.webhook_id)
            if webhook is not None:
                yield _changed(event, webhook)
        case WebhookDeleted():
            yield Delete(WebhookRow, event.webhook_id)
        case ProjectDeleted():
            yield DeleteWhere(WebhookRow, "project_id", event.project_id)
        case _:
            return


def _changed(event: WebhookUpdated | WebhookFailing | WebhookRecovered, webhook: WebhookRow) -> WebhookRow:
    match event:
        case WebhookUpdated():
            return msgspec.structs.replace(webhook, **changes(event), updated_at=event.at)
        case WebhookFailing():
            return msgspec.structs.replace(webhook, failing_since=event.at, failing_error=event.error)
        case WebhookRecovered():
            return msgspec.structs.replace(webhook, failing_since=None, failing_error=None)


PROJECTION = Projection(
    "webhooks",
    VERSION,
    (WebhookRow,),
    keys,
    apply,
    takes=(ProjectDeleted, WebhookDeleted, WebhookFailing, WebhookRecovered, WebhookRegistered, WebhookUpdated),
)


async def find(connection: AsyncConnection, webhook_id: int) -> WebhookRow | None:
    query = f"SELECT * FROM {WebhookRow.table} WHERE id = %(id)s"
    return await fetch_one(connection, WebhookRow, query, {"id": webhook_id})


async def some(connection: AsyncConnection, webhook_ids: Sequence[int]) -> list[WebhookRow]:
    """Those of the ids that there are, by id."""
    query = f"SELECT * FROM {WebhookRow.table} WHERE id = ANY (%(ids)s) ORDER BY id"
    return await fetch_all(connection, WebhookRow, query, {"ids": list(webhook_ids)})


async def listing(
    connection: AsyncConnection,
    projects: list[int] | None,
    *,
    project_id: int | None,
    active: bool | None,
    after: int,
    offset: int,
    limit: int,
) -> list[WebhookRow]:
    """By id. Of these projects; all of them, and those of no project, for None."""
    return await fetch_all(
        connection,
        WebhookRow,
        f"SELECT * FROM {WebhookRow.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"
        " AND (%(project)s::bigint IS NULL OR project_id = %(project)s)"
        " AND (%(active)s::bool IS NULL OR active = %(active)s)"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {
            "projects": projects,
            "project": project_id,
            "active": active,
            "after": after,
            "offset": offset,
            "limit": limit,
        },
    )
