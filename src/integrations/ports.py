"""What the server asks of outside systems: one small Protocol each; its docstrings are the contract."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol


class BlobMissing(Exception):
    """There is no blob under this key."""


class Blobs(Protocol):
    """Where the contents of artifacts lie.

    Keys are ours, never a user's: `jobs/5/builds/7/artifacts/201`, ASCII, without a leading slash. Everything is
    streamed; a call holds a few MiB however large the blob is. Any call may take long and may raise
    Unavailable when the store cannot be reached or refuses us.
    """

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        """Stores the chunks under the key, replacing what was there.

        All or nothing: when this fails, or `chunks` raises (which passes through), or the caller is cancelled,
        the key is as it was before.
        """
        ...

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end` (None: to the end).

        Raises BlobMissing before the first byte.
        """
        ...

    async def size(self, key: str) -> int:
        """In bytes. Raises BlobMissing."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes the blob if there is one."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Deletes everything below a folder of keys (`builds/7`, not a part of a name).

        May have deleted some when it raises; call it again.
        """
        ...
