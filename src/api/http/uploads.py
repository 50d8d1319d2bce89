"""Receives multipart/form-data with one file. Streams the file to disk, and keeps little of it in memory. Each
operation sets the largest size of its files, such as `api.artifacts.MAX_UPLOAD_BYTES`. Litestar's parser is not used:
it would keep fields without a file name in memory, whatever their size.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header  # type: ignore[import-untyped]

from api.http.idempotency import BODY_HASH
from api.http.permissions import Agent
from api.http.spool import Spool
from commands.validation import suggestion
from domain.core.errors import Invalid, TooLarge

FORM = "multipart/form-data"
MAX_FIELD_BYTES = 8 * 1024  # of each field other than the file
MAX_PARTS = 20
MAX_HELD_BYTES = 64 * 1024
"""Largest number of bytes of a file that may come before the form field with the file's owner, such as `build_id`.
Until this field comes, the bytes are kept in memory.
"""


@dataclass(frozen=True)
class Upload:
    fields: Mapping[str, str]
    file_name: str
    content_type: str
    size_bytes: int
    sha256: str
    path: Path


Check = Callable[[str, int], Awaitable[int]]
"""Function that decides whether a file is accepted. Its arguments are the value of the form field with the file's
owner, such as the id of a build, and a lower bound of the file's size in bytes. It returns the id of the owner's
project, or raises an error to refuse the file.
"""


@asynccontextmanager
async def receive_upload(
    request: Request[Any, Any, Any], spool: Spool, limit: int, owner: str, check: Check
) -> AsyncIterator[Upload]:
    """Yields the fields of a form and its `file`, which is in the spool until the block ends.

    Calls `check` with the value of the field called `owner` as soon as this field comes. Until then, writes nothing of
    the file, so that a file which `check` refuses is neither written nor received to its end.

    Raises the errors of `check`, and:

    - Invalid for a wrong form, for unknown fields, and if the field `owner` is missing or comes after MAX_HELD_BYTES of
      the file
    - TooLarge for a file of more than `limit` bytes
    - StorageFull if the disk is full
    - Unavailable if the spool is full
    """
    boundary = _boundary(request)
    announced = request.headers.get("content-length", "")
    least = max(0, int(announced) - MAX_PARTS * MAX_FIELD_BYTES) if announced.isdecimal() else 0
    if least > limit:
        raise too_large(limit)
    with spool.open("upload-") as spooled:
        # Agents of a newer release may send fields that this server does not know.
        known = None if isinstance(request.user, Agent) else request.route_handler.opt["content"][FORM]["properties"]
        form = _Form(spooled.write, limit, known, owner)
        try:
            with PushMultipartParser(boundary, max_segment_count=MAX_PARTS, max_header_size=MAX_FIELD_BYTES) as parser:
                async for chunk in request.stream():
                    for part in parser.parse(chunk):
                        form.take(part)
                        if form.is_held and owner in form.fields:
                            spooled.project_id = await check(form.fields[owner], least)
                            form.release()
        except MultipartError as error:
            raise Invalid(f"The body is not valid multipart/form-data: {error}") from error
        if form.is_held:
            await check("", 0)
        if form.file_name is None:
            raise Invalid.field("file", "is missing: send the file as a part named `file`")
        spooled.flush()
        request.state[BODY_HASH] = form.hash()
        yield Upload(form.fields, form.file_name, form.content_type, form.size, form.digest.hexdigest(), spooled.path)


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"A file may have at most {limit:,} bytes.")


def _boundary(request: Request[Any, Any, Any]) -> str:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != FORM:
        raise HTTPException("Send the file as `Content-Type: multipart/form-data`.", status_code=415)
    if not options.get("boundary"):
        raise Invalid("The Content-Type has no boundary.")
    return str(options["boundary"])


class _Form:
    def __init__(self, write: Callable[[bytes], object], limit: int, known: Collection[str] | None, owner: str) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.content_type = ""
        self.size = 0
        self.digest = hashlib.sha256()
        self.is_held = True
        """Whether the file's bytes are only in memory, since it is not known yet whether the file is accepted."""
        self._held = bytearray()
        self._owner = owner
        self._write = write
        self._limit = limit
        self._known = known
        self._segment: MultipartSegment | None = None
        self._field = bytearray()

    def hash(self) -> bytes:
        """Returns a hash of the form without its boundaries, since a client that sends the form again uses another
        boundary.
        """
        parts = (sorted(self.fields.items()), self.file_name, self.content_type, self.digest.digest())
        return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()

    def take(self, part: MultipartSegment | bytes | bytearray | None) -> None:
        match part:
            case MultipartSegment():
                self._segment = part
                self._field.clear()
                if self._is_file:
                    if self.file_name is not None:
                        raise Invalid.field("file", "may be given once")
                    self.file_name = part.filename or "file"
                    self.content_type = part.content_type or ""
            case None:
                if self._segment is not None and not self._is_file:
                    self._end_field(self._segment.name or "")
                self._segment = None
            case chunk:
                self._data(bytes(chunk))

    @property
    def _is_file(self) -> bool:
        return self._segment is not None and self._segment.name == "file"

    def _data(self, chunk: bytes) -> None:
        if not self._is_file:
            self._field += chunk
            if len(self._field) > MAX_FIELD_BYTES:
                name = self._segment.name if self._segment is not None else ""
                raise Invalid.field(name or "body", f"has more than {MAX_FIELD_BYTES:,} bytes")
            return
        self.size += len(chunk)
        if self.size > self._limit:
            raise too_large(self._limit)
        self.digest.update(chunk)
        if self.is_held:
            self._held += chunk
            if len(self._held) > MAX_HELD_BYTES:
                raise Invalid.field(self._owner, f"must come before a file of more than {MAX_HELD_BYTES:,} bytes")
        else:
            self._write(chunk)

    def release(self) -> None:
        """Writes the bytes that were held in memory to the file. Later bytes are written as they come."""
        self.is_held = False
        self._write(bytes(self._held))
        self._held.clear()

    def _end_field(self, name: str) -> None:
        if name in self.fields:
            raise Invalid.field(name, "may be given once")
        if self._known is not None and name not in self._known:
            raise Invalid.field(name, f"is not known here{suggestion(name, self._known)}")
        try:
            self.fields[name] = self._field.decode()
        except UnicodeDecodeError:
            raise Invalid.field(name, "must be UTF-8") from None
