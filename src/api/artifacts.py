"""Uploads, lists and downloads artifacts."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.params import Parameter
from litestar.response import Stream
from psycopg.errors import DiskFull

from api.builds import read_build
from api.http.downloads import choose_content_type, make_file_response
from api.http.idempotency import ReplayedResponse
from api.http.paging import Paged, next_page
from api.http.permissions import CAN_READ, CAN_REPORT, CAN_WRITE, Agent, User
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, to_view
from api.http.uploads import Upload, receive_upload
from api.live.stream_clients import watching_disconnect
from commands.artifacts import DeleteArtifact, StoreArtifact, must_be_leased
from commands.reports.recording import IncomingReport, load_build
from commands.reports.report_queue import ReportSender
from domain.artifacts import ARTIFACT, MAX_FOLDERS, ArtifactType, artifact_path, artifact_type, blob_key
from domain.builds import AnyBuild, Finished
from domain.core.errors import ContentsAltered, Invalid, NotFound, Rejection, TooLarge
from domain.core.events import LoadedState
from domain.jobs import JOB
from domain.reports import Report
from formats.reports import has_report_ending
from projections import artifacts
from projections.artifacts import ArtifactRow
from store.log.append import AlreadyDone, IdempotencyKey

MAX_UPLOAD_BYTES = 2 * 1024**3
MAX_FILES = 10_000
"""Largest number of artifacts of one build. `get_artifact_tree` shows all of them in one answer."""
CHUNK_BYTES = 1024 * 1024
UPLOAD = {
    "type": "object",
    "properties": {
        "build_id": {"type": "integer", "minimum": 1, "maximum": MAX_ID, "description": "Id of the build"},
        "path": {
            "type": "string",
            "format": "artifact-path",
            "description": "A folder, or the whole path when it ends in the file's name",
        },
        "replace": {
            "type": "string",
            "enum": ["true", "false"],
            "description": "Whether a report replaces the report that the build already has at this path",
        },
        "file": {"type": "string", "format": "binary", "description": "The file, with its name"},
    },
    "required": ["build_id", "file"],
    "additionalProperties": False,
}

BuildId = Annotated[int, Parameter(ge=1, le=MAX_ID, description="Build to list artifacts for")]


class ArtifactItem(msgspec.Struct):
    id: int
    build_id: int
    name: str
    path: str
    type: ArtifactType
    """Kind of the artifact: `report`, `log`, `screenshot` or `binary`. A file that has the name of a report but cannot
    be read as a report is `binary`.
    """
    content_type: str
    """Media type with which the file is downloaded."""
    size_bytes: int
    sha256: str
    created_at: datetime


class RecordedReport(msgspec.Struct):
    """Number of results, and warnings, from a report that was uploaded for an external build."""

    cases: int
    warnings: list[str]


class UploadedArtifact(msgspec.Struct):
    id: int
    build_id: int
    name: str
    size_bytes: int
    path: str
    type: ArtifactType
    """Kind of the artifact: `report`, `log`, `screenshot` or `binary`. A file that has the name of a report but cannot
    be read as a report is `binary`.
    """
    sha256: str
    report: RecordedReport | None = None
    """Report that was recorded from the file; null unless the file is a report of an external build."""


class ArtifactController(Controller):
    path = "/artifacts"
    tags = ["Artifacts"]

    @get(guards=[CAN_READ])
    async def list_artifacts(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        paged: Paged,
        build_id: BuildId,
        type: Annotated[ArtifactType | None, Parameter(description="Only artifacts of this type")] = None,
        search: Annotated[str | None, Parameter(max_length=200, description="Filter by filename substring")] = None,
    ) -> Response[list[ArtifactItem]]:
        """Returns a page of the artifacts of a build, ordered by id."""
        async with read_build(ctx, build_id) as (connection, _):
            found = await artifacts.fetch_page(
                connection,
                build_id,
                type=type,
                search=search or None,
                after=paged.after,
                limit=paged.limit,
                offset=paged.offset,
            )
        headers = next_page(request, paged.limit, [row.id for row in found])
        return Response([to_view(ArtifactItem, row) for row in found], headers=headers)

    @get("/tree", guards=[CAN_READ])
    async def get_artifact_tree(
        self, request: Request[User, Any, Any], ctx: RequestContext, build_id: BuildId
    ) -> dict[str, Any]:
        """Returns the build's artifacts as a tree of folders and files, folders first."""
        async with read_build(ctx, build_id) as (connection, _):
            return make_tree(await artifacts.fetch_page(connection, build_id))

    @post(
        "/upload",
        opt={"agents": True, "content": {"multipart/form-data": UPLOAD}},
        request_max_body_size=None,
        guards=[CAN_REPORT],
    )
    async def upload_artifact(self, request: Request[User | Agent, Any, Any], ctx: RequestContext) -> UploadedArtifact:
        """Uploads a file as multipart/form-data with the fields `build_id`, `file` and, optionally, `path`. `path` is a
        folder (`reports`) or ends in the file's name (`reports/junit.xml`). Send `build_id` first: then the server
        refuses a forbidden upload before the file is sent. A file of more than 64 KiB must come after `build_id`.

        If the build is external and the file is a test report, the server also records the results of the report. If
        the build already has a report at this path, the new report gets another path (`junit-2.xml`), and both count.
        With `replace=true`, the new report replaces the old one; a file that is no test report is refused then. If the
        build has already ended, the results do not count; the answer and the build say so.
        """

        async def check(build_id: str, size: int) -> int:
            build = (await find_writable_build(request.user, ctx, build_id)).state
            await must_fit(ctx, build, size)
            return build.queued.project_id

        async with receive_upload(request, ctx.services.spool, MAX_UPLOAD_BYTES, "build_id", check) as upload:
            loaded = await find_writable_build(request.user, ctx, upload.fields["build_id"])
            build = loaded.state
            await must_fit(ctx, build)  # the size is known only now, unless the request announced it
            path = artifact_path(upload.fields.get("path", ""), upload.file_name)
            is_replacement = parse_flag("replace", upload.fields.get("replace", "false"))
            report = None
            is_report = build.queued.external and artifact_type(path) == "report"
            if is_replacement and (not is_report or isinstance(build, Finished)):
                raise Invalid.field("replace", "is possible for test reports of a running external build only")
            if is_report:
                async with watching_disconnect(request) as has_left:
                    sender, digest = ReportSender(request.user.actor, has_left), bytes.fromhex(upload.sha256)
                    file = IncomingReport(build.attempt, path, upload.path, digest, sender, is_replacement)
                    report = await record_external_report(ctx, loaded, file)
            artifact = await store_artifact(ctx, request.user, build, path if report is None else report.path, upload)
        if report is not None:
            artifact.report = show_report(report, path)
        return artifact

    @get("/{artifact_id:int}/download", opt={"download": True, "problems": (ContentsAltered,)}, guards=[CAN_READ])
    async def download_artifact(
        self, request: Request[User, Any, Any], ctx: RequestContext, artifact_id: int
    ) -> Response[Any] | Stream:
        """Returns the contents of an artifact. Supports `Range` and `If-None-Match`; the ETag is the SHA-256 of the
        contents.
        """
        async with ctx.reading() as connection:
            find = partial(ctx.find_visible, artifacts.find, "artifact", artifact_id)
            await find()
            # Read from the log, since a read model may have been altered together with the content.
            stored = await ctx.services.log.on(connection).load_state(ARTIFACT.at(artifact_id))
        if stored is None:
            raise NotFound(f"There is no artifact {artifact_id}.")
        return await make_file_response(request, ctx.services.blobs, stored, find)

    @delete("/{artifact_id:int}", status_code=204, guards=[CAN_WRITE])
    async def delete_artifact(self, ctx: RequestContext, artifact_id: int) -> None:
        """Deletes an artifact. The results that the server read from a report stay."""
        artifact = await ctx.find_visible(artifacts.find, "artifact", artifact_id)
        await ctx(DeleteArtifact(artifact_id, artifact.build_id))


