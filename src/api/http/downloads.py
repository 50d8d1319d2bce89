"""Files out: the headers of a download, ranges (RFC 9110, section 14), names (RFC 6266)."""

import mimetypes
import re
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.response import Stream

from api.http import problems
from domain.core.errors import NotFound
from integrations.ports import BlobMissing, Blobs
from projections.artifacts import ArtifactRow

OCTETS = "application/octet-stream"

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """No byte of the range is in the file: 416."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and one past the last byte that are wanted; None for the whole file.

    A header that is no single range of bytes is to be ignored, says the RFC.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size or start >= end:
        raise Unsatisfiable
    return start, end


async def file_answer(request: Request[Any, Any, Any], blobs: Blobs, artifact: ArtifactRow) -> Response[Any] | Stream:
    """The file, the range of it that is wanted, or that the client has it already. Raises NotFound."""
    etag = f'"{artifact.sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, status_code=304, headers=headers)
    size = artifact.size_bytes
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        try:
            wanted = byte_range(request.headers.get("range"), size)
        except Unsatisfiable:
            detail = f"The artifact has {size} bytes; the range asks for none of them."
            headers["Content-Range"] = f"bytes */{size}"
            return problems.response(416, "range", "Range not satisfiable", detail, headers=headers)
    start, end = wanted or (0, size)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    try:
        content = await blobs.get(artifact.blob, start, end)
    except BlobMissing:
        raise NotFound(f"The content of artifact {artifact.id} is gone.") from None
    return Stream(
        content,
        status_code=200 if wanted is None else 206,
        media_type=artifact.content_type,
        headers={
            **headers,
            "Content-Disposition": disposition(artifact.name),
            "Content-Length": str(end - start),
            # Opened in a browser after all, it can do nothing.
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )


def content_type(path: str, sent: str) -> str:
    """What the client says, if it says anything of use, else by the name."""
    sent = sent.lower().strip()
    if sent and sent != OCTETS and _MEDIA_TYPE.fullmatch(sent):
        return sent
    return mimetypes.guess_type(path)[0] or OCTETS


def disposition(name: str) -> str:
    """RFC 6266: a plain name for old clients, the real one as RFC 5987 has it."""
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
