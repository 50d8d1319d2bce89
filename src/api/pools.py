"""Node pools: groups of nodes to which jobs are routed."""

from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, PROJECT_ADMINS
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, changes_in, fields_of, to_view
from commands.configurations import Labels
from commands.pools import ONLY_ADMINS_TRUST, CreatePool, DeletePool, UpdatePool
from domain.core.errors import Forbidden
from domain.pools import POOL
from projections import pools
from projections.pools import PoolView

Limit = Annotated[int, Meta(ge=1, le=10_000)]


class NewPool(msgspec.Struct):
    name: Name
    project_id: Id
    labels: Labels = {}
    max_parallel: Limit | None = None
    """Largest number of builds that run in the pool at the same time. Null if only the limits of the nodes in the pool
    apply.
    """
    shared: bool = False
    """Whether jobs of all projects may use the pool. Only admins, and users who may manage nodes, can set this."""
    untrusted: bool = False


class PoolChanges(msgspec.Struct):
    """Changes of a pool. Fields that are left out stay unchanged. A `max_parallel` of null removes the limit."""

    name: Name | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    max_parallel: Limit | UnsetType | None = UNSET
    shared: bool | UnsetType = UNSET
    untrusted: bool | UnsetType = UNSET


class PoolController(Controller):
    path = "/node-pools"
    tags = ["Node Pools"]

    @get(guards=[CAN_READ])
    async def list_pools(
        self,
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter pools by project")] = None,
    ) -> Response[list[PoolView]]:
        """Returns a page of the shared pools and of the pools of the caller's projects, ordered by id."""
        found = await pools.fetch_page(ctx.source, projects=ctx.user.projects, project_id=project_id, **paged.window)
        return paginate(ctx.request, paged, found)

    @post(guards=[PROJECT_ADMINS])
    async def create_pool(self, ctx: RequestContext, data: NewPool) -> PoolView:
        """Creates a pool of nodes for the jobs of a project."""
        await ctx.must_access(data.project_id)
        if data.shared:
            ctx.user.must_manage_nodes()
        if data.untrusted and not ctx.user.is_admin:
            raise Forbidden(ONLY_ADMINS_TRUST)
        pool_id = await ctx.services.ids.draw("node_pools")
        claim = name_claim(ctx, data.project_id, data.name)
        receipt = await ctx(CreatePool(pool_id=pool_id, claim=claim, **fields_of(data, name="title")))
        pool = receipt.existing(POOL.at(pool_id))
        return to_view(PoolView, pool, id=pool_id, name=pool.title, node_count=0)

    @get("/{id:int}", guards=[CAN_READ])
    async def get_pool(self, ctx: RequestContext, id: int) -> PoolView:
        """Returns a pool."""
        return await find_visible_pool(ctx, id)

    @put("/{id:int}", guards=[PROJECT_ADMINS])
    async def update_pool(self, ctx: RequestContext, id: int, data: PoolChanges) -> PoolView:
        """Changes a pool. New limits and labels apply to builds that are assigned from now on."""
        pool = await find_visible_pool(ctx, id)
        check_may_change(ctx, pool)
        if data.shared not in (UNSET, pool.shared):
            ctx.user.must_manage_nodes()
        if data.untrusted not in (UNSET, pool.untrusted) and not ctx.user.is_admin:
            raise Forbidden(ONLY_ADMINS_TRUST)
        changes = changes_in(data, name="title")
        if not isinstance(data.name, UnsetType):
            changes["claim"] = name_claim(ctx, pool.project_id, data.name)
        # The command checks both rights again, since `pool` may be older than the log.
        await ctx(UpdatePool(id, **changes, may_share=ctx.user.may_manage_nodes, may_trust=ctx.user.is_admin))
        return await find_visible_pool(ctx, id)

    @delete("/{id:int}", guards=[PROJECT_ADMINS])
    async def delete_pool(self, ctx: RequestContext, id: int) -> None:
        """Deletes a pool. Its nodes stay, without a pool and in quarantine. If the pool is scaled, the machines that
        were spawned for it are destroyed with their nodes. Answers 409 while builds are queued or running in the pool.
        """
        check_may_change(ctx, await find_visible_pool(ctx, id))
        await check_may_move(ctx, id)
        await ctx.wait_for_head()
        async with ctx.reading() as connection:
            node_ids = await pools.fetch_node_ids(connection, id)
            active = await pools.count_active_builds(connection, id)
        await ctx(DeletePool(id, node_ids, active))


async def find_visible_pool(ctx: RequestContext, pool_id: int) -> PoolView:
    """Returns the pool. Raises NotFound if the pool is not shared and the user cannot see its project."""
    found = await ctx.find(pools.find, "node pool", pool_id)
    if not found.shared:
        await ctx.must_access(found.project_id, f"node pool {pool_id}", "read")
    return found


def check_may_change(ctx: RequestContext, pool: PoolView) -> None:
    if not ctx.user.may("read", pool.project_id):
        raise Forbidden(f"Node pool {pool.id} is shared, but only admins of its project change it.")
    ctx.user.must_access(ctx.needs.level, pool.project_id, f"node pool {pool.id}")


async def check_may_move(ctx: RequestContext, *pool_ids: int | None) -> None:
    """Raises Forbidden if a change would move a node into or out of an untrusted pool and the caller is no admin.
    `pool_ids` are the ids of the node's pools before and after the change; None stands for no pool.
    """
    if ctx.user.is_admin:
        return
    for pool_id in pool_ids:
        pool = None if pool_id is None else await ctx.log.load_state(POOL.at(pool_id))
        if pool is not None and pool.untrusted and not pool.deleted:
            raise Forbidden(
                f"Node pool {pool_id} is `untrusted`, so its nodes run commands of strangers: only admins add nodes to"
                " it, move them out of it, or delete it."
            )


def name_claim(ctx: RequestContext, project_id: int, name: str) -> str:
    return ctx.services.secrets.claim("pool-name", f"{project_id}/{name}")
