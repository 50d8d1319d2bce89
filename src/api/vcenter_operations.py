"""Operations on vCenters, which a worker carries out. Each request and the end of its operation are events, so they
outlive a restart of the server or the worker.
"""

import secrets
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.params import Parameter
from msgspec import Meta

from api.http.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Paged, next_page, paginate
from api.http.permissions import CAN_READ, NODE_MANAGERS, User
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.live.requested_work import request_work
from api.pools import check_may_move
from api.vcenter import find_vcenter
from commands.vcenter_operations import RequestVcenterOperation
from domain.core.errors import Conflict, NotFound, OutsideFailure, OutsideTimeout, StillRunning
from domain.vcenter import VCENTER
from domain.vcenter_operations import (
    CARRYING_OUT,
    VCENTER_OPERATION,
    Kind,
    OperationEnd,
    VcenterOperation,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    end_notification,
    make_vm_name,
)
from domain.vcenter_vms import PowerAction, PowerState
from projections import vcenter_operations, vcenter_vms
from projections.vcenter_operations import Status, VcenterOperationRow
from store.tables.reactions import find_progress

MachineId = Annotated[
    str,
    Meta(
        min_length=1, max_length=100, pattern=r"^[\w-]+\Z", description="an id of a machine in the vCenter, like vm-42"
    ),
]
VmId = Annotated[str, Parameter(max_length=100, pattern=r"^[\w-]+\Z", description="Id of the machine in the vCenter")]
ANSWER_TIMEOUT_S = 30.0
"""Seconds that a request waits for the end of its operation. A longer operation goes on, and the request is answered
with 504.
"""
PROBLEMS = {"problems": (StillRunning, NotFound, Conflict, OutsideFailure, OutsideTimeout)}


class TestedVcenter(msgspec.Struct):
    connected: bool
    """Whether the server could sign in, and sees the datacenter and the cluster."""
    vcenter_version: str
    """Version of the vCenter; empty if the test failed."""
    latency_ms: int
    """Milliseconds that the vCenter took to answer the first request, connecting included; 0 if the test failed."""
    error: str
    """A sentence that says why the test failed; empty if it did not."""


class SyncedVcenter(msgspec.Struct):
    synced_vms: int
    """Number of virtual machines and templates in the datacenter."""
    updated: int
    """Number of virtual machines and templates that are new, changed or gone since the last sync."""
    duration_ms: int
    """Milliseconds that the vCenter took to list the machines and templates."""


class PowerChange(msgspec.Struct):
    vm_id: MachineId
    """Id that the vCenter has for the virtual machine, such as `vm-1042`."""
    action: PowerAction
    """Action to take. `reboot` asks the operating system to reboot. If VMware Tools do not run in the machine, the
    machine is reset instead.
    """


class ChangedPower(msgspec.Struct):
    vm_id: str
    """Id that the vCenter has for the virtual machine."""
    action: PowerAction
    """Action that was taken."""
    status: PowerState
    """Power state of the virtual machine now."""


class NewVm(msgspec.Struct):
    template_id: MachineId
    """Id that the vCenter has for the template, or for the virtual machine, that is cloned."""
    pool_id: Id | None = None
    """Id of the node pool of the machine's node; null for none."""


class ClonedVm(msgspec.Struct):
    vm_id: str
    """Id that the vCenter has for the new virtual machine."""
    name: str
    power_state: PowerState
    """Power state of the virtual machine now."""


class RevertedVm(msgspec.Struct):
    vm_id: str
    """Id that the vCenter has for the virtual machine."""
    power_state: PowerState
    """Power state of the virtual machine now."""


class VmItem(msgspec.Struct):
    vm_id: str
    """Id that the vCenter has for the virtual machine, such as `vm-1042`."""
    name: str
    power_state: PowerState
    """Power state at the last sync, or after the last operation on the machine."""
    resource_pool: str
    """Name of the resource pool; empty for a template."""
    is_template: bool
    """Whether this is a template, which cannot be powered on."""
    changed_at: datetime
    """Time at which the server noticed the last change."""


