"""Read model of the operations on vCenters: what was requested, and how the operation ended."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, Unpack

import msgspec

from domain.core.events import Recorded
from domain.vcenter import VcenterDeleted
from domain.vcenter_operations import (
    Kind,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
)
from projections.engine.model import Change, DeleteWhere, Projection, Row, Rows, Table, row_of
from projections.engine.queries import Window, fetch_all, find_row
from store.postgres.queries import Source

VERSION = 1

Status = Literal["running", "completed", "failed"]


class VcenterOperationRow(Row, frozen=True):
    table = Table("vcenter_operations", VERSION, indexes=("(vcenter_id, id)",))
    id: int
    vcenter_id: int
    kind: Kind
    status: Status
    position: int
    """Position of the request in the log."""
    vm_id: str
    """Id of the virtual machine; empty for an operation on the whole vCenter."""
    requested_at: datetime
    ended_at: datetime | None = None
    error: str = ""
    """A sentence that says why the operation failed; empty if it did not."""


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case VcenterOperationRequested():
            yield VcenterOperationRow(
                event.operation_id, event.vcenter_id, event.kind, "running", recorded.position, event.vm_id, event.at
            )
        case VcenterOperationCompleted():
            if row := rows.get(VcenterOperationRow, event.operation_id):
                yield msgspec.structs.replace(row, status="completed", ended_at=event.at)
        case VcenterOperationFailed():
            if row := rows.get(VcenterOperationRow, event.operation_id):
                yield msgspec.structs.replace(row, status="failed", ended_at=event.at, error=event.error)
        case VcenterDeleted():
            yield DeleteWhere(VcenterOperationRow, "vcenter_id", event.vcenter_id)


PROJECTION = Projection(
    "vcenter_operations",
    VERSION,
    (VcenterOperationRow,),
    row_of(VcenterOperationRow, "operation_id", VcenterOperationCompleted, VcenterOperationFailed),
    apply,
    handles=(VcenterOperationRequested, VcenterOperationCompleted, VcenterOperationFailed, VcenterDeleted),
)


async def fetch_page(source: Source, vcenter_id: int, **window: Unpack[Window]) -> list[VcenterOperationRow]:
    """Returns a page of the operations on a vCenter, ordered by id."""
    return await fetch_all(
        source,
        VcenterOperationRow,
        f"SELECT * FROM {VcenterOperationRow.table} WHERE vcenter_id = %(vcenter)s AND id > %(after)s"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"vcenter": vcenter_id, **window},
    )


async def fetch_running(source: Source) -> list[VcenterOperationRow]:
    """Returns the operations that are under way, on any vCenter, ordered by id."""
    return await fetch_all(
        source,
        VcenterOperationRow,
        f"SELECT * FROM {VcenterOperationRow.table} WHERE status = 'running' ORDER BY id",
        {},
    )


async def find(source: Source, operation_id: int) -> VcenterOperationRow | None:
    return await find_row(source, VcenterOperationRow, operation_id)
