"""Reads the audit trail: who did what and when, and which fields each event changed.

Admins can read all events. Admins of a project can read the events of that project. The user's present access decides,
not their access at the time of the event. When a user reads events that others caused, the server records this as an
event.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from litestar import Controller, Response, get
from litestar.params import Parameter

from api.http.head import IS_HEAD
from api.http.paging import next_page
from api.http.permissions import CAN_AUDIT
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from commands.audit import NoteReading
from domain.audit import What
from domain.core.errors import Forbidden, Invalid, NotFound, TooManyRequests
from domain.registry import EVENTS
from projections import audit_trail
from projections.audit_trail import TrailFilter
from projections.audit_view.entries import EVENT_AREAS, TRAIL_FOLD_LIMITS, AuditEntry, load_page

Order = Literal["newest", "oldest"]

PAGE_BYTES = 32 * 1024 * 1024
"""A page of events ends early as soon as the fields of its events have this many bytes."""
MAX_STREAM = 200
"""Largest number of characters of a stream's name."""
ACTOR = re.compile(r"user:[1-9]\d{0,15}|node:[1-9]\d{0,15}|system:[a-z][a-z-]{0,50}|anonymous", re.ASCII)

StreamFilter = Annotated[
    str | None,
    Parameter(
        max_length=MAX_STREAM,
        description="Only this stream: build-1025",
        schema_extra={"format": "stream-name"},
    ),
]
AreaFilter = Annotated[
    str | None,
    Parameter(
        max_length=50,
        description="Only this area: builds, jobs, users ...",
        schema_extra={"enum": sorted(set(EVENT_AREAS.values()))},
    ),
]
TypeFilter = Annotated[
    str | None,
    Parameter(
        max_length=100,
        description="Only this type of event: build.queued",
        schema_extra={"enum": sorted(EVENTS)},
    ),
]
ActorFilter = Annotated[
    str | None,
    Parameter(
        max_length=100,
        description="Only by: user:7, node:12, system:dispatch",
        schema_extra={"pattern": f"^({ACTOR.pattern})$".replace(r"\d", "[0-9]")},
    ),
]
ProjectFilter = Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Only what belongs to this project")]
Since = Annotated[datetime | None, Parameter(description="Only events at this time (RFC 3339) or later")]
Until = Annotated[datetime | None, Parameter(description="Only events before this time")]
After = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only events after this position")]
Before = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only events before this position")]
AfterVersion = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only events after this version")]
BeforeVersion = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only events before this version")]
Limit = Annotated[int, Parameter(ge=1, le=200, description="Events on a page, at most")]


class AuditController(Controller):
    path = "/audit"
    tags = ["Audit"]
    opt = {"problems": (Forbidden, NotFound, TooManyRequests)}

    @get("/events", guards=[CAN_AUDIT])
    async def list_audit_events(
        self,
        ctx: RequestContext,
        stream: StreamFilter = None,
        area: AreaFilter = None,
        type: TypeFilter = None,
        actor: ActorFilter = None,
        project_id: ProjectFilter = None,
        since: Since = None,
        until: Until = None,
        after: After = None,
        before: Before = None,
        order: Order = "newest",
        limit: Limit = 50,
    ) -> Response[list[AuditEntry]]:
        """Returns a page of the events of the whole log, the newest first. With `order=oldest`, returns the oldest
        first. A page ends early, with fewer than `limit` events, when 32 MiB were read for it; the `Link` header leads
        to the next page.
        """
        async with take_turn(ctx.request, ctx.services.audit_turns), ctx.reading() as connection:
            wanted = TrailFilter(
                projects=await find_readable_projects(ctx, project_id),
                stream=stream,
                types=types_of(area, type),
                actor=check_actor(actor),
                since=since,
                until=until,
                after=after,
                before=before,
            )
            if since is not None and until is not None and until <= since:
                raise Invalid.field("until", "must be later than `since`")
            if stream is not None:
                try:
                    await project_of(ctx, stream)
                except NotFound as error:
                    raise Invalid.field("stream", error.detail) from None
            positions = await audit_trail.find_positions(connection, wanted, newest=order == "newest", limit=limit)
            shown, is_cut = await load_page(connection, ctx.log, positions, TRAIL_FOLD_LIMITS, PAGE_BYTES)
        await record_reading(ctx, "events", shown, project_id)
        key = "before" if order == "newest" else "after"
        if is_cut:
            limit, positions = 1, [shown[-1].position]
        return Response(shown, headers=next_page(ctx.request, limit, positions, key=key))

    @get("/streams/{stream:str}", guards=[CAN_AUDIT])
    async def list_stream_events(
        self,
        ctx: RequestContext,
        stream: str,
        after: AfterVersion = None,
        before: BeforeVersion = None,
        order: Order = "oldest",
        limit: Limit = 50,
    ) -> Response[list[AuditEntry]]:
        """Returns a page of the events of one stream, such as `build-1025`, `job-55` or `user-7`, the oldest first.
        With `order=newest`, returns the newest first. A page ends early, with fewer than `limit` events, when 32 MiB
        were read for it; the `Link` header leads to the next page.
        """
        newest, key = (True, "before") if order == "newest" else (False, "after")
        async with take_turn(ctx.request, ctx.services.audit_turns), ctx.reading() as connection:
            project_id = await project_of(ctx, stream)
            positions = await audit_trail.fetch_stream_positions(
                connection,
                stream,
                after=after or 0,
                before=MAX_ID if before is None else before,
                newest=newest,
                limit=limit,
            )
            shown, is_cut = await load_page(
                connection, ctx.log, list(positions.values()), TRAIL_FOLD_LIMITS, PAGE_BYTES
            )
        await record_reading(ctx, "stream", shown, project_id, stream=stream)
        versions = list(positions)
        if is_cut:
            limit, versions = 1, [shown[-1].version]
        return Response(shown, headers=next_page(ctx.request, limit, versions, key=key))


