"""Sends the contents of artifacts, and checks whether their SHA-256 is the one in the log.

Small contents are checked before their first byte is sent. Larger contents are checked while they are sent: the last
part is sent only if the SHA-256 is right, so a client that gets fewer bytes than announced knows that they were
altered. A range of larger contents is not checked.
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
    """Returns an iterator over the bytes from `start` up to, but not including, `end`. Both this function and the
    iterator raise BlobMissing if the contents are missing, and ContentsAltered if somebody altered them.
    """
    size = artifact.size_bytes
    if size > SMALL and (start, end) != (0, size):
        return await blobs.get(artifact.blob, start, end)
    chunks = verify(await blobs.get(artifact.blob), artifact)
    if size > SMALL:
        return chunks
    content = b"".join([chunk async for chunk in chunks])
    return _only(content[start:end])


async def verify(chunks: AsyncIterator[bytes], artifact: ArtifactStored) -> AsyncIterator[bytes]:
    """Yields the chunks of an artifact's contents. Checks the size and the SHA-256 of the whole before the last chunk.
    If one of them is wrong, raises ContentsAltered instead of yielding that chunk.
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