class VcenterOperationItem(msgspec.Struct):
    id: int
    vcenter_id: int
    """Id of the vCenter integration."""
    kind: Kind
    """The kind of the requested operation."""
    vm_id: str
    """Id that the vCenter has for the virtual machine; empty for an operation on the whole vCenter."""
    status: Status
    """Whether the operation is under way, was completed, or failed."""
    requested_at: datetime
    """Time of the request."""
    ended_at: datetime | None
    """Time at which the operation ended; null while it is under way."""
    error: str
    """A sentence that says why the operation failed; empty if it did not."""


class VcenterOperationProgress(VcenterOperationItem):
    progress: str | None
    """How much of the operation is done, such as `40 %`. Null if the vCenter has not reported any progress, or if the
    operation has ended.
    """


class VcenterOperationController(Controller):
    path = "/vcenter/{id:int}"
    tags = ["vCenter"]

    @post("/test", status_code=200, guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def test_vcenter(self, request: Request[User, Any, Any], ctx: RequestContext, id: int) -> TestedVcenter:
        """Signs in to the vCenter with the stored credentials, and looks for the datacenter and the cluster. Returns
        the vCenter's version, or what is wrong.
        """
        end = await carry_out(request, ctx, id, "test")
        if isinstance(end, VcenterOperationFailed):
            return TestedVcenter(False, "", 0, end.error)
        return TestedVcenter(True, end.version, end.latency_ms, "")

    @post("/sync", status_code=200, guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def sync_vcenter(self, request: Request[User, Any, Any], ctx: RequestContext, id: int) -> SyncedVcenter:
        """Reads all virtual machines of the datacenter from the vCenter: their names, power states and resource
        pools.
        """
        end = must_be_completed(await carry_out(request, ctx, id, "sync"))
        return to_view(SyncedVcenter, end)

    @post("/vm/power", status_code=200, guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def change_vm_power(
        self, request: Request[User, Any, Any], ctx: RequestContext, id: int, data: PowerChange
    ) -> ChangedPower:
        """Powers a virtual machine on or off, reboots or suspends it. Answers 409 if its power state forbids this, for
        example if it is powered on already.
        """
        end = must_be_completed(await carry_out(request, ctx, id, data.action, vm_id=data.vm_id))
        assert end.power_state is not None
        return ChangedPower(end.vm_id, data.action, end.power_state)

    @get("/vms", guards=[CAN_READ], opt={"headers": ("Link",)})
    async def list_vcenter_vms(
        self,
        ctx: RequestContext,
        id: int,
        power_state: Annotated[PowerState | None, Parameter(description="Filter by power state")] = None,
        page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")] = DEFAULT_PAGE_SIZE,
    ) -> Response[list[VmItem]]:
        """Returns a page of the virtual machines and templates that the last sync has found, ordered by name."""
        await find_vcenter(ctx, id)
        found = await vcenter_vms.fetch_page(ctx.source, id, power_state, offset=(page - 1) * limit, limit=limit)
        headers = next_page(ctx.request, limit, [page + 1] * len(found), key="page")
        return Response([to_view(VmItem, row) for row in found], headers=headers)

    @post("/vms", guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def clone_vm(self, request: Request[User, Any, Any], ctx: RequestContext, id: int, data: NewVm) -> ClonedVm:
        """Clones a virtual machine or template, takes a snapshot of the new machine, and powers it on. The new machine
        finds the server's URL and a registration token, which works once, in its `guestinfo`. With them, its agent
        registers as a node.
        """
        if data.pool_id is not None:
            await check_may_move(ctx, data.pool_id)
        fields = {"vm_id": data.template_id, "pool_id": data.pool_id}
        end = must_be_completed(await carry_out(request, ctx, id, "clone", **fields))
        assert end.power_state is not None
        operation = await ctx.services.log.load_state(VCENTER_OPERATION.at(end.operation_id))
        assert operation is not None
        return ClonedVm(end.vm_id, operation.vm_name, end.power_state)

    @post("/vms/{vm_id:str}/revert", status_code=200, guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def revert_vm(
        self, request: Request[User, Any, Any], ctx: RequestContext, id: int, vm_id: VmId
    ) -> RevertedVm:
        """Reverts a virtual machine to the snapshot that was taken before it was first powered on, and powers it on.
        The server must have made the machine. The machine gets a new registration token in its `guestinfo`, with which
        its agent registers again, as the same node. A build that runs on the machine is queued again.
        """
        end = must_be_completed(await carry_out(request, ctx, id, "revert", vm_id=vm_id))
        assert end.power_state is not None
        return RevertedVm(end.vm_id, end.power_state)

    @delete("/vms/{vm_id:str}", guards=[NODE_MANAGERS], opt=PROBLEMS)
    async def delete_vm(self, request: Request[User, Any, Any], ctx: RequestContext, id: int, vm_id: VmId) -> None:
        """Powers off a virtual machine that the server has made, and deletes it with its disks and its node."""
        must_be_completed(await carry_out(request, ctx, id, "delete", vm_id=vm_id))

    @get("/operations", guards=[CAN_READ])
    async def list_vcenter_operations(
        self, ctx: RequestContext, id: int, paged: Paged
    ) -> Response[list[VcenterOperationItem]]:
        """Returns a page of the operations on a vCenter, ordered by id."""
        await find_vcenter(ctx, id)
        found = await vcenter_operations.fetch_page(ctx.source, id, **paged.window)
        return paginate(ctx.request, paged, [to_view(VcenterOperationItem, row) for row in found])

    @get("/operations/{operation_id:int}", guards=[CAN_READ])
    async def get_vcenter_operation(self, ctx: RequestContext, id: int, operation_id: int) -> VcenterOperationProgress:
        """Returns an operation on a vCenter: whether it is under way, and how it ended."""
        await find_vcenter(ctx, id)
        row: VcenterOperationRow = await ctx.find(vcenter_operations.find, "operation", operation_id)
        if row.vcenter_id != id:
            raise NotFound(f"There is no operation {operation_id} on vCenter {id}.")
        progress = await find_progress(ctx.source, CARRYING_OUT, row.position) if row.status == "running" else None
        return to_view(VcenterOperationProgress, row, progress=progress)


async def carry_out(
    request: Request[User, Any, Any], ctx: RequestContext, vcenter_id: int, kind: Kind, **fields: Any
) -> OperationEnd:
    """Requests an operation, waits until it has ended, and returns the event that ended it. Raises StillRunning if the
    operation takes longer than ANSWER_TIMEOUT_S, and NotFound if the vCenter is deleted meanwhile. `fields` are further
    fields of the command.
    """
    operation_id = await ctx.services.ids.draw("vcenter_operations")

    async def find_end() -> OperationEnd | None:
        vcenter = await ctx.services.log.load_state(VCENTER.at(vcenter_id))
        if vcenter is not None and vcenter.deleted:
            raise NotFound(f"There is no vCenter {vcenter_id} any more.")
        operation: VcenterOperation | None = await ctx.services.log.load_state(VCENTER_OPERATION.at(operation_id))
        return None if operation is None else operation.end

    if kind == "clone":
        fields["vm_name"] = make_vm_name(operation_id, secrets.token_hex(4))
    command = RequestVcenterOperation(operation_id, vcenter_id, kind, **fields)
    end: OperationEnd | None = await request_work(
        request, ctx, command, end_notification(operation_id), find_end, ANSWER_TIMEOUT_S
    )
    if end is None:
        raise StillRunning(
            f"vCenter {vcenter_id} has not done this in {ANSWER_TIMEOUT_S:.0f} s; ask for the operation later.",
            f"/api/v3/vcenter/{vcenter_id}/operations/{operation_id}",
        )
    await ctx.wait_until_all_shown()
    return end


def must_be_completed(end: OperationEnd) -> VcenterOperationCompleted:
    """Returns the event that ended an operation if the operation was completed. If it failed, raises the error that
    fits the failure.
    """
    if isinstance(end, VcenterOperationFailed):
        match end.failure:
            case "missing":
                raise NotFound(end.error)
            case "refused":
                raise Conflict(end.error)
            case "outside":
                raise OutsideFailure(end.error)
            case "timeout":
                raise OutsideTimeout(end.error)
    return end
