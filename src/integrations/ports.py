"""Interfaces to outside systems, one Protocol for each system. The docstrings of a Protocol say what its adapters must
do.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.delivery_outcomes import Outcome, judge_answer


class BlobMissing(Exception):
    """There is no blob under this key."""


class Blobs(Protocol):
    """Stores the contents of artifacts, and caches.

    The server makes the keys, never a user. A key is ASCII without a leading slash: `jobs/5/builds/7/artifacts/201`. A
    call needs a few MiB of memory, however large the blob is. Any call may take long. Any call raises Unavailable if
    the store cannot be reached or refuses access, and StorageFull if a disk is full.
    """

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        """Stores the chunks as the blob of this key. Replaces an earlier blob of the key.

        The earlier blob is replaced completely or not at all: it stays if the call fails or is cancelled. Errors that
        `chunks` raises are passed on.
        """
        ...

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Returns an iterator over the bytes from `start` up to, not including, `end` (None: the end of the blob).

        Raises BlobMissing at this call, before any byte is read.
        """
        ...

    async def size(self, key: str) -> int:
        """Returns the size of the blob in bytes. Raises BlobMissing."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes the blob if there is one."""
        ...

    async def delete_prefix(self, prefix: str, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Deletes all blobs whose keys are below a folder. `builds/7` deletes `builds/7/log`, but not `builds/70/log`.
        Calls `on_progress` after each blob with the number of blobs deleted so far and the number of all.

        If this raises an error, only some of the blobs may have been deleted. The caller can call it again.
        """
        ...


class Refused(Exception):
    """The URL may not be called. The message says why, and what would be accepted."""


class Unanswered(Exception):
    """A call got no answer. The message says what happened, in a few words and without secrets."""

    def __init__(self, what: str, ms: int, *, is_timeout: bool = False) -> None:
        super().__init__(what)
        self.ms = ms
        self.is_timeout = is_timeout


@dataclass(frozen=True)
class PostAnswer:
    status: int
    excerpt: str
    """The beginning of the body, as text."""
    ms: int
    """Milliseconds from the call to the last byte that was read."""
    retry_after_s: int = 0
    """Seconds that `Retry-After` asks to wait; 0 without the header."""


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    """Headers of the answer. Their names are in lower case."""
    body: bytes
    retry_after_s: int = 0
    """Seconds that `Retry-After` asks to wait; 0 without the header."""


@dataclass(frozen=True)
class Taken:
    """Requests that a process has taken from a token bucket. The process may now serve as many requests as `requests`
    says.
    """

    requests: int
    left: int
    """Number of requests that are left in the bucket."""


class TokenBuckets(Protocol):
    """Token buckets that limit rates of requests, and that all processes share. An empty bucket fills up within a
    minute.
    """

    async def take(self, key: str, limit: int, wanted: int) -> Taken | None:
        """Takes up to `wanted` requests from the bucket called `key`, which holds `limit` requests when it is full.
        Returns None if the buckets cannot be reached.
        """
        ...


class Outgoing(Protocol):
    """Calls URLs that users enter.

    Each call looks up the name, checks its addresses, and connects to one of these addresses. A redirect is not
    followed: it is returned like any other answer.
    """

    async def check(self, url: str, *, is_admin: bool) -> None:
        """Raises Refused if `post` would refuse the URL now, or if only an admin may enter it. Does not raise if the
        host name cannot be looked up at the moment.
        """
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostAnswer:
        """Posts the body to the URL and returns the answer, whatever its status is. Takes 10 s at most. Raises Refused
        or Unanswered.
        """
        ...

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Returns the document at the URL. Takes 10 s at most. Raises Refused or Unanswered. Also raises Unanswered for
        a document of more than `max_bytes`, and for a status other than 200.
        """
        ...

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", max_bytes: int
    ) -> HttpAnswer:
        """Sends a request and returns the whole answer, whatever its status is. Takes 10 s at most. Raises Refused or
        Unanswered. Also raises Unanswered if the body is larger than `max_bytes`.
        """
        ...

    async def find_addresses(self, url: str) -> Sequence[str]:
        """Returns the addresses that the URL's host has now. Use this for a program that makes its own connections, and
        let it connect only to these addresses.

        Raises Refused if one of the addresses may not be called, and Unanswered if the name cannot be looked up.
        """
        ...