async def must_fit(ctx: RequestContext, build: AnyBuild, size: int = 0) -> None:
    """Raises TooLarge if the build already has MAX_FILES artifacts, or if `size` more bytes would exceed the project's
    quota. The quota covers the project's stored artifacts and the files that this process is receiving for the project.
    """
    if await artifacts.count_of_build(ctx.source, build.build_id) >= MAX_FILES:
        raise TooLarge(
            f"Build {build.build_id} has {MAX_FILES:,} artifacts and may have no more: put files into an archive."
        )
    project_id = build.queued.project_id
    used = await artifacts.fetch_usage(ctx.source, project_id)
    if used + ctx.services.spool.used_by(project_id) + size > (quota := ctx.services.artifact_quota):
        raise TooLarge(
            f"Project {project_id} has {used:,} bytes of artifacts and may have {quota:,}, with this file and others"
            " that are being uploaded: delete artifacts or builds, or keep builds for a shorter time."
        )


async def store_artifact(
    ctx: RequestContext, caller: User | Agent, build: AnyBuild, path: str, upload: Upload
) -> UploadedArtifact:
    """Stores an uploaded file as an artifact of the build and returns the artifact.

    Agents repeat an upload whose connection was cut. If another request has stored these contents at this path, or is
    storing them now, returns the artifact of that request.
    """
    once = _make_key(build.build_id, path, upload.sha256)
    artifact_id = await _find_duplicate(ctx, build, path, upload)
    if artifact_id is not None:
        await ctx.wait_until_all_shown()
    else:
        try:
            artifact_id = await _store_new(ctx, caller, build, path, upload, once)
        except AlreadyDone:
            first = await ctx.services.idempotent_responses.find(once.scope)
            if first is not None:
                await ctx.wait_until_shown(first.position)
            artifact_id = await _find_duplicate(ctx, build, path, upload)
    if artifact_id is None:  # the duplicate was deleted meanwhile
        artifact_id = await _store_new(ctx, caller, build, path, upload, None)
    stored = await ctx.log.load_state(ARTIFACT.at(artifact_id))
    return UploadedArtifact(
        id=artifact_id,
        build_id=build.build_id,
        name=path.rpartition("/")[2],
        size_bytes=upload.size_bytes,
        path=path,
        type=artifact_type(path) if stored is None else stored.type,
        sha256=upload.sha256,
    )


