"""Keeps the server's knowledge of vCenters up to date: reads their virtual machines every few minutes, deletes machines
that a failed operation has left over, and ends operations that nobody carries out any more.
"""

from collections.abc import Collection
from dataclasses import dataclass

import structlog
from psycopg_pool import AsyncConnectionPool

from commands.handler import CommandContext, Handler
from commands.vcenter_operations import FailVcenterOperation, RequestVcenterOperation
from domain.core.errors import Rejection
from domain.vcenter_operations import (
    CARRYING_OUT,
    VCENTER_OPERATION,
    VcenterOperationFailed,
    find_operation_id,
)
from domain.vcenter_vms import VirtualMachine
from projections import vcenter, vcenter_operations
from store.log.event_log import EventLog
from store.log.ids import Ids
from store.tables.reactions import find_given_up
from workers.vcenter import VcenterOperator

log = structlog.get_logger()

SYNC_INTERVAL_S = 300.0
"""Seconds between two syncs of a vCenter."""
CHECK_INTERVAL_S = 30.0
"""Seconds between two searches for operations that nobody carries out any more."""
GIVEN_UP = (
    "A fault of this server kept it from being carried out; `testhide reactions status` says which. It is not known how"
    " the operation ended."
)
CALLER = CommandContext("system:vcenter")


@dataclass(frozen=True)
class VcenterWatch:
    pool: AsyncConnectionPool
    log: EventLog
    handler: Handler
    ids: Ids
    operator: VcenterOperator

    async def sync_all(self) -> None:
        """Reads the machines of all vCenters, and requests the deletion of machines that are left over from failed
        operations.
        """
        for vcenter_id in await vcenter.fetch_ids(self.pool):
            vms = await self.operator.sync(vcenter_id)
            under_way = await vcenter_operations.fetch_running(self.pool)
            handled = {row.vm_id for row in under_way if row.vcenter_id == vcenter_id}
            for vm in vms:
                if vm.vm_id not in handled and await self._is_left_over(vcenter_id, vm):
                    log.warning("deleting a virtual machine that is left over", vcenter=vcenter_id, vm=vm.vm_id)
                    await self._delete(vcenter_id, vm)

    async def end_given_up(self) -> int:
        """Fails the operations whose reaction is parked or was cancelled. Returns their number."""
        running = {row.position: row.id for row in await vcenter_operations.fetch_running(self.pool)}
        given_up: Collection[int] = await find_given_up(self.pool, CARRYING_OUT, list(running))
        for position in given_up:
            await self.handler.execute(FailVcenterOperation(running[position], "timeout", GIVEN_UP), CALLER)
        return len(given_up)

    async def _is_left_over(self, vcenter_id: int, vm: VirtualMachine) -> bool:
        """Returns whether the machine was made by an operation of this server that has failed, and has no registered
        agent.
        """
        operation_id = find_operation_id(vm.name)
        made_by = None if operation_id is None else await self.log.load_state(VCENTER_OPERATION.at(operation_id))
        if made_by is None or (made_by.vm_name, made_by.vcenter_id) != (vm.name, vcenter_id):
            return False
        return isinstance(made_by.end, VcenterOperationFailed) and made_by.node_id is None

    async def _delete(self, vcenter_id: int, vm: VirtualMachine) -> None:
        operation_id = await self.ids.draw("vcenter_operations")
        try:
            await self.handler.execute(
                RequestVcenterOperation(operation_id, vcenter_id, "delete", vm_id=vm.vm_id), CALLER
            )
        except Rejection as error:
            log.info("not requested", vcenter=vcenter_id, vm=vm.vm_id, detail=error.detail)
