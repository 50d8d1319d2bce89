"""vCenter integrations: vCenter servers whose virtual machines run agents."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, NODE_MANAGERS
from api.http.request_context import RequestContext
from api.http.types import Name, to_view
from commands.value_checks import described_as
from commands.vcenter import CreateVcenter, DeleteVcenter, UpdateVcenter
from domain.vcenter import VcenterCreated
from projections import vcenter
from projections.vcenter import VcenterRow, new_row

Host = Annotated[str, Meta(min_length=1, max_length=300), described_as(format="host-and-port")]
Username = Annotated[str, Meta(min_length=1, max_length=300)]
Password = Annotated[str, Meta(min_length=1, max_length=1_000)]
ObjectName = Annotated[str, Meta(min_length=1, max_length=200)]


class NewVcenter(msgspec.Struct):
    name: Name
    host: Host
    """Name or address of the vCenter, with `:PORT` behind it if the port is not 443."""
    username: Username
    """Name of the vCenter account that the server uses."""
    password: Password
    """Password of the account. Write-only."""
    datacenter: ObjectName
    """Name of the datacenter whose virtual machines the server uses."""
    insecure: bool = False
    """Whether the certificate of the vCenter is not checked. Then somebody between the server and the vCenter can read
    the password.
    """
    cluster: ObjectName | None = None
    """Name of the cluster for new machines; null for the cluster that their template is in."""


class VcenterChanges(msgspec.Struct):
    """Changes of a vCenter integration. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    host: Host | UnsetType = UNSET
    """Name or address of the vCenter. A request that changes it must contain the `password` too."""
    username: Username | UnsetType = UNSET
    """Name of the vCenter account that the server uses."""
    password: Password | UnsetType = UNSET
    """New password of the account."""
    datacenter: ObjectName | UnsetType = UNSET
    """Name of the datacenter whose virtual machines the server uses."""
    insecure: bool | UnsetType = UNSET
    """Whether the certificate of the vCenter is not checked. Changing it to true needs the `password` again."""
    cluster: ObjectName | UnsetType | None = UNSET
    """Name of the cluster for new machines; null for the cluster that their template is in."""


class VcenterItem(msgspec.Struct):
    id: int
    name: str
    host: str
    """Name or address of the vCenter."""
    datacenter: str
    """Name of the datacenter whose virtual machines the server uses."""
    cluster: str | None
    """Name of the cluster for new machines; null for the cluster that their template is in."""
    insecure: bool
    """Whether the certificate of the vCenter is not checked."""
    username: str | None
    """Name of the vCenter account; null for callers who may not manage nodes."""
    connected: bool
    """Whether the server could sign in, and saw the datacenter and the cluster, when it last tried. It tries after each
    change, and with each operation.
    """
    vcenter_version: str | None
    """Version of the vCenter; null if the last try failed."""
    last_error: str | None
    """Error of the last try to reach the vCenter; null if the try succeeded."""
    last_error_at: datetime | None
    """Time since when tries fail with `last_error`; null without an error."""
    created_at: datetime
    updated_at: datetime


class VcenterController(Controller):
    path = "/vcenter"
    tags = ["vCenter"]

    @get(guards=[CAN_READ])
    async def list_vcenters(self, ctx: RequestContext, paged: Paged) -> Response[list[VcenterItem]]:
        """Returns a page of the vCenter integrations, ordered by id."""
        found = await vcenter.fetch_page(ctx.source, **paged.window)
        return paginate(ctx.request, paged, [to_item(ctx, row) for row in found])

    @post(guards=[NODE_MANAGERS])
    async def create_vcenter(self, ctx: RequestContext, data: NewVcenter) -> VcenterItem:
        """Connects a vCenter. A worker signs in at once, and `connected` then says whether it succeeded."""
        await ctx.services.vcenters.check_host(data.host, is_admin=ctx.user.is_admin)
        receipt = await ctx(
            CreateVcenter(
                vcenter_id=await ctx.services.ids.draw("vcenter"),
                title=data.name,
                host=data.host,
                username=data.username,
                sealed_password=ctx.services.secrets.seal(data.password),
                datacenter=data.datacenter,
                cluster=data.cluster or "",
                insecure=data.insecure,
            )
        )
        created = receipt.events[0].event
        assert isinstance(created, VcenterCreated)
        return to_item(ctx, new_row(created))

    @get("/{id:int}", guards=[CAN_READ])
    async def get_vcenter(self, ctx: RequestContext, id: int) -> VcenterItem:
        """Returns a vCenter integration without its password."""
        return to_item(ctx, await find_vcenter(ctx, id))

    @put("/{id:int}", guards=[NODE_MANAGERS])
    async def update_vcenter(self, ctx: RequestContext, id: int, data: VcenterChanges) -> VcenterItem:
        """Changes a vCenter integration. A worker then signs in again."""
        await find_vcenter(ctx, id)
        if data.host is not UNSET:
            await ctx.services.vcenters.check_host(data.host, is_admin=ctx.user.is_admin)
        await ctx(
            UpdateVcenter(
                id,
                title=None if data.name is UNSET else data.name,
                host=None if data.host is UNSET else data.host,
                username=None if data.username is UNSET else data.username,
                sealed_password=None if data.password is UNSET else ctx.services.secrets.seal(data.password),
                datacenter=None if data.datacenter is UNSET else data.datacenter,
                cluster=None if data.cluster is UNSET else data.cluster or "",
                insecure=None if data.insecure is UNSET else data.insecure,
            )
        )
        return to_item(ctx, await find_vcenter(ctx, id))

    @delete("/{id:int}", guards=[NODE_MANAGERS])
    async def delete_vcenter(self, ctx: RequestContext, id: int) -> None:
        """Deletes a vCenter integration. The virtual machines stay as they are."""
        await find_vcenter(ctx, id)
        await ctx(DeleteVcenter(id))


async def find_vcenter(ctx: RequestContext, vcenter_id: int) -> VcenterRow:
    return await ctx.find(vcenter.find, "vCenter", vcenter_id)


def to_item(ctx: RequestContext, row: VcenterRow) -> VcenterItem:
    return to_view(
        VcenterItem,
        row,
        cluster=row.cluster or None,
        username=row.username if ctx.user.may_manage_nodes else None,
        connected=row.version is not None,
        vcenter_version=row.version,
    )
