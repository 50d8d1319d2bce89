"""Answers GET requests with `?as_of=`, which names a log position or a time in the past.

The response has the same form as without `as_of`, but is made from the events up to that moment. The header
`Testhide-As-Of` contains the position of the last of these events. Data that is in no event (gauges, waiting reasons)
is left out. Admins can read the past of everything, and admins of a project the past of that project. The access that
they have now counts, not the access that they had then. If data of the past state has been erased since, the answer is
410.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request
from litestar.di import Provide
from litestar.params import Parameter
from psycopg_pool import AsyncConnectionPool

from api.http.permissions import User
from api.http.repeated_checks import check_after, take_turn
from api.http.request_context import RequestContext
from api.http.services import Services
from api.http.types import MAX_ID
from commands.validation import Time, complete_dates
from domain.core.errors import Erased, Forbidden, Invalid, NotFound, Unavailable
from domain.core.events import UNSTAMPED, Event, readable
from projections.engine.dismissals import with_dismissals
from projections.engine.model import Row
from projections.registry import PROJECTIONS
from projections.time_travel.historical_reads import HistoricalReader, HistoricalResource
from projections.time_travel.historical_tables import HistoricalTables
from store.clock import utcnow
from store.log.event_log import EventLog

AsOf = Annotated[
    str | None,
    Parameter(
        max_length=40,
        description="As it was at this position of the log, or at this time (RFC 3339, with its offset)",
        schema_extra={"format": "moment"},
    ),
]


class Moment(msgspec.Struct, frozen=True):
    position: int
    at: datetime


def as_of(subject: HistoricalResource, parameter: str) -> dict[str, Any]:
    """Returns keyword arguments for Litestar's `@get`. A handler with these arguments takes `?as_of=`: its `ctx` then
    reads the past state. `subject` is the kind of resource that the handler returns. `parameter` is the name of the
    path or query parameter with the id of the resource.
    """

    async def provide(request: Request[User, Any, Any], as_of: AsOf = None) -> AsyncIterator[RequestContext]:
        services: Services = request.app.state.services
        number = _read_id(request, parameter)
        if as_of is None or number is None:
            yield RequestContext(services, request)
        else:
            async with _historical_context(services, request, subject, number, as_of) as ctx:
                yield ctx

    return {"dependencies": {"ctx": Provide(provide)}, "opt": {"as_of": True}}


def _read_id(request: Request[Any, Any, Any], parameter: str) -> int | None:
    """Returns the value of the path or query parameter `parameter` as an id. Returns None if the value is no valid id;
    the handler then refuses the request.
    """
    given = str(request.path_params.get(parameter, request.query_params.get(parameter, "")))
    return int(given) if given.isascii() and given.isdigit() and 0 < len(given) < 17 and int(given) <= MAX_ID else None


@asynccontextmanager
async def _historical_context(
    services: Services, request: Request[User, Any, Any], subject: HistoricalResource, number: int, as_of: str
) -> AsyncIterator[RequestContext]:
    name = f"{subject.prefix} {number}"
    subject_stream = subject.stream(number)
    history = readable(await services.log.read_stream(subject_stream, 0, 1))
    if not history:
        raise NotFound(f"There is no {name}.")
    first = history[0].event
    _check_access(request.user, first, name)
    moment = await check_after(request, reach_moment(services, request, as_of))
    async with take_turn(request, services.past.turns):
        _check_access(request.user, first, name)
        reader = await make_reader(services.pool, services.log, moment, subject.rows, subject_stream)
        await subject.fold(reader, first)
        if reader.tables.has_erased_rows:
            raise Erased(
                f"What {name} was at position {moment.position} cannot be shown: its contents have been erased since."
            )
        async with services.past.open(reader.tables) as connection:
            yield RequestContext(services, request, connection, moment.at)


def _check_access(user: User, first: Event, name: str) -> None:
    project_id: int | None = getattr(first, "project_id", None)
    if project_id is not None:
        user.must_access("admin", project_id, name)
    elif not user.is_admin:
        raise Forbidden("Only admins look at the past of what belongs to no project.")


async def make_reader(
    pool: AsyncConnectionPool, event_log: EventLog, moment: Moment, rows: Iterable[type[Row]], subject: str = ""
) -> HistoricalReader:
    """Returns a reader that folds events up to a moment into tables with rows of the types `rows`. The tables are empty
    at first. `subject` is the name of the stream of the resource that is read; empty if several resources are read.
    """
    tables = HistoricalTables(rows, await with_dismissals(event_log, PROJECTIONS))
    return HistoricalReader(pool, event_log, moment.position, tables, subject)


async def reach_moment(services: Services, request: Request[User, Any, Any], as_of: str) -> Moment:
    """Returns the moment that `as_of` names, and adds its position to the response's headers. First waits until the
    read models have reached this position, since they are used to find past events.

    Raises Invalid if `as_of` names no moment, and Unavailable if the read models lag behind.
    """
    moment = await resolve_moment(services.log, as_of)
    request.state.as_of = request.state.position = moment.position
    if not await services.waiter.wait_reached(moment.position):
        raise Unavailable(f"The read models have not reached position {moment.position} yet; try again.")
    return moment


async def resolve_moment(event_log: EventLog, as_of: str) -> Moment:
    """Returns the position and the time that `as_of` names. Raises Invalid if `as_of` is neither a position nor a time,
    or lies in the future.
    """
    head = await event_log.read_head()
    if as_of.isascii() and as_of.isdigit():
        position = int(as_of)
        if position > head:
            raise Invalid.field("as_of", f"is beyond the newest position, which is {head}")
        return Moment(position, await _time_at(event_log, position))
    try:
        at = msgspec.convert(complete_dates(as_of, Time), Time)
    except msgspec.ValidationError:
        raise Invalid.field(
            "as_of",
            "must be a position (a whole number), a date, or a time like 2026-05-20T14:00:00Z, with its offset (`+`"
            " written as `%2B`)",
        ) from None
    if at > utcnow():
        raise Invalid.field("as_of", "lies in the future")
    return Moment(await _last_until(event_log, at, head), at)


async def _last_until(event_log: EventLog, at: datetime, head: int) -> int:
    """Returns the last position whose event happened at the time `at` or before, or 0 if there is none.

    The clocks of servers may differ, so a later position may have an earlier time. Then there may be several positions
    whose event is at `at` or before, while the next event is after `at`. The search steps by powers of two, so that it
    finds the same one of these positions again after the log has grown.
    """
    position = 0
    for step in (1 << bit for bit in reversed(range(head.bit_length()))):
        if position + step <= head and await _time_at(event_log, position + step) <= at:
            position += step
    return position


async def _time_at(event_log: EventLog, position: int) -> datetime:
    """Returns the time of the event at a position. If that event cannot be read, returns the time of the next event
    that can be. Returns UNSTAMPED for position 0, and if no later event can be read.
    """
    while position and (events := await event_log.read(position - 1, 1)):
        if events[0].event.at != UNSTAMPED:
            return events[0].event.at
        position = events[0].position + 1
    return UNSTAMPED
