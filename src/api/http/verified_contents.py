"""Reads the contents of artifacts, and passes them on only if they have the SHA-256 that the log says.

A small one is checked before its first byte. A larger one is checked while it is sent, and its last part is sent only
if all of it is right: of an altered one the client gets less than announced. A range of a larger one is not checked.
"""

import hashlib
from collections.abc import AsyncIterator

import structlog

from domain.artifacts import ArtifactStored
from domain.core.errors import ContentsAltered
from integrations.ports import Blobs

log = structlog.get_logger()

SMALL = 4 * 1024 * 1024
"""Bytes of a content that is checked before it is sent, and meanwhile is in memory."""


async def read_verified(blobs: Blobs, artifact: ArtifactStored, start: int, end: int) -> AsyncIterator[bytes]:
    """Returns the bytes from `start` up to, not including, `end`. Raises BlobMissing and ContentsAltered."""
    size = artifact.size_bytes
    if size > SMALL and (start, end) != (0, size):
        return await blobs.get(artifact.blob, start, end)
    chunks = verify(await blobs.get(artifact.blob), artifact)
    if size > SMALL:
        return chunks
    content = b"".join([chunk async for chunk in chunks])
    return _only(content[start:end])


async def verify(chunks: AsyncIterator[bytes], artifact: ArtifactStored) -> AsyncIterator[bytes]:
    """Yields the chunks of a content; the last one only if all are right. Raises ContentsAltered."""
    hashed, size, held = hashlib.sha256(), 0, b""
    async for chunk in chunks:
        size += len(chunk)
        if size > artifact.size_bytes:
            break
        hashed.update(chunk)
        if held:
            yield held
        held = chunk
    if size != artifact.size_bytes or hashed.hexdigest() != artifact.sha256:
        log.error("the content of an artifact was altered", artifact=artifact.artifact_id, blob=artifact.blob)
        raise ContentsAltered(
            f"The content of artifact {artifact.artifact_id} is not the one that was stored: its size or SHA-256 is not"
            " that of the log. An operator can restore it from a backup."
        )
    yield held


async def _only(content: bytes) -> AsyncIterator[bytes]:
    yield content
