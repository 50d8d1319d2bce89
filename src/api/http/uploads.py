"""Receives multipart/form-data with one file. Streams the file to disk and keeps at most one chunk in memory.

Litestar's parser is not used, since it keeps fields without a file name in memory, whatever their size.
"""

import errno
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header  # type: ignore[import-untyped]

from api.http.idempotency import BODY_HASH
from api.http.permissions import Agent
from api.http.validation import suggestion
from domain.core.errors import Invalid, StorageFull, TooLarge

FORM = "multipart/form-data"
MAX_FIELD_BYTES = 8 * 1024  # bytes
MAX_PARTS = 20


@dataclass(frozen=True)
class Upload:
    fields: Mapping[str, str]
    file_name: str
    content_type: str
    size_bytes: int
    sha256: str
    path: Path


@contextmanager
def open_spooled(spool: Path, prefix: str) -> Iterator[IO[bytes]]:
    """Yields a new file in the folder `spool`, and deletes it when the block ends. Raises StorageFull if the disk is
    full.
    """
    try:
        with NamedTemporaryFile(dir=spool, prefix=prefix) as spooled:
            yield spooled
    except OSError as error:  # also when the file is closed, with what was not written yet
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("data folder") from error
        raise


Check = Callable[[Mapping[str, str]], Awaitable[None]]


@asynccontextmanager
async def receive_upload(
    request: Request[Any, Any, Any], spool: Path, limit: int, check: Check
) -> AsyncIterator[Upload]:
    """Yields the fields of a form and its `file`, which is in the folder `spool` until the block ends.

    Calls `check` with the fields that come before the file, so that a file which `check` refuses is not written. Raises
    Invalid for a wrong form or unknown fields, TooLarge for a file of more than `limit` bytes, StorageFull if the disk
    is full, and all errors of `check`.
    """
    boundary = _boundary(request)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + MAX_PARTS * MAX_FIELD_BYTES:
        raise too_large(limit)
    with open_spooled(spool, "upload-") as spooled:
        # Agents of a newer release may send fields that this server does not know.
        known = None if isinstance(request.user, Agent) else request.route_handler.opt["content"][FORM]["properties"]
        form = _Form(spooled.write, limit, known)
        try:
            with PushMultipartParser(boundary, max_segment_count=MAX_PARTS, max_header_size=MAX_FIELD_BYTES) as parser:
                async for chunk in request.stream():
                    for part in parser.parse(chunk):
                        form.take(part)
                        if form.file_begins:
                            await check(form.fields)
        except MultipartError as error:
            raise Invalid(f"The body is not valid multipart/form-data: {error}") from error
        if form.file_name is None:
            raise Invalid.field("file", "is missing: send the file as a part named `file`")
        spooled.flush()
        request.state[BODY_HASH] = form.hash()
        yield Upload(
            form.fields, form.file_name, form.content_type, form.size, form.digest.hexdigest(), Path(spooled.name)
        )


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
    def __init__(self, write: Callable[[bytes], object], limit: int, known: Collection[str] | None) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.content_type = ""
        self.size = 0
        self.digest = hashlib.sha256()
        self.file_begins = False
        self._write = write
        self._limit = limit
        self._known = known
        self._segment: MultipartSegment | None = None
        self._field = bytearray()

    def hash(self) -> bytes:
        """Returns a hash of the form. Leaves out the boundary between its parts, since a client that sends the same
        form again uses another boundary.
        """
        parts = (sorted(self.fields.items()), self.file_name, self.content_type, self.digest.digest())
        return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()

    def take(self, part: MultipartSegment | bytes | bytearray | None) -> None:
        self.file_begins = False
        match part:
            case MultipartSegment():
                self._segment = part
                self._field.clear()
                if self._is_file:
                    if self.file_name is not None:
                        raise Invalid.field("file", "may be given once")
                    self.file_name = part.filename or "file"
                    self.content_type = part.content_type or ""
                    self.file_begins = True
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
        self._write(chunk)

    def _end_field(self, name: str) -> None:
        if name in self.fields:
            raise Invalid.field(name, "may be given once")
        if self._known is not None and name not in self._known:
            raise Invalid.field(name, f"is not known here{suggestion(name, self._known)}")
        try:
            self.fields[name] = self._field.decode()
        except UnicodeDecodeError:
            raise Invalid.field(name, "must be UTF-8") from None
