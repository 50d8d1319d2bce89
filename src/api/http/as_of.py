"""`?as_of=`: a resource as it was, by a position of the log or a time.

The answer is the representation of the live read at that place, folded from events; `Testhide-As-Of` says which
position that is. What no event tells (gauges, why a build waits) is left out. Who may: admins, and admins of the
project for what lies in it, with the rights of today. What has been erased since cannot be shown: 410.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request
from litestar.di import Provide
from litestar.params import Parameter
from msgspec import Meta
from psycopg import AsyncConnection

from api.http.permissions import User
from api.http.request_context import RequestContext
from api.http.services import Services
from api.http.types import MAX_ID
from domain.core.errors import Erased, Forbidden, Invalid, NotFound, Unavailable
from domain.core.events import UNSTAMPED, Event
from projections.time_travel.historical_reads import Recall, Subject
from store.clock import utcnow
from store.log.event_log import EventLog

AsOf = Annotated[
    str | None,
    Parameter(
        max_length=40,
        description="As it was at this position of the log, or at this time (RFC 3339, with its offset)",
    ),
]


class HistoricalContext(RequestContext):
    """Reads tables that hold a past state; executes no commands."""

    def __init__(
        self, services: Services, request: Request[Any, Any, Any], connection: AsyncConnection, at: datetime
    ) -> None:
        super().__init__(services, request, connection)
        self._at = at

    @property
    def is_historical(self) -> bool:
        return True

    @property
    def effective_time(self) -> datetime:
        return self._at


class Moment(msgspec.Struct, frozen=True):
    position: int
    at: datetime


def as_of(subject: Subject, parameter: str) -> dict[str, Any]:
    """Options of a GET handler that answers for the past too; `parameter` of its path or query is the subject's id."""

    async def provide(request: Request[User, Any, Any], as_of: AsOf = None) -> AsyncIterator[RequestContext]:
        services: Services = request.app.state.services
        number = _id(request, parameter)
        if as_of is None or number is None:
            yield RequestContext(services, request)
        else:
            async with _past(services, request, subject, number, as_of) as ctx:
                yield ctx

    return {"dependencies": {"ctx": Provide(provide)}, "opt": {"as_of": True}}


def refuse_elsewhere(request: Request[Any, Any, Any]) -> None:
    """Answering for today as if it were the past would be worse than not answering."""
    if "as_of" in request.query_params and not request.route_handler.opt.get("as_of"):
        raise Invalid.field(
            "as_of",
            "is not possible here; it is when a build, its report or tests, a job, its configuration or quarantine, a"
            " node, or a user's permissions are read",
        )


def _id(request: Request[Any, Any, Any], parameter: str) -> int | None:
    """None for what is no id: the handler says what is wrong with it."""
    given = str(request.path_params.get(parameter, request.query_params.get(parameter, "")))
    return int(given) if given.isascii() and given.isdigit() and 0 < len(given) < 17 and int(given) <= MAX_ID else None


@asynccontextmanager
async def _past(
    services: Services, request: Request[User, Any, Any], subject: Subject, number: int, as_of: str
) -> AsyncIterator[RequestContext]:
    name = f"{subject.prefix} {number}"
    history = (await services.log.load([subject.stream(number)]))[subject.stream(number)]
    if not history:
        raise NotFound(f"There is no {name}.")
    first = history[0].event
    _may_look_back(request.user, first, name)
    moment = await moment_of(services.log, as_of)
    request.state.as_of = moment.position
    # Which events are related to a thing is looked up in a read model.
    if not await services.waiter.reached(moment.position):
        raise Unavailable(f"The read models have not reached position {moment.position} yet; try again.")
    async with services.past.place():
        recall = Recall(services.pool, services.log, moment.position, subject.rows)
        await subject.recall(recall, first)
        if recall.tables.is_erased:
            raise Erased(
                f"What {name} was at position {moment.position} cannot be shown: its contents have been erased since."
            )
        async with services.past.showing(recall.tables) as connection:
            yield HistoricalContext(services, request, connection, moment.at)


def _may_look_back(user: User, first: Event, name: str) -> None:
    project_id: int | None = getattr(first, "project_id", None)
    if project_id is not None:
        user.must("admin", project_id, name)
    elif not user.is_admin:
        raise Forbidden("Only admins look at the past of what belongs to no project.")


async def moment_of(event_log: EventLog, as_of: str) -> Moment:
    """Raises Invalid for what is no position or time, and for what is still to come."""
    head = await event_log.read_head()
    if as_of.isascii() and as_of.isdigit():
        position = int(as_of)
        if position > head:
            raise Invalid.field("as_of", f"is beyond the newest position, which is {head}")
        return Moment(position, await _time(event_log, position))
    try:
        at = msgspec.convert(as_of, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        raise Invalid.field(
            "as_of",
            "must be a position (a whole number) or a time like 2026-05-20T14:00:00Z, with its offset (`+` written as"
            " `%2B`)",
        ) from None
    if at > utcnow():
        raise Invalid.field("as_of", "lies in the future")
    return Moment(await _last_until(event_log, at, head), at)


async def _last_until(event_log: EventLog, at: datetime, head: int) -> int:
    """The last position at or before a time; 0 for none.

    Times follow positions but for the differences between the clocks of several servers. The steps are powers of two,
    so that within these too the answer stays the same while the log grows.
    """
    position = 0
    for step in (1 << bit for bit in reversed(range(head.bit_length()))):
        if position + step <= head and await _time(event_log, position + step) <= at:
            position += step
    return position


async def _time(event_log: EventLog, position: int) -> datetime:
    """Of the event there, or of the next one where an append was rolled back or the event cannot be read."""
    while position and (events := await event_log.read(position - 1, 1)):
        if events[0].event.at != UNSTAMPED:
            return events[0].event.at
        position = events[0].position + 1
    return UNSTAMPED
