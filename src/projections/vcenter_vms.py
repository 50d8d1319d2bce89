"""Read model of the virtual machines of vCenters."""

from collections.abc import Iterable
from datetime import datetime

from domain.core.events import Recorded, copy_fields
from domain.vcenter import VcenterDeleted
from domain.vcenter_vms import PowerState, VcenterVmsChanged
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, no_rows
from projections.engine.queries import fetch_all
from store.postgres.queries import Source

VERSION = 1


class VcenterVmRow(Row, frozen=True):
    table = Table("vcenter_vms", VERSION, key=("vcenter_id", "vm_id"))
    vcenter_id: int
    vm_id: str
    name: str
    power_state: PowerState
    resource_pool: str
    is_template: bool
    changed_at: datetime


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case VcenterVmsChanged():
            for vm_id in event.removed:
                yield Delete(VcenterVmRow, event.vcenter_id, vm_id)
            for vm in event.changed:
                yield copy_fields(VcenterVmRow, vm, vcenter_id=event.vcenter_id, changed_at=event.at)
        case VcenterDeleted():
            yield DeleteWhere(VcenterVmRow, "vcenter_id", event.vcenter_id)


PROJECTION = Projection(
    "vcenter_vms", VERSION, (VcenterVmRow,), no_rows, apply, handles=(VcenterVmsChanged, VcenterDeleted)
)


async def fetch_page(
    source: Source, vcenter_id: int, power_state: PowerState | None, *, offset: int, limit: int
) -> list[VcenterVmRow]:
    """Returns a page of the machines of a vCenter, ordered by name. If `power_state` is None, returns machines in all
    power states.
    """
    return await fetch_all(
        source,
        VcenterVmRow,
        f"SELECT * FROM {VcenterVmRow.table} WHERE vcenter_id = %(vcenter)s"
        " AND (%(state)s::text IS NULL OR power_state = %(state)s)"
        " ORDER BY name, vm_id OFFSET %(offset)s LIMIT %(limit)s",
        {"vcenter": vcenter_id, "state": power_state, "offset": offset, "limit": limit},
    )
