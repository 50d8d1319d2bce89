"""Read model of vCenter integrations. Their passwords are only in the log."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain import vcenter
from domain.core.events import Recorded, copy_fields
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, find_row
from store.postgres.queries import Source

VERSION = 1


class VcenterRow(Row, frozen=True):
    table = Table("vcenters", VERSION)
    id: int
    name: str
    host: str
    username: str
    datacenter: str
    cluster: str
    insecure: bool
    created_at: datetime
    updated_at: datetime
    version: str | None = None
    """Version of the vCenter; None if the server could not sign in when it last tried, or has not tried."""
    last_error: str | None = None
    """Why the server could not sign in when it last tried; None if it could, or has not tried."""
    last_error_at: datetime | None = None


def new_row(event: vcenter.VcenterCreated) -> VcenterRow:
    return copy_fields(
        VcenterRow, event, id=event.vcenter_id, name=event.title, created_at=event.at, updated_at=event.at
    )


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case vcenter.VcenterCreated():
            yield new_row(event)
        case vcenter.VcenterUpdated() | vcenter.VcenterConnected() | vcenter.VcenterDisconnected():
            if row := rows.get(VcenterRow, event.vcenter_id):
                yield _changed(row, event)
        case vcenter.VcenterDeleted():
            yield Delete(VcenterRow, event.vcenter_id)


def _changed(row: VcenterRow, event: vcenter.VcenterEvent) -> VcenterRow:
    match event:
        case vcenter.VcenterConnected():
            return msgspec.structs.replace(row, version=event.version, last_error=None, last_error_at=None)
        case vcenter.VcenterDisconnected():
            return msgspec.structs.replace(row, version=None, last_error=event.error, last_error_at=event.at)
        case _:
            return msgspec.structs.replace(row, **changed_columns(row, event), updated_at=event.at)


PROJECTION = Projection(
    "vcenter",
    VERSION,
    (VcenterRow,),
    row_of(
        *(VcenterRow, "vcenter_id", vcenter.VcenterUpdated),
        *(vcenter.VcenterConnected, vcenter.VcenterDisconnected),
    ),
    apply,
    handles=(vcenter.VcenterEvent,),
)


async def find(source: Source, vcenter_id: int) -> VcenterRow | None:
    return await find_row(source, VcenterRow, vcenter_id)


async def fetch_ids(source: Source) -> list[int]:
    return [row.id for row in await fetch_all(source, VcenterRow, f"SELECT * FROM {VcenterRow.table} ORDER BY id", {})]


async def fetch_page(source: Source, **window: Unpack[Window]) -> list[VcenterRow]:
    return await fetch_all(
        source,
        VcenterRow,
        f"SELECT * FROM {VcenterRow.table} WHERE id > %(after)s ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {**window},
    )
