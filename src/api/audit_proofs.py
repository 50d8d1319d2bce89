"""Proofs of the audit log: signed checkpoints of its tree, proofs of inclusion and consistency, and an export that can
be verified offline.
"""

import asyncio
import time
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Controller, Request, Response, get
from litestar.params import Parameter

from api.audit import MAX_STREAM, find_readable_projects
from api.http.head import IS_HEAD
from api.http.paging import MAX_PAGE_SIZE
from api.http.permissions import CAN_AUDIT, User
from api.http.repeated_checks import check_while_sending
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.live.stream_clients import LiveStream, StreamClient
from api.live.streams import Streams
from commands.audit import NoteReading
from domain.audit import SIGNING_KEY, SigningKeyChanged
from domain.core.errors import Forbidden, Invalid, NotFound, Unavailable
from projections import audit_trail
from store.audit.checkpoints import AuditTree, SealedCheckpoint
from store.audit.export import Export, Following, of_stream
from store.audit.leaves import GapLeaf, Leaf, leaf_data, leaf_of
from store.audit.merkle import consistency, inclusion
from store.audit.recheck_progress import request_checkpoint
from store.clock import utcnow

NDJSON = "application/x-ndjson"
MAX_HELD = 50
SEAL_TIMEOUT_S = 5.0
"""Seconds that an export waits for a checkpoint that covers the newest events. If none comes, the export leaves these
events out and says so.
"""
SEAL_INTERVAL_S = 0.1
"""Seconds between two checks whether the requested checkpoint exists."""

Size = Annotated[
    int | None, Parameter(ge=1, le=MAX_ID, description="Size of the checkpoint; the newest checkpoint if left out")
]


class CheckpointItem(msgspec.Struct):
    size: int
    root: str
    """Root hash of the tree, in Base64 as in `note`."""
    at: datetime
    note: str
    """Signed note (c2sp.org/tlog-checkpoint)."""


class Checkpoints(msgspec.Struct):
    keys: list[str]
    """Verifier keys (c2sp.org/signed-note), the oldest first."""
    checkpoints: list[CheckpointItem]
    """Checkpoints, the newest first."""


class InclusionProof(msgspec.Struct):
    position: int
    index: int
    """Index of the leaf in the tree, from 0."""
    size: int
    leaf_data: str
    """Data of the leaf, computed from the event as it is stored now. The hash of this data must equal `leaf`."""
    leaf: str
    """Hash of the leaf in the tree, in hexadecimal digits."""
    hashes: list[str]
    """Hashes of the audit path, from the leaf upwards (RFC 6962), in hexadecimal digits."""
    root: str
    """Root hash of the checkpoint's tree, in hexadecimal digits."""
    checkpoint: str
    """Signed note of the checkpoint."""


class ConsistencyProof(msgspec.Struct):
    first: int
    """Size of the earlier checkpoint."""
    second: int
    """Size of the later checkpoint."""
    first_root: str
    """Root hash of the earlier checkpoint, in hexadecimal digits."""
    second_root: str
    """Root hash of the later checkpoint, in hexadecimal digits."""
    hashes: list[str]
    """Hashes of the proof (RFC 6962), in hexadecimal digits."""