async def find_readable_projects(ctx: RequestContext, project_id: int | None) -> list[int] | None:
    """Returns the ids of the projects whose audit trail the user may read. Returns `[project_id]` if `project_id` is
    given, and None if the user may read all projects' trails.

    Raises NotFound if the user cannot see the project `project_id`. Raises Forbidden if the user's access to this
    project is too low, or if the user may read no project's trail.
    """
    if project_id is not None:
        await must_access_project(ctx, project_id)
        return [project_id]
    if ctx.user.is_admin:
        return None
    projects = [project for project in ctx.user.projects or () if ctx.user.may(ctx.needs.level, project)]
    if not projects:
        raise Forbidden("The audit trail is for admins, and a project's part of it for the project's admins.")
    return projects


async def must_access_project(ctx: RequestContext, project_id: int) -> None:
    """Raises NotFound if the project does not exist (has no events) or the user cannot see it. Raises Forbidden if the
    user's access to the project is too low.
    """
    await ctx.must_access(project_id)
    if not await audit_trail.has_project(ctx.source, project_id):
        raise NotFound(f"There is no project {project_id}.")


async def project_of(ctx: RequestContext, stream: str) -> int | None:
    """Returns the id of a stream's project, or None if the stream belongs to no project. Raises NotFound if the stream
    does not exist or the user cannot see it. Raises Forbidden if the user's access to the project is too low.
    """
    first = await ctx.log.read_stream(stream, 0, 1)
    project_id: int | None = getattr(first[0].event, "project_id", None) if first else None
    if not first or (project_id is None and not ctx.user.is_admin):
        raise NotFound(f"There is no stream {stream!r}; streams are named like build-1025, job-55 or user-7.")
    if project_id is not None:
        await ctx.must_access(project_id, f"stream {stream!r}")
    return project_id


def types_of(area: str | None, name: str | None) -> list[str] | None:
    """Returns the event types that a filter selects: `[name]`, or all types of `area`, or None (every type) if neither
    is given. Raises Invalid for an unknown area or name, and for a name outside of `area`.
    """
    if area is not None and area not in EVENT_AREAS.values():
        areas = ", ".join(sorted(set(EVENT_AREAS.values())))
        raise Invalid.field("area", f"there is no area {area!r}; there are: {areas}")
    if name is None:
        return None if area is None else [known for known in EVENTS if EVENT_AREAS[known] == area]
    if name not in EVENTS:
        alike = sorted(known for known in EVENTS if known.partition(".")[0] == name.partition(".")[0]) or sorted(EVENTS)
        raise Invalid.field("type", f"there is no type of event {name!r}; there are: {', '.join(alike)}")
    if area is not None and EVENT_AREAS[name] != area:
        raise Invalid.field("type", f"{name} is of the area {EVENT_AREAS[name]}, not of {area}")
    return [name]


def check_actor(actor: str | None) -> str | None:
    if actor is not None and not ACTOR.fullmatch(actor):
        raise Invalid.field("actor", "must be like user:7, node:12, system:dispatch, or anonymous")
    return actor


async def record_reading(
    ctx: RequestContext, what: What, shown: Sequence[AuditEntry], project_id: int | None, **more: str
) -> None:
    """Appends an event that says that the user read the events `shown`. Appends nothing if the user caused all these
    events, or if the request is a HEAD request.
    """
    if IS_HEAD not in ctx.request.scope and any(one.actor != ctx.user.actor for one in shown):
        read_id = await ctx.services.ids.draw("audit_reads")
        parameters = {name: str(value)[:MAX_STREAM] for name, value in ctx.request.query_params.items()}
        await ctx.execute_unseen(NoteReading(read_id, what, parameters | more, len(shown), project_id))
