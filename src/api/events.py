"""Sends the events of the log to clients as they happen."""

from typing import Annotated, Any

from litestar import Controller, Request, get
from litestar.params import Parameter

from api.audit import must_access_project, types_of
from api.http.permissions import CAN_READ, User
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.live.event_feed import EventStream
from api.live.stream_clients import MEDIA_TYPE, LiveStream, StreamClient
from api.live.streams import Streams
from domain.core.errors import Invalid, NotFound


class EventController(Controller):
    path = "/events"
    tags = ["Events"]

    @get("/stream", media_type=MEDIA_TYPE, opt={"problems": (NotFound,)}, guards=[CAN_READ])
    async def stream_events(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        project_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only what belongs to this project")
        ] = None,
        type: Annotated[
            list[str] | None,
            Parameter(max_items=100, description="Only these types of events, repeated or with commas between them"),
        ] = None,
    ) -> LiveStream:
        """Sends server-sent events: the log's events from now on, or those after the position in `Last-Event-ID`. Each
        message is `{position, type, at, project_id, stream, data}`. `data` contains the event's other fields, as the
        audit trail shows them.
        """
        names = [name for part in type or () for name in part.split(",")]
        types = None if type is None else [known for name in names for known in types_of(None, name) or ()]
        if project_id is not None:
            await must_access_project(ctx, project_id)
        streams: Streams = request.app.state.streams
        source = EventStream(streams.events, project_id, types, parse_position(request.headers.get("last-event-id")))
        return LiveStream(streams.clients, StreamClient(request, source.may_read, source.keep_alive), source)


def parse_position(last_event_id: str | None) -> int | None:
    """Returns the position in `Last-Event-ID`, after which a reconnecting client continues. Returns None for a new
    client, which sends no such header. Raises Invalid if the header contains no position.
    """
    if last_event_id is None or last_event_id == "":
        return None
    is_number = last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 17
    if not (is_number and int(last_event_id) <= MAX_ID):
        raise Invalid.field("Last-Event-ID", "must be the id of a message, which is a position in the log")
    return int(last_event_id)
