"""Autoscaling of node pools: machines on demand, between a minimum and a maximum."""

from typing import Annotated

import msgspec
from litestar import Controller, delete, get, put
from msgspec import Meta

from api.docker_agents import Cpus, Host, Image, MemoryMb
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.pools import check_may_change, check_may_move, find_visible_pool
from api.vcenter_operations import MachineId
from commands.autoscaling import RemoveAutoscaling, SetAutoscaling
from domain.autoscaling import AUTOSCALING, DockerSource, VcenterSource
from domain.core.errors import FieldError, Invalid, NotFound
from domain.vcenter import VCENTER
from projections import autoscaling
from projections.autoscaling import AutoscalingView

MAX_MACHINES = 1_000
"""Largest number of machines that the `maximum` of a pool can allow."""
DEFAULT_IDLE_S = 300
"""Seconds without a build after which a machine is destroyed, if the request does not set `idle_seconds`."""


class DockerMachines(msgspec.Struct):
    """Machines that are containers on a Docker host."""

    host: Host
    """Name of the Docker host, as the operator has configured it."""
    image: Image
    memory_mb: MemoryMb | None = None
    cpus: Cpus | None = None


class VcenterMachines(msgspec.Struct):
    """Machines that are cloned from a template of a vCenter."""

    vcenter_id: Id
    """Id of the vCenter integration."""
    template_id: MachineId
    """Id, in the vCenter, of the template or virtual machine that is cloned."""


class NewAutoscaling(msgspec.Struct):
    maximum: Annotated[int, Meta(ge=1, le=MAX_MACHINES)]
    docker: DockerMachines | None = None
    """Docker host on which the machines are spawned as containers. A pool has either `docker` or `vcenter`."""
    vcenter: VcenterMachines | None = None
    """Template in a vCenter from which the machines are cloned."""
    minimum: Annotated[int, Meta(ge=0, le=MAX_MACHINES)] = 0
    idle_seconds: Annotated[int, Meta(ge=5, le=86_400)] = DEFAULT_IDLE_S
    single_use: bool = False


class AutoscalingController(Controller):
    path = "/node-pools"
    tags = ["Node Pools"]

    @get("/{id:int}/autoscaling", guards=[CAN_READ])
    async def get_autoscaling(self, ctx: RequestContext, id: int) -> AutoscalingView:
        """Returns how a pool is scaled, its machines, and the last decisions with their reasons. Answers 404 if the
        pool is not scaled.
        """
        await find_visible_pool(ctx, id)
        return await _find(ctx, id)

    @put("/{id:int}/autoscaling", guards=[PROJECT_ADMINS])
    async def set_autoscaling(self, ctx: RequestContext, id: int, data: NewAutoscaling) -> AutoscalingView:
        """Sets how a pool is scaled. Machines are spawned while builds that could run in the pool wait for a free node,
        and destroyed when they are idle.

        Replaces all settings: a field that is left out gets its default again. If `maximum` is lowered, machines are
        destroyed as soon as they have no build. A new `idle_seconds` holds for all machines. `docker`, `vcenter` and
        `single_use` hold only for machines that are spawned from now on.
        """
        await _check_may_scale(ctx, id)
        await _check(ctx, data)
        docker = None if data.docker is None else to_view(DockerSource, data.docker)
        vcenter = None if data.vcenter is None else to_view(VcenterSource, data.vcenter)
        limits = data.minimum, data.maximum, data.idle_seconds
        await ctx(SetAutoscaling(id, *limits, docker, data.single_use, vcenter))
        return await _find(ctx, id)

    @delete("/{id:int}/autoscaling", guards=[PROJECT_ADMINS])
    async def remove_autoscaling(self, ctx: RequestContext, id: int) -> None:
        """Ends the scaling of a pool. Its machines are destroyed as soon as they run no build."""
        await _check_may_scale(ctx, id)
        if (await ctx.log.load_state(AUTOSCALING.at(id))).setting is None:
            raise _not_scaled(id)
        await ctx(RemoveAutoscaling(id))


async def _find(ctx: RequestContext, pool_id: int) -> AutoscalingView:
    found = await ctx.find_row(lambda source: autoscaling.find_view(source, pool_id))
    if found is None:
        raise _not_scaled(pool_id)
    return found


async def _check_may_scale(ctx: RequestContext, pool_id: int) -> None:
    """Raises Forbidden unless the caller may change the pool and may also spawn agents in it."""
    check_may_change(ctx, await find_visible_pool(ctx, pool_id))
    ctx.user.must_manage_nodes()
    await check_may_move(ctx, pool_id)


async def _check(ctx: RequestContext, data: NewAutoscaling) -> None:
    errors: list[FieldError] = []
    if data.minimum > data.maximum:
        errors.append(FieldError("minimum", "must not be larger than `maximum`"))
    if data.docker is None and data.vcenter is None:
        errors.append(FieldError("docker", "must be given, or `vcenter` instead"))
    if data.docker is not None and data.vcenter is not None:
        errors.append(FieldError("vcenter", "must not be given together with `docker`"))
    if data.docker is not None:
        try:
            ctx.services.docker.check(data.docker.host, data.docker.image)
        except Invalid as refused:
            errors += [FieldError(f"docker.{error.field}", error.message) for error in refused.errors]
    if data.vcenter is not None:
        vcenter = await ctx.services.log.load_state(VCENTER.at(data.vcenter.vcenter_id))
        if vcenter is None or vcenter.deleted:
            errors.append(FieldError("vcenter.vcenter_id", f"there is no vCenter {data.vcenter.vcenter_id}"))
    if errors:
        raise Invalid.fields(errors)


def _not_scaled(pool_id: int) -> NotFound:
    return NotFound(f"Node pool {pool_id} is not scaled.")
