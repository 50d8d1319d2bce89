"""Reads the contents of artifacts, and sends them only if they have the SHA-256 that is in the log.

Small contents are checked before their first byte is sent. Larger ones are checked while they are sent, and their last
part is sent only if all of it is right; so of altered contents a client gets less than announced. A range of larger
contents is not checked.
"""

import hashlib
from collections.abc import AsyncIterator

import structlog

from domain.artifacts import ArtifactStored
from domain.core.errors import ContentsAltered
from integrations.ports import Blobs

log = structlog.get_logger()

SMALL = 4 * 1024 * 1024
"""Largest number of bytes of contents that are read into memory and checked before they are sent."""


async def read_verified(blobs: Blobs, artifact: ArtifactStored, start: int, end: int) -> AsyncIterator[bytes]:
    """Returns the bytes from `start` up to, but not including, `end`. Raises BlobMissing or ContentsAltered."""
    size = artifact.size_bytes
    if size > SMALL and (start, end) != (0, size):
        return await blobs.get(artifact.blob, start, end)
    chunks = verify(await blobs.get(artifact.blob), artifact)
    if size > SMALL:
        return chunks
    content = b"".join([chunk async for chunk in chunks])
    return _only(content[start:end])


async def verify(chunks: AsyncIterator[bytes], artifact: ArtifactStored) -> AsyncIterator[bytes]:
    """Yields the chunks of an artifact's contents, the last one only if all are right. Otherwise raises
    ContentsAltered.
    """
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
