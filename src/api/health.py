"""Liveness, readiness and what this server is."""

from datetime import timedelta
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get

from api.http.request_context import RequestContext
from api.http.security import PUBLIC
from projections import audit_trail
from projections.engine.read_your_writes import LIMIT_S
from projections.engine.schemas import missing
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.tables.reactions import has_parked

SEALED_WITHIN = timedelta(minutes=5)
"""Checkpoints come every few seconds; after this time something is wrong."""


class Health(msgspec.Struct):
    status: str
    version: str
    build: str


class Readiness(msgspec.Struct):
    status: str
    """`ok`, `degraded: ...` when events could not be projected or reacted to or the log is not sealed, or
    what is missing.
    """
    position: int
    """The newest position in the log."""
    projected: int
    """The position that all read models have reached."""


class HealthController(Controller):
    tags = ["Health"]
    opt = PUBLIC

    @get("/healthz")
    async def healthz(self, request: Request[Any, Any, Any], ctx: RequestContext) -> Health:
        """Alive. Asks nothing of the database. `degraded` when there are events that could not be projected."""
        status = "degraded" if ctx.services.waiter.degraded else "ok"
        return Health(status, ctx.services.version, ctx.services.build)

    @get("/readyz")
    async def readyz(self, ctx: RequestContext) -> Response[Readiness]:
        """200 once the database answers and the read models are at the log's end; 503 until then."""
        services = ctx.services
        head = await services.log.read_head()
        async with ctx.reading() as connection:
            lacking = await missing(connection, PROJECTIONS)
            parked = await has_parked(connection)
        if lacking:
            names = " ".join(projection.name for projection in lacking)
            status = f"read models are not built yet: run `testhide projections rebuild {names} --switch`"
            return Response(Readiness(status, head, 0), status_code=503)
        if not (await services.waiter.reached(head) and await services.waiter.read_position() >= head):
            status = f"read models more than {LIMIT_S:.0f} s behind"
            return Response(Readiness(status, head, await services.waiter.read_position()), status_code=503)
        async with ctx.reading() as connection:
            unsealed = await audit_trail.has_unsealed(connection, utcnow() - SEALED_WITHIN)
        status = "ok"
        if services.waiter.degraded:
            status = "degraded: events are parked, see `testhide projections status`"
        elif parked:
            status = "degraded: reactions are parked, see `testhide reactions status`"
        elif unsealed:
            status = "degraded: the log is not sealed any more, see what `testhide work` logs"
        return Response(Readiness(status, head, head))