class MailRefused(Exception):
    """The mail server will never deliver this mail. The message is the server's answer, without the recipient's
    address.
    """


class MailNotSent(Exception):
    """The mail was not sent, but a later try may succeed. The message says why, without secrets and addresses."""


@dataclass(frozen=True)
class Mail:
    """A mail to one person, as plain sentences. The adapter turns them into text and HTML."""

    to: str
    subject: str
    sentences: tuple[str, ...]
    link: str = ""
    """URL that stands below the first sentence. It may be secret."""
    key: str = ""
    """Key of this mail, which stays the same when the mail is sent again, so that the receiving side can drop
    repetitions.
    """


class Mailer(Protocol):
    """Sends mails. If the answer of the mail server is lost, a mail may be sent twice."""

    async def send(self, mail: Mail) -> None:
        """Sends the mail, and returns when the mail server has accepted it. Takes 20 s at most. Raises MailRefused or
        MailNotSent.
        """
        ...


async def attempt(outgoing: Outgoing, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
    """Posts to a URL and returns the outcome. A refused or unanswered call is a failed outcome, not an exception."""
    try:
        answer = await outgoing.post(url, body, headers)
    except Refused as error:
        return Outcome(False, 0, f"the URL {error}", 0)
    except Unanswered as error:
        return Outcome(False, 0, str(error), error.ms)
    return judge_answer(answer.status, answer.ms, answer.excerpt, answer.retry_after_s)


MAX_METADATA = 1_000_000
"""Largest number of bytes of an identity provider's metadata. The metadata of AD FS has about 80,000."""


class AssertionRefused(Exception):
    """A SAML response does not prove who a person is. The message says why."""


class MetadataRefused(Exception):
    """The metadata or a certificate of an identity provider cannot be used. The message says why."""


@dataclass(frozen=True)
class TrustedProvider:
    """An identity provider whose assertions are believed."""

    provider_id: int
    entity_id: str
    sso_url: str
    """URL at the provider to which browsers are sent to sign in."""
    certificates: Sequence[str]
    """Certificates whose keys may sign assertions: DER as base64."""


@dataclass(frozen=True)
class Assertion:
    """Statement of an identity provider about a person. The statement's signature, audience, recipient and times were
    checked.
    """

    provider_id: int
    assertion_id: str
    name_id: str
    request_id: str | None
    """Id of the sign-in request that the assertion answers; None if the sign-in began at the provider."""
    attributes: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ProviderMetadata:
    entity_id: str
    sso_url: str
    certificates: Sequence[str]


class Saml(Protocol):
    """Speaks SAML 2.0 as a service provider."""

    def describe_service(self) -> str:
        """Returns the metadata of this server as XML. People set up an identity provider with it."""
        ...

    def sign_in_url(self, provider: TrustedProvider, request_id: str, relay_state: str, now: datetime) -> str:
        """Returns the URL to which a browser is sent, so that its user signs in at the provider."""
        ...

    async def verify(
        self, response: str, providers: Collection[TrustedProvider], recipients: Sequence[str], now: datetime
    ) -> Assertion:
        """Returns the assertion in a base64-encoded response of one of these providers. `recipients` are the URLs of
        this server for which the assertion may be meant.

        Does not know which assertions were used already, nor which requests were made: the caller must check this.
        Raises AssertionRefused, and Unavailable if too many responses are waiting.
        """
        ...

    async def read_metadata(self, xml: str) -> ProviderMetadata:
        """Parses the metadata of one identity provider. Raises MetadataRefused."""
        ...

    def read_certificate(self, text: str) -> str:
        """Returns a certificate as base64 of its DER. `text` is PEM or base64 of DER. Raises MetadataRefused."""
        ...


async def fetch_metadata(outgoing: Outgoing, saml: Saml, url: str) -> ProviderMetadata:
    """Fetches and parses the metadata at a URL. Raises Refused, Unanswered or MetadataRefused."""
    document = await outgoing.fetch(url, MAX_METADATA)
    return await saml.read_metadata(document.decode("utf-8-sig", "replace"))
