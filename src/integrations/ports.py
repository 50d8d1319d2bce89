"""The interfaces to outside systems, one Protocol each; their docstrings are the contract."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from domain.delivery_outcomes import Outcome, judge_answer


class BlobMissing(Exception):
    """There is no blob under this key."""


class Blobs(Protocol):
    """Stores the contents of artifacts.

    Keys are made by the server, never by users: `jobs/5/builds/7/artifacts/201`, ASCII, without a leading slash. Blobs
    are streamed: a call holds a few MiB however large the blob is. Any call may take long, and raises Unavailable when
    the store cannot be reached or refuses access, StorageFull when a disk has no room.
    """

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        """Stores the chunks under the key, replacing what was there.

        All or nothing: when this fails, or `chunks` raises (which passes through), or the caller is cancelled,
        the key is as it was before.
        """
        ...

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Returns the bytes from `start` up to, not including, `end` (None: to the end).

        Raises BlobMissing before the first byte.
        """
        ...

    async def size(self, key: str) -> int:
        """Returns the size in bytes. Raises BlobMissing."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes the blob if there is one."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Deletes everything below a folder of keys (`builds/7`, not a part of a name).

        When it raises, some may be deleted; call it again.
        """
        ...


class Refused(Exception):
    """The URL is not called; the message says why and what would be accepted."""


class Unanswered(Exception):
    """A call got no answer; the message says what happened, in a few words and without secrets."""

    def __init__(self, what: str, ms: int) -> None:
        super().__init__(what)
        self.ms = ms


@dataclass(frozen=True)
class Answer:
    status: int
    excerpt: str
    """The beginning of the body, as text."""
    ms: int
    """The time from the call to the last byte that was read."""
    retry_after_s: int = 0
    """The pause that `Retry-After` asks for; 0: none."""


class Outgoing(Protocol):
    """Calls URLs that users enter.

    The name is looked up, its addresses are checked, and the connection goes to a checked address. Redirects are not
    followed: they are answers like others.
    """

    async def check(self, url: str) -> None:
        """Raises Refused for what `post` would refuse now. A name that cannot be looked up at this moment passes."""
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Returns the answer, whatever its status. Takes 10 s at most. Raises Refused or Unanswered."""
        ...


async def attempt(outgoing: Outgoing, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
    """Makes a call; a failed call is an outcome too."""
    try:
        answer = await outgoing.post(url, body, headers)
    except Refused as error:
        return Outcome(False, 0, f"the URL {error}", 0)
    except Unanswered as error:
        return Outcome(False, 0, str(error), error.ms)
    return judge_answer(answer.status, answer.ms, answer.excerpt, answer.retry_after_s)
