"""Channels of Teams, as they are read. How deliveries go is no event."""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from domain.core.events import Recorded
from domain.projects import ProjectDeleted
from domain.teams import (
    ChannelDeleted,
    ChannelFailing,
    ChannelRecovered,
    ChannelRegistered,
    ChannelUpdated,
    changes,
)
from projections.engine.model import Change, Delete, DeleteWhere, Key, Projection, Row, Rows, Table
from projections.engine.queries import fetch_all, fetch_one

VERSION = 1


class ChannelRow(Row, frozen=True):
    table = Table("teams_channels", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int
    title: str
    shown_url: str
    sealed_url: bytes
    events: list[str]
    mention: str
    """Empty for nobody."""
    created_at: datetime
    updated_at: datetime
    active: bool = True
    failing_since: datetime | None = None
    """Many attempts in a row have failed since then."""
    failing_error: str | None = None


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case ChannelUpdated() | ChannelFailing() | ChannelRecovered():
            yield ChannelRow, (recorded.event.channel_id,)
        case _:
            return


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ChannelRegistered():
            yield ChannelRow(
                id=event.channel_id,
                project_id=event.project_id,
                title=event.title,
                shown_url=event.shown_url,
                sealed_url=event.sealed_url,
                events=event.events,
                mention=event.mention,
                created_at=event.at,
                updated_at=event.at,
            )
        case ChannelUpdated() | ChannelFailing() | ChannelRecovered():
            channel = rows.get(ChannelRow, event.channel_id)
            if channel is not None:
                yield _changed(event, channel)
        case ChannelDeleted():
            yield Delete(ChannelRow, event.channel_id)
        case ProjectDeleted():
            yield DeleteWhere(ChannelRow, "project_id", event.project_id)
        case _:
            return


def _changed(event: ChannelUpdated | ChannelFailing | ChannelRecovered, channel: ChannelRow) -> ChannelRow:
    match event:
        case ChannelUpdated():
            return msgspec.structs.replace(channel, **changes(event), updated_at=event.at)
        case ChannelFailing():
            return msgspec.structs.replace(channel, failing_since=event.at, failing_error=event.error)
        case ChannelRecovered():
            return msgspec.structs.replace(channel, failing_since=None, failing_error=None)


PROJECTION = Projection(
    "teams_channels",
    VERSION,
    (ChannelRow,),
    keys,
    apply,
    takes=(ProjectDeleted, ChannelDeleted, ChannelFailing, ChannelRecovered, ChannelRegistered, ChannelUpdated),
)


async def find(connection: AsyncConnection, channel_id: int) -> ChannelRow | None:
    query = f"SELECT * FROM {ChannelRow.table} WHERE id = %(id)s"
    return await fetch_one(connection, ChannelRow, query, {"id": channel_id})


async def listing(
    connection: AsyncConnection, projects: list[int] | None, *, after: int, offset: int, limit: int
) -> list[ChannelRow]:
    """By id. Of these projects; of all for None."""
    return await fetch_all(
        connection,
        ChannelRow,
        f"SELECT * FROM {ChannelRow.table} WHERE id > %(after)s"
        " AND (%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"projects": projects, "after": after, "offset": offset, "limit": limit},
    )