class AuditLogController(Controller):
    path = "/audit"
    tags = ["Audit"]
    opt = {"problems": (Forbidden, NotFound)}

    @get("/checkpoints", guards=[CAN_AUDIT])
    async def list_checkpoints(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        before: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only checkpoints smaller than this size")
        ] = None,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Checkpoints on a page")] = 100,
    ) -> Response[Checkpoints]:
        """Returns a page of the log's signed checkpoints, the newest first. Store copies of checkpoints outside of this
        server: with them you can check later whether anybody has altered the log.
        """
        async with ctx.reading() as connection:
            await find_readable_projects(ctx, None)
            found = await AuditTree(connection).checkpoints_before(before, limit)
            keys = (await ctx.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
        headers = {}
        if len(found) == limit:
            query = urlencode({"limit": limit, "before": found[-1].size})
            headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
        return Response(
            Checkpoints(
                [key.event.public_key for key in keys if isinstance(key.event, SigningKeyChanged)],
                [CheckpointItem(item.size, item.note.split("\n")[2], item.at, item.note) for item in found],
            ),
            headers=headers,
        )

    @get("/proof/{position:int}", guards=[CAN_AUDIT])
    async def prove_inclusion(self, ctx: RequestContext, position: int, size: Size = None) -> InclusionProof:
        """Returns a proof that the event at `position` is in the audit tree of a checkpoint: the checkpoint with the
        given `size` or, without `size`, the newest one.
        """
        async with ctx.reading() as connection:
            await check_event_access(ctx, position, f"event at position {position}")
            checkpoint = await find_checkpoint(ctx, size)
            if position > checkpoint.size:
                detail = f"Position {position} is not covered by the checkpoint of size {checkpoint.size}"
                raise NotFound(f"{detail}; a newer one covers it within seconds." if size is None else f"{detail}.")
            tree = AuditTree(connection)
            stored = await tree.row(position)
            (leaf_hash,) = await tree.leaves([position])
            hashes = await tree.folded(inclusion(position - 1, checkpoint.size))
        leaf: Leaf = GapLeaf(position) if stored is None else leaf_of(position, stored)
        return InclusionProof(
            position=position,
            index=position - 1,
            size=checkpoint.size,
            leaf_data=leaf_data(leaf).decode(),
            leaf=leaf_hash.hex(),
            hashes=[item.hex() for item in hashes],
            root=checkpoint.root.hex(),
            checkpoint=checkpoint.note,
        )

    @get("/consistency", guards=[CAN_AUDIT])
    async def prove_consistency(
        self,
        ctx: RequestContext,
        first: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Size of the earlier checkpoint")],
        second: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Size of the later checkpoint")],
    ) -> ConsistencyProof:
        """Returns a proof that events were only appended between two checkpoints, and none was changed: the log of the
        earlier checkpoint is the beginning of the log of the later checkpoint.
        """
        await find_readable_projects(ctx, None)
        if second < first:
            raise Invalid.field("second", "must not be smaller than `first`")
        async with ctx.reading() as connection:
            earlier, later = await find_checkpoint(ctx, first), await find_checkpoint(ctx, second)
            hashes = await AuditTree(connection).folded(consistency(first, second))
        return ConsistencyProof(first, second, earlier.root.hex(), later.root.hex(), [item.hex() for item in hashes])

    @get("/export", media_type=NDJSON, guards=[CAN_AUDIT])
    async def export_audit_log(
        self,
        ctx: RequestContext,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Only this project's events")] = None,
        stream: Annotated[str | None, Parameter(max_length=MAX_STREAM, description="Only this stream's events")] = None,
        after: Annotated[int, Parameter(ge=0, le=MAX_ID, description="Go on behind this position")] = 0,
        size: Size = None,
        held: Annotated[
            list[int] | None, Parameter(max_items=MAX_HELD, description="Sizes of checkpoints to compare with")
        ] = None,
    ) -> LiveStream:
        """Returns the log up to a checkpoint as NDJSON, which `testhide audit verify` can check. Only admins can export
        the whole log.

        Without `size`, the export goes up to the newest checkpoint. The server first waits, for at most 5 s, until a
        checkpoint covers all present events. Each process of the server sends at most two exports to one user at the
        same time, and at most eight to all users together.
        """
        streams: Streams = ctx.request.app.state.streams
        asked_at, head = utcnow(), await ctx.services.log.read_head()
        if size is None:
            await seal_up_to(ctx, head)
        checkpoint = await find_checkpoint(ctx, size)
        if after > checkpoint.size:
            raise Invalid.field("after", f"is behind the checkpoint's last position, {checkpoint.size}")
        following, selection, noted = await choose_events(ctx, project_id, stream)
        if project_id is not None and not await ctx.services.waiter.wait(checkpoint.size):
            raise Unavailable("The read models are behind; try again in some seconds.")
        streams.exports.admit(ctx.user)
        if IS_HEAD not in ctx.request.scope:
            given = {"project_id": project_id, "stream": stream, "after": after or None, "size": size, "held": held}
            parameters = {name: str(value) for name, value in given.items() if value is not None}
            read_id = await ctx.services.ids.draw("audit_reads")
            await ctx.execute_unseen(NoteReading(read_id, "export", parameters, None, noted))
        export = Export(
            ctx.services.pool,
            ctx.services.log,
            checkpoint,
            after,
            following,
            selection,
            sorted(held or ()),
            head,
            asked_at,
        )
        lines = check_while_sending(ctx.request, export.lines(), partial(choose_events, ctx, project_id, stream))

        async def send_lines(client: StreamClient) -> None:
            async for piece in lines:
                await client.send(piece)

        # What the user may still read is checked by `check_while_sending`.
        client = StreamClient(ctx.request, may_read=lambda user: True, is_one_text=True)
        return LiveStream(streams.exports, client, send_lines, NDJSON)


async def seal_up_to(ctx: RequestContext, position: int) -> None:
    """Requests a checkpoint that covers the position and waits until it exists. Gives up without an error after
    SEAL_TIMEOUT_S, or at once if no sealer is running.
    """
    pool = ctx.services.pool
    deadline = time.monotonic() + SEAL_TIMEOUT_S
    while await AuditTree(pool).covering(position) is None:
        if time.monotonic() > deadline or not await request_checkpoint(pool):
            return
        await asyncio.sleep(SEAL_INTERVAL_S)


async def find_checkpoint(ctx: RequestContext, size: int | None) -> SealedCheckpoint:
    """Returns the checkpoint of this size, or the newest checkpoint if `size` is None. Raises NotFound if no checkpoint
    has this size, and Unavailable if `size` is None and there are no checkpoints yet.
    """
    async with ctx.reading() as connection:
        found = await AuditTree(connection).checkpoint(size)
    if found is None and size is None:
        raise Unavailable("The log has no checkpoint yet; the first comes some seconds after `testhide work` started.")
    if found is None:
        raise NotFound(f"There is no checkpoint of size {size}; GET /api/v3/audit/checkpoints lists them.")
    return found


async def check_event_access(ctx: RequestContext, position: int, what: str) -> int | None:
    """Returns the id of the project that the event at `position` belongs to, or None if it belongs to no project.
    Raises NotFound or Forbidden if the user may not see the event. `what` names the event, or its stream, in the error
    message.
    """
    project_id = await audit_trail.find_project_at(ctx.source, position)
    if project_id is None and not ctx.user.is_admin:
        raise NotFound(f"There is no {what}.")
    if project_id is not None:
        await ctx.must_access(project_id, what)
    return project_id


async def choose_events(
    ctx: RequestContext, project_id: int | None, stream: str | None
) -> tuple[Following | None, dict[str, str], int | None]:
    """Returns three values for an export:

    - a function that finds the positions of its events, or None for the whole log
    - the parameters of the request that select its events
    - the id of its project, or None

    Raises NotFound or Forbidden if the user may not read the events. Raises Invalid if the user is no admin and asks
    for the whole log.
    """
    pool = ctx.services.pool
    if stream is not None:
        following = of_stream(pool, stream)
        first = await following(0, 1)
        owner = await check_event_access(ctx, first[0] if first else 0, f"stream {stream!r}")
        if not first or project_id not in (None, owner):
            raise NotFound(f"There is no stream {stream!r}{'' if project_id is None else f' in project {project_id}'}.")
        return following, {"stream": stream}, owner
    if project_id is None:
        if not ctx.user.is_admin:
            raise Invalid.field("project_id", "is required: the whole log is for admins")
        return None, {}, None
    await find_readable_projects(ctx, project_id)

    async def of_project(after: int, limit: int) -> list[int]:
        wanted = audit_trail.TrailFilter(projects=[project_id], after=after)
        return await audit_trail.find_positions(pool, wanted, newest=False, limit=limit)

    return of_project, {"project_id": str(project_id)}, project_id