async def _store_new(
    ctx: RequestContext, caller: User | Agent, build: AnyBuild, path: str, upload: Upload, once: IdempotencyKey | None
) -> int:
    """Stores a new artifact and returns its id. Stores the contents before the event, so that every event has its
    contents.
    """
    artifact_id = await ctx.services.ids.draw("artifacts")
    key = blob_key(build.queued.job_id, build.build_id, artifact_id)
    await ctx.services.blobs.put(key, read_chunks(upload.path))
    command = StoreArtifact(
        artifact_id=artifact_id,
        build_id=build.build_id,
        path=path,
        content_type=choose_content_type(path, upload.content_type),
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        by_node=caller.node_id if isinstance(caller, Agent) else None,
    )
    try:
        await ctx(command, once=once)
    except (Rejection, AlreadyDone, ReplayedResponse, DiskFull):
        await ctx.services.blobs.delete(key)
        raise
    return artifact_id


async def _find_duplicate(ctx: RequestContext, build: AnyBuild, path: str, upload: Upload) -> int | None:
    found = await artifacts.find_duplicate(ctx.source, build.build_id, path, upload.sha256)
    return None if found is None else found.id


def _make_key(build_id: int, path: str, sha256: str) -> IdempotencyKey:
    scope = hashlib.sha256(msgspec.msgpack.encode(("artifact", build_id, path, sha256))).digest()
    return IdempotencyKey(scope, scope)


async def record_external_report(
    ctx: RequestContext, build: LoadedState[AnyBuild], file: IncomingReport
) -> Report | None:
    """Records the results of an uploaded file and returns the report. Returns None if neither the contents nor the name
    of the file are those of a test report. Raises Invalid if such a file is to replace a report.
    """
    if (known := file.find_in(build.state)) is not None:
        return known
    report = await ctx.services.reports.read(build.state, file)
    if not report.is_report and not (report.is_unreadable and has_report_ending(file.path)):
        if file.is_replacement:
            raise Invalid.field(
                "replace", "is possible for test reports only, and this file has no test results: leave replace out"
            )
        return None
    return await ctx.services.reports.record(ctx, build, file, report)


def show_report(report: Report, wanted_path: str) -> RecordedReport:
    warnings = list(report.warnings)
    if report.path != wanted_path and not report.late:
        warnings.insert(
            0,
            f"another report is at {wanted_path}: this one is {report.path}, and both count;"
            " to replace a report, send replace=true",
        )
    return RecordedReport(report.cases, warnings)


def parse_flag(field: str, given: str) -> bool:
    if given not in ("true", "false"):
        raise Invalid.field(field, "must be true or false")
    return given == "true"


async def find_writable_build(caller: User | Agent, ctx: RequestContext, given: str) -> LoadedState[AnyBuild]:
    """Returns the build with the id `given`, which is the text of a form field.

    Raises Invalid if the text is no id, and NotFound if the caller cannot see the build. Raises Forbidden for a user
    who may only read the build, and Conflict for an agent if the build no longer runs on its node.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,15}", given) or int(given) > MAX_ID:
        raise Invalid.field("build_id", "must be the id of a build")
    build_id = int(given)
    build = await load_build(ctx.services.log, build_id)
    queued = build.state.queued
    if isinstance(caller, Agent):
        must_be_leased(build.state, caller.node_id)
    else:
        # Read from the log, since read models may not yet show a build that was started a moment ago.
        job = await ctx.services.log.load_state(JOB.at(queued.job_id))
        if job is None or job.deleted:
            raise NotFound(f"There is no build {build_id}.")
        await ctx.must_access(queued.project_id, f"build {build_id}")
    return build


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def make_tree(rows: list[ArtifactRow]) -> dict[str, Any]:
    """Returns the artifacts as a tree of folders. In each folder, folders come before files, both ordered by name.

    The tree has at most MAX_FOLDERS levels. Older releases accepted deeper paths; the rest of such a path is shown as
    the file's name (`sub/folder/file.txt`).
    """
    root = _Folder("/")
    for row in sorted(rows, key=lambda row: (row.path, row.id)):
        *parents, name = row.path.split("/", MAX_FOLDERS)
        folder = root
        for parent in parents:
            folder = folder.folders.setdefault(parent, _Folder(parent))
        folder.files.append({"name": name, "id": row.id, "size_bytes": row.size_bytes})
    return root.show()


@dataclass(frozen=True)
class _Folder:
    name: str
    folders: dict[str, "_Folder"] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)

    def show(self) -> dict[str, Any]:
        return {"name": self.name, "children": [*(folder.show() for folder in self.folders.values()), *self.files]}
