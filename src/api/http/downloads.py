"""Sends files: headers, ranges (RFC 9110, section 14) and file names (RFC 6266)."""

import mimetypes
import re
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.response import Stream

from api.http import problems
from api.http.repeated_checks import Check, check_while_sending
from api.http.verified_contents import read_verified
from domain.artifacts import ArtifactStored
from domain.core.errors import NotFound
from integrations.ports import BlobMissing, Blobs

DEFAULT_MEDIA_TYPE = "application/octet-stream"

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """The file has no byte in the requested range. The response is 416."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns the requested range as two indexes: that of the first byte in the range, and that of the first byte after
    the range. Returns None if the whole file is to be sent.

    Ignores a header that is not a single range of bytes, as RFC 9110 demands. Raises Unsatisfiable if the file has no
    byte in the range.
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
    if start >= size:
        raise Unsatisfiable
    return start, end


async def make_file_response(
    request: Request[Any, Any, Any], blobs: Blobs, artifact: ArtifactStored, check: Check
) -> Response[Any] | Stream:
    """Returns a response with the whole file (200) or the requested range (206). Answers 304 if the client already has
    the file, and 416 if the file has no byte in the range. Calls `check` regularly while it sends the file.

    Raises NotFound if the contents are missing, and ContentsAltered if they are not those that were stored.
    """
    etag = f'"{artifact.sha256}"'
    # Browsers keep the file, and ask each time whether it has changed.
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, status_code=304, headers=headers)
    size = artifact.size_bytes
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        try:
            wanted = parse_range(request.headers.get("range"), size)
        except Unsatisfiable:
            detail = f"The artifact has {size} bytes; the range asks for none of them."
            headers["Content-Range"] = f"bytes */{size}"
            return problems.response(416, "range", "Range not satisfiable", detail, headers=headers)
    start, end = wanted or (0, size)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    try:
        content = await read_verified(blobs, artifact, start, end)
    except BlobMissing:
        raise NotFound(f"The content of artifact {artifact.artifact_id} is gone.") from None
    return Stream(
        check_while_sending(request, content, check),
        status_code=200 if wanted is None else 206,
        media_type=artifact.content_type,
        headers={
            **headers,
            "Content-Disposition": format_disposition(artifact.path.rpartition("/")[2]),
            "Content-Length": str(end - start),
            # Keeps browsers that open the file from running scripts in it.
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )


def choose_content_type(path: str, sent: str) -> str:
    """Returns the media type of a file: the one that the client `sent`. If the client sent none, a malformed one or
    only `application/octet-stream`, returns the usual media type for the ending of the file's name.
    """
    sent = sent.lower().strip()
    if sent and sent != DEFAULT_MEDIA_TYPE and _MEDIA_TYPE.fullmatch(sent):
        return sent
    return mimetypes.guess_type(path)[0] or DEFAULT_MEDIA_TYPE


def format_disposition(name: str) -> str:
    """Returns the value of `Content-Disposition`, with the name in UTF-8 and, for old clients, in ASCII (RFC 6266, RFC
    5987).
    """
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
