"""Node pools."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import Provide
from litestar.params import Parameter
from msgspec import Meta

from api.acting import Acting
from api.permissions import User
from api.types import MAX_ID, Id, Name, Paged, next_page, provide_paged
from commands.pools import CreatePool
from domain.errors import Invalid
from projections import pools
from projections.pools import PoolView

Label = Annotated[str, Meta(max_length=200)]
MAX_LABELS = 100


class NewPool(msgspec.Struct):
    name: Name
    project_id: Id
    labels: dict[Label, Label] = {}
    max_parallel: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """None: as many as its nodes take."""
    shared: bool = False
    """Usable by the jobs of every project; only who manages nodes may say so."""


class PoolController(Controller):
    path = "/node-pools"
    tags = ["Node Pools"]

    @get(dependencies={"paged": Provide(provide_paged, sync_to_thread=False)})
    async def list_pools(
        self,
        request: Request[User, Any, Any],
        act: Acting,
        paged: Paged,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter pools by project")] = None,
    ) -> Response[list[PoolView]]:
        """The pools of the caller's projects and the shared ones, by id."""
        async with act.reading() as connection:
            found = await pools.listing(
                connection,
                projects=request.user.projects,
                project_id=project_id,
                after=paged.after,
                offset=paged.offset,
                limit=paged.limit,
            )
        return Response(found, headers=next_page(request, paged, [pool.id for pool in found]))

    @post()
    async def create(self, request: Request[User, Any, Any], act: Acting, data: NewPool) -> PoolView:
        request.user.must("admin", data.project_id, f"project {data.project_id}")
        if data.shared:
            request.user.must_manage_nodes()
        if len(data.labels) > MAX_LABELS:
            raise Invalid.field("labels", f"must have at most {MAX_LABELS} entries")
        pool_id = await act.services.ids.draw("node_pools")
        await act(
            CreatePool(
                pool_id=pool_id,
                project_id=data.project_id,
                title=data.name,
                claim=act.services.secrets.claim("pool-name", f"{data.project_id}/{data.name}"),
                labels=data.labels,
                max_parallel=data.max_parallel,
                shared=data.shared,
            )
        )
        return PoolView(
            id=pool_id,
            name=data.name,
            project_id=data.project_id,
            node_count=0,
            labels=data.labels,
            max_parallel=data.max_parallel,
            shared=data.shared,
        )
