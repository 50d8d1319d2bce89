"""Stores blobs on a local disk, in S3, or in another store that obstore can use; the URL decides.

file:///var/lib/testhide/blobs
s3://bucket/prefix     credentials, region and endpoint from the AWS_* variables
"""

import errno
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from domain.core.errors import StorageFull, Unavailable
from integrations.ports import BlobMissing

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PART = 5 * 1024 * 1024
"""Size of an uploaded part in bytes: the smallest that S3 accepts."""
MAX_PARALLEL_PARTS = 2
READ_CHUNK = 256 * 1024
"""Least number of bytes in a chunk that `get` yields. Only the last chunk may be smaller."""

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
"""URL schemes of the stores to which obstore can write."""

CLIENT: "ClientConfig" = {
    # obstore's own limit is 30 s for a whole transfer, which no large artifact on a slow line would meet.
    "connect_timeout": "5s",
    "timeout": "6h",
    "read_timeout": "60s",
    # Takes effect only if the operator sets an endpoint that begins with http://.
    "allow_http": True,
}
NO_SPACE = f"(os error {errno.ENOSPC})"
"""Text that marks a full disk in obstore's error messages: there is no error class for it."""
RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class ObstoreBlobs:
    """Implements `Blobs`. On disk a blob is written to the file `<key>#<n>`, which is then renamed. A process that is
    killed may leave this file.
    """

    def __init__(self, store: "ObjectStore") -> None:
        self._store = store

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        with _failures(key):
            await obstore.put_async(
                self._store, key, chunks, use_multipart=True, chunk_size=PART, max_concurrency=MAX_PARALLEL_PARTS
            )

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if end is not None and end <= start:
            await self.size(key)
            return _nothing()
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        with _failures(key):
            found = await obstore.get_async(self._store, key, options=options)
        return _stream(key, found)

    async def size(self, key: str) -> int:
        with _failures(key):
            meta = await obstore.head_async(self._store, key)
        return meta["size"]

    async def delete(self, key: str) -> None:
        try:
            with _failures(key):
                await obstore.delete_async(self._store, key)
        except BlobMissing:
            return

    async def delete_prefix(self, prefix: str, on_progress: Callable[[int, int], None] | None = None) -> None:
        with _failures(prefix):
            total = 0
            if on_progress is not None:
                async for found in obstore.list(self._store, prefix, chunk_size=1_000):
                    total += len(found)
            deleted = 0
            async for found in obstore.list(self._store, prefix, chunk_size=1_000):
                for meta in found:
                    await self.delete(meta["path"])
                    deleted += 1
                    if on_progress is not None:
                        on_progress(deleted, total)


def open_blobs(url: str) -> ObstoreBlobs:
    """Returns the store that a URL names. Creates the folder of a local store. Raises ValueError for a URL that names
    no store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return ObstoreBlobs(_local(Path(unquote(parts.path))))
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{url!r} names no blob store: it begins with none of file, {', '.join(SCHEMES)}")
    try:
        return ObstoreBlobs(from_url(url, client_options=CLIENT, retry_config=RETRIES))
    except BaseError as error:
        raise ValueError(f"{url!r} names no blob store: {error}") from error


def _local(folder: Path) -> LocalStore:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalStore(folder, automatic_cleanup=True)


async def _stream(key: str, found: "GetResult") -> AsyncIterator[bytes]:
    with _failures(key):
        async for chunk in found.stream(min_chunk_size=READ_CHUNK):
            yield bytes(chunk)


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in list[bytes]():
        yield chunk


@contextmanager
def _failures(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobMissing(key) from None
    except BaseError as error:
        if NO_SPACE in str(error):
            raise StorageFull("artifacts") from error
        raise Unavailable(f"The blob store failed: {type(error).__name__}. Try again.") from error
