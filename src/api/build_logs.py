"""Logs of builds: returns pages of lines, the last lines, or the whole log as text; receives the lines that the
pipeline of an external build sends.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Annotated, Any, cast

import msgspec
from litestar import Controller, MediaType, Response, get, post
from litestar.params import Parameter
from litestar.response import Stream
from msgspec import Meta

from api.builds import check_build, find_visible_build
from api.http.permissions import CAN_READ, CAN_REPORT
from api.http.repeated_checks import check_while_sending
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.live.build_feed import format_line
from api.live.streams import Streams
from domain.builds import BUILD, Running
from domain.core.errors import Conflict, ContentsAltered, Invalid, NotFound
from store.clock import utcnow
from store.tables.build_logs import BuildLogs, Line

DEFAULT_PAGE_LINES = 500
"""Number of lines on a page if the request does not say how many it wants."""
MAX_PAGE_LINES = 10_000
"""Largest number of lines on a page."""
RAW_LINES = 10_000
"""Number of lines that are read from the database at a time when a whole log is sent as text."""
MAX_LINE = 65_536
"""Largest number of characters of a line that a pipeline sends."""

Attempt = Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="An earlier attempt, whose agent was lost")]
Tail = Annotated[int | None, Parameter(ge=1, le=MAX_PAGE_LINES, description="Only so many lines, the last ones")]


class LogPage(msgspec.Struct):
    total_lines: int
    """Number of lines that the log has now."""
    lines: list[str]
    next_offset: int | None
    """Offset of the line after the last one of this page; null at the end of the log."""
    capped: bool
    """Whether the page has fewer than `limit` lines because it has reached 4 MiB. Then `offset=next_offset` returns the
    next lines.
    """


class ExternalLines(msgspec.Struct):
    offset: Annotated[int, Meta(ge=0, le=2**40)]
    """Number of lines of the log that come before these lines. Lines that the log already has are not added again."""
    text: Annotated[str, Meta(min_length=1)]
    """Whole lines, each with a line break at its end."""


class StoredLines(msgspec.Struct):
    total_lines: int
    """Number of lines that the log has now. It is the `offset` for the next request."""


class BuildLogController(Controller):
    path = "/builds"
    tags = ["Builds"]

    @get("/{build_id:int}/pipeline_logs", opt={"problems": (ContentsAltered,)}, guards=[CAN_READ])
    async def get_build_log(
        self,
        ctx: RequestContext,
        build_id: int,
        offset: Annotated[int, Parameter(ge=0, le=MAX_ID)] = 0,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_LINES)] = DEFAULT_PAGE_LINES,
        attempt: Attempt = None,
        tail: Tail = None,
    ) -> Response[LogPage]:
        """Returns a page of lines of a build's log or, with `tail`, the last lines. The log is that of the last
        attempt, unless `attempt` selects an earlier one. Each line begins with its time.

        A page has 4 MiB of text at most. If it is `capped`, the rest is at `offset=next_offset`.
        """
        if tail is not None:
            for name in ("offset", "limit"):
                if name in ctx.request.query_params:
                    raise Invalid.field(name, "is not possible with `tail`: leave one of them out")
        number, total = await find_log(ctx, build_id, attempt)
        if tail is not None:
            offset, limit = max(0, total - tail), tail
        count = min(limit, total - offset)
        async with ctx.reading() as connection:
            lines = await BuildLogs(connection).read(build_id, number, offset, count) if count > 0 else []
        # In a thread, since a large page would hold up all other requests.
        encoded = await asyncio.to_thread(encode_page, total, offset, count, lines)
        return Response(cast(Any, encoded), media_type=MediaType.JSON)

    @get(
        "/{build_id:int}/pipeline_logs/raw",
        media_type=MediaType.TEXT,
        opt={"problems": (ContentsAltered,)},
        guards=[CAN_READ],
    )
    async def download_build_log(
        self, ctx: RequestContext, build_id: int, attempt: Attempt = None, tail: Tail = None
    ) -> Stream:
        """Returns a build's log as a text file, up to its present end. Each line begins with its time."""
        number, total = await find_log(ctx, build_id, attempt)
        first = 0 if tail is None else max(0, total - tail)
        text = read_text(ctx.services.build_logs, build_id, number, first, total)
        return Stream(
            check_while_sending(ctx.request, text, partial(check_build, ctx, build_id)),
            media_type=MediaType.TEXT,
            headers={"Content-Disposition": f'attachment; filename="build-{build_id}.log"'},
        )

    @post("/{build_id:int}/log", status_code=200, guards=[CAN_REPORT])
    async def append_external_log(self, ctx: RequestContext, build_id: int, data: ExternalLines) -> StoredLines:
        """Appends lines to the log of an external build, each with the present time. The server masks the secrets of
        the build's configuration. Sending a request again, with the same `offset`, adds nothing.
        """
        await check_build(ctx, build_id)
        if not data.text.endswith("\n"):
            raise Invalid.field("text", "must end with a line break: send the rest of a line together with its end")
        texts = [line.removesuffix("\r") for line in data.text[:-1].split("\n")]
        if any(len(text) > MAX_LINE for text in texts):
            raise Invalid.field("text", f"must have lines of at most {MAX_LINE:,} characters: divide longer ones")
        build = await ctx.services.log.load_state(BUILD.at(build_id))
        if not isinstance(build, Running) or build.node_id is not None:
            raise Conflict(f"Build {build_id} is no running external build, so that it takes no lines.")
        queued = build.queued
        secrets = [ctx.services.secrets.unseal(sealed) for sealed in queued.configuration.secrets.values()]
        # In a thread, since masking takes time in proportion to the text.
        masked = await asyncio.to_thread(ctx.services.mask_secrets, secrets, texts)
        now = int(utcnow().timestamp() * 1000)
        lines = [Line(now, text) for text in masked]
        total = await ctx.services.build_logs.append(queued.job_id, build_id, build.attempt, data.offset, lines)
        if total < data.offset:
            raise Conflict(f"The log of build {build_id} has {total} lines: send those from offset {total} on first.")
        return StoredLines(total)


