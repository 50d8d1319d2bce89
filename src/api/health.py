"""Health of the server: liveness, readiness, and how far projections and reactions have followed the log."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, TypeVar

import msgspec
from litestar import Controller, Response, get
from litestar.openapi.datastructures import ResponseSpec

from api.http.permissions import User
from api.http.request_context import RequestContext
from api.http.security import PUBLIC
from domain.core.errors import Unavailable
from projections import audit_trail
from projections.engine.read_your_writes import WAIT_TIMEOUT_S
from projections.engine.schemas import find_missing
from projections.rebuild.status import Standing, overview
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.tables import reactions
from store.tables.reactions import ReactionStanding

S = TypeVar("S", Standing, ReactionStanding)

SEAL_OVERDUE = timedelta(minutes=5)
"""Age of the oldest event without a checkpoint at which the server counts as degraded; checkpoints come every few
seconds.
"""


class Liveness(msgspec.Struct):
    status: Literal["ok", "degraded"]
    version: str
    build: str
    """Commit that the server was built from."""


class Readiness(msgspec.Struct):
    status: str
    """`ok`; `degraded: ...` when events are parked or the log is not sealed; or what is missing."""
    position: int
    """Position of the newest event in the log."""
    projected: int
    """Position that all read models have reached."""


class HealthController(Controller):
    tags = ["Health"]
    opt = PUBLIC

    @get("/healthz")
    async def get_health(self, ctx: RequestContext) -> Liveness:
        """Alive; asks nothing of the database. `degraded` when some events could not be projected."""
        status: Literal["ok", "degraded"] = "degraded" if ctx.services.waiter.is_degraded else "ok"
        return Liveness(status, ctx.services.version, ctx.services.build)

    @get(
        "/readyz",
        responses={503: ResponseSpec(Readiness, description="Not ready", generate_examples=False)},
        opt={"problems": (Unavailable,)},
    )
    async def get_readiness(self, ctx: RequestContext) -> Response[Readiness]:
        """200 once the database answers and the read models are at the log's end; 503 until then."""
        services = ctx.services
        head = await services.log.read_head()
        async with ctx.reading() as connection:
            lacking = await find_missing(connection, PROJECTIONS)
            parked = await reactions.has_parked(connection)
            unsealed = not lacking and await audit_trail.has_unsealed(connection, utcnow() - SEAL_OVERDUE)
        if lacking:
            names = " ".join(projection.name for projection in lacking)
            status = f"read models are not built yet: run `testhide projections rebuild {names} --switch`"
            return Response(Readiness(status, head, 0), status_code=503)
        if not (await services.waiter.wait_reached(head) and await services.waiter.read_position() >= head):
            status = f"read models more than {WAIT_TIMEOUT_S:.0f} s behind"
            return Response(Readiness(status, head, await services.waiter.read_position()), status_code=503)
        status = "ok"
        if services.waiter.is_degraded:
            status = "degraded: events are parked, see `testhide projections status`"
        elif parked:
            status = "degraded: reactions are parked, see `testhide reactions status`"
        elif unsealed:
            status = "degraded: the log is not sealed any more, see what `testhide work` logs"
        return Response(Readiness(status, head, head))


class ProjectionController(Controller):
    path = "/projections"
    tags = ["Projections"]

    @get("")
    async def list_projections(self, ctx: RequestContext) -> Sequence[Standing]:
        """Every read model in each of its versions: how far it is, and what it could not take. Only admins see texts of
        errors.
        """
        head = await ctx.services.log.read_head()
        async with ctx.reading() as connection:
            found = await overview(connection, PROJECTIONS, head)
        return without_errors(found, ctx.user)


class ReactionController(Controller):
    path = "/reactions"
    tags = ["Reactions"]

    @get("")
    async def list_reactions(self, ctx: RequestContext) -> Sequence[ReactionStanding]:
        """Every reaction: how far it is, and what it failed to do. Only admins see texts of errors."""
        async with ctx.reading() as connection:
            return without_errors(await reactions.fetch_standings(connection), ctx.user)


def without_errors(standings: Sequence[S], user: User) -> Sequence[S]:
    """Removes the texts of errors, which may quote any project's data, unless the user is an admin."""
    if not user.is_admin:
        for standing in standings:
            standing.errors = []
    return standings
