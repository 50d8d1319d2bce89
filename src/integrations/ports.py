"""What the server asks of outside systems: one small Protocol each; its docstrings are the contract."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from domain.deliveries import Outcome, outcome


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


class Refused(Exception):
    """An address that this server does not call; says why, and what would be taken."""


class Unanswered(Exception):
    """A call that got no answer; says what happened, in a few words and without secrets."""

    def __init__(self, what: str, ms: int) -> None:
        super().__init__(what)
        self.ms = ms


@dataclass(frozen=True)
class Answer:
    status: int
    excerpt: str
    """The beginning of the body, as text."""
    ms: int
    """From the call to the last byte that was read."""
    retry_after_s: int = 0
    """How long it asks to be left alone, by `Retry-After`."""


class Outgoing(Protocol):
    """The only way out to addresses that people choose.

    Every address is looked up, checked and then connected to as it was checked. Redirects are answers like others.
    """

    async def check(self, url: str) -> None:
        """Raises Refused for what `post` would refuse now. A name that cannot be looked up at this moment passes."""
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Any status is an answer. Takes 10 s at most. Raises Refused or Unanswered."""
        ...


async def attempt(outgoing: Outgoing, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
    """A call whose failure is an outcome too."""
    try:
        answer = await outgoing.post(url, body, headers)
    except Refused as error:
        return Outcome(False, 0, f"the URL {error}", 0)
    except Unanswered as error:
        return Outcome(False, 0, str(error), error.ms)
    return outcome(answer.status, answer.ms, answer.excerpt, answer.retry_after_s)