async def find_log(ctx: RequestContext, build_id: int, attempt: int | None) -> tuple[int, int]:
    """Returns two values: the number of an attempt, and the number of lines of its log. The attempt is `attempt` or, if
    that is None, the last one.

    Raises NotFound if the build has no such attempt. Raises ContentsAltered if the build has finished and somebody
    altered its log after that.
    """
    row = await find_visible_build(ctx, build_id)
    if attempt is not None and attempt > row.attempt:
        raise NotFound(f"Build {build_id} has no attempt {attempt}; its last one is {row.attempt}.")
    number = attempt or row.attempt
    if row.finished_at is not None and number == row.attempt:
        streams: Streams = ctx.request.app.state.streams
        return number, await streams.finished_logs.count_lines(build_id)
    return number, await ctx.services.build_logs.count_lines(build_id, number)


async def read_text(logs: BuildLogs, build_id: int, attempt: int, first: int, end: int) -> AsyncIterator[bytes]:
    """Yields the lines from `first` to `end` as text. Raises NotFound if somebody deletes the build meanwhile. The
    error cuts the connection, so that the client does not take a part of the log for the whole.
    """
    while first < end:
        lines = await logs.read(build_id, attempt, first, min(RAW_LINES, end - first))
        if not lines:
            raise NotFound(f"There is no build {build_id} any more.")
        first += len(lines)
        yield await asyncio.to_thread(format_text, lines)


def format_text(lines: Sequence[Line]) -> bytes:
    return "".join(f"{format_line(line)}\n" for line in lines).encode("utf-8", "replace")


def encode_page(total: int, offset: int, wanted: int, lines: Sequence[Line]) -> bytes:
    """Returns a page of `lines` as JSON (LogPage). The page is `capped` if `lines` are fewer than `wanted`, since it
    has then reached 4 MiB.
    """
    end = offset + len(lines)
    next_offset = end if lines and end < total else None
    page = LogPage(total, [format_line(line) for line in lines], next_offset, capped=0 < len(lines) < wanted)
    return msgspec.json.encode(page)
