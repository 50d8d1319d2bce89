"""Liveness, readiness and what this server is."""

from typing import Any

import msgspec
from litestar import Controller, Request, Response, get

from api.acting import Acting
from api.security import PUBLIC
from projections.waiting import LIMIT_S


class Health(msgspec.Struct):
    status: str
    version: str
    build: str


class Readiness(msgspec.Struct):
    status: str
    position: int
    """The newest position in the log."""
    projected: int
    """The position that all read models have reached."""


class HealthController(Controller):
    tags = ["Health"]
    opt = PUBLIC

    @get("/healthz")
    async def healthz(self, request: Request[Any, Any, Any], act: Acting) -> Health:
        """Alive. Asks nothing of the database."""
        return Health("ok", act.services.version, act.services.build)

    @get("/readyz")
    async def readyz(self, act: Acting) -> Response[Readiness]:
        """200 once the database answers and the read models are at the log's end; 503 until then."""
        head = await act.services.log.head()
        ready = await act.services.waiter.wait(head) and await act.services.waiter.read_position() >= head
        answer = Readiness(
            "ok" if ready else f"read models more than {LIMIT_S:.0f} s behind", head, head if ready else 0
        )
        if not ready:
            answer.projected = await act.services.waiter.read_position()
        return Response(answer, status_code=200 if ready else 503)
