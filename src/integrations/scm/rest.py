"""Calls the REST APIs of source code hosts, and raises a different error for each reason why a call fails."""

import asyncio
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from integrations.ports import HttpAnswer, Outgoing, Refused, Unanswered
from integrations.source_ports import (
    MAX_SOURCE_FILE,
    CommitStatus,
    SourceFailure,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors that occur while an answer is read. The answer is no JSON of the expected form, has a number with thousands of
digits, or is nested too deeply.
"""

TIME_LIMIT_S = 10.0
"""Longest time in seconds that a call of a `SourceHost` takes, however many requests it makes."""
MAX_ANSWER = 4 * 1024 * 1024
"""Largest number of bytes of an answer. It is enough for a file of 1 MiB in base64, or for the names of some 10,000
branches.
"""
NO_COMMIT = "0" * 40
"""Id of a commit that no repository has. It shows whether a token may set statuses: if it may, the host answers a
status for this commit with "no such commit"; if not, with "not allowed".
"""
MAX_QUOTE = 200
"""Largest number of characters of a host's message that are quoted."""
MAX_DESCRIPTION = 140
"""Largest number of characters in the description of a status. GitHub accepts no more."""
COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_SECONDS = re.compile(r"[0-9]{1,12}")


class RequestRejected(SourceFailure):
    """The host understands the request but refuses it, for example because it knows no such commit."""


class _Problem(msgspec.Struct):
    message: Any = None
    error: Any = None
    errors: Any = None


@dataclass(frozen=True)
class RestApi:
    """The API of one repository at its host. `name` is the host's name in error messages."""

    outgoing: Outgoing
    base_url: str
    name: str
    repo: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    async def get(self, path: str, into: type[T], *, missing: str = "", **query: object) -> T:
        """Sends a GET. Returns the answer's JSON as an object of the type `into`. `missing` names the object that the
        request looks for, such as `branch main`: if the host answers 404, the error says that this object is missing.
        Raises SourceFailure.
        """
        return self.read(await self.call("GET", path, missing=missing, query=query), into)

    async def call(
        self,
        method: str,
        path: str,
        *,
        missing: str = "",
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_ANSWER,
    ) -> HttpAnswer:
        """Sends a request. Returns the answer if its status is 2xx, else raises SourceFailure."""
        url = f"{self.base_url}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        content = b"" if body is None else msgspec.json.encode(body)
        sent = {"Accept": "application/json", **self.headers, **(headers or {})}
        if content:
            sent["Content-Type"] = "application/json"
        try:
            answer = await self.outgoing.request(method, url, headers=sent, body=content, max_bytes=max_bytes)
        except Refused as error:
            raise SourceFailure(f"{self.name} is not called: it {error}.") from None
        except Unanswered as error:
            raise SourceUnavailable(f"{self.name} gives no answer: {error}.", is_timeout=error.is_timeout) from None
        if not 200 <= answer.status < 300:
            raise self._failure(answer, missing or f"repository {self.repo}")
        return answer

    def read(self, answer: HttpAnswer, into: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=into)
        except UNREADABLE as error:
            raise SourceFailure(f"{self.name} answers what is not its API: {error}.") from None

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """Context manager that cancels its block after TIME_LIMIT_S and then raises SourceUnavailable."""
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                yield
        except TimeoutError:
            raise SourceUnavailable(
                f"{self.name} gives no answer within {TIME_LIMIT_S:g} s.", is_timeout=True
            ) from None

    def _failure(self, answer: HttpAnswer, missing: str) -> SourceFailure:
        quoted = self._quote(answer)
        match answer.status:
            case 401:
                return SourceForbidden(f"{self.name} refuses the token: it is wrong, expired or revoked{quoted}.")
            case 403 | 429 as status if (wait := _wait_s(answer)) or status == 429:
                until = f" for {wait} s" if wait else ""
                return SourceUnavailable(f"{self.name} takes no more requests with this token{until}.", wait)
            case 403:
                return SourceForbidden(f"{self.name} does not let this token do this with {self.repo}{quoted}.")
            case 404 | 410:
                return SourceNotFound(f"{self.name} has no {missing}, or hides it from this token.")
            case status if 300 <= status < 400:
                return SourceNotFound(f"{self.name} says that {self.repo} has moved: enter its present path.")
            case status if status >= 500:
                return SourceUnavailable(f"{self.name} fails with status {status}{quoted}.", answer.retry_after_s)
            case status:
                return RequestRejected(f"{self.name} refuses the request with status {status}{quoted}.")

    def _quote(self, answer: HttpAnswer) -> str:
        """Returns the message of an answer in quotes, without the token; an empty text if the answer has no message."""
        try:
            problem = msgspec.json.decode(answer.body, type=_Problem)
            found = problem.message or problem.error or problem.errors
            while isinstance(found, list | dict) and found:
                first = found[0] if isinstance(found, list) else found.get("message", next(iter(found.values())))
                found = first
            shown = str(found or "")
        except UNREADABLE:
            return ""
        text = " ".join("".join(filter(str.isprintable, shown)).split())
        for secret in filter(None, (self.token, self.token.rpartition(":")[2])):
            text = text.replace(secret, "***")
        return f" (“{text[:MAX_QUOTE].rstrip('.')}”)" if text else ""


def _wait_s(answer: HttpAnswer) -> int:
    """Returns the seconds until the host accepts requests again; 0 if no rate limit refused the request."""
    if answer.retry_after_s:
        return answer.retry_after_s
    reset = answer.headers.get("x-ratelimit-reset") or answer.headers.get("ratelimit-reset") or ""
    left = answer.headers.get("x-ratelimit-remaining") or answer.headers.get("ratelimit-remaining")
    if left != "0" or not _SECONDS.fullmatch(reset):
        return 0
    return max(1, int(reset) - int(datetime.now(UTC).timestamp()))


async def check_repository(
    api: RestApi,
    set_status: Callable[[str, CommitStatus], Awaitable[None]],
    unknown_commit: type[SourceFailure] = SourceNotFound,
) -> None:
    """Checks that the token can read the repository and set statuses of commits. Raises SourceFailure if it cannot.

    Tries to set a status of a commit that does not exist. If the token may set statuses, the host answers that it has
    no such commit, and `set_status` raises `unknown_commit`.
    """
    async with api.time_limit():
        await api.call("GET", "")
        try:
            await set_status(NO_COMMIT, CommitStatus("running", "testhide/test", "", "https://example.com/"))
        except unknown_commit:
            return
        except (SourceForbidden, SourceNotFound):
            raise SourceForbidden(
                f"{api.name} does not let this token set statuses of commits in {api.repo}."
            ) from None


def decode_file(api: RestApi, path: str, content: str) -> bytes:
    """Returns the bytes of a file that a host sends as base64. Raises SourceFailure."""
    try:
        return must_be_small(api.repo, path, b64decode(content))
    except ValueError:
        raise SourceFailure(f"{api.name} answers what is not its API: {path} is not base64.") from None


def must_be_small(repo: str, path: str, content: bytes) -> bytes:
    """Returns the content unchanged. Raises SourceNotFound if it has more than MAX_SOURCE_FILE bytes."""
    if len(content) > MAX_SOURCE_FILE:
        raise SourceNotFound(f"{path} in {repo} is no file of {MAX_SOURCE_FILE:,} bytes at most.")
    return content


def utc_date(commit: str, date: datetime | str | int) -> datetime:
    """Returns the date of a commit in UTC. `date` may be a text or milliseconds since 1970. Raises SourceFailure for a
    date outside the calendar, since the author of a commit can choose any date.
    """
    try:
        if isinstance(date, str):
            date = datetime.fromisoformat(date)
        elif isinstance(date, int):
            date = datetime.fromtimestamp(date / 1000, UTC)
        return date.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise SourceFailure(f"The commit {commit[:MAX_QUOTE]} has a date outside the years 1 to 9999.") from None


def encode(text: str) -> str:
    """Returns a text percent-encoded, as one segment of a URL path."""
    return quote(text, safe="")


def full_names(ref: str) -> tuple[str, ...]:
    """Returns the full names that `ref` may mean, in the order in which to look them up. The branch comes before a tag
    with the same name, because people who may not push branches may be allowed to push tags. A full commit id means
    only its commit.
    """
    return (ref,) if COMMIT_ID.fullmatch(ref) else (f"heads/{ref}", f"tags/{ref}")


def first_line(text: str) -> str:
    return text.split("\n", 1)[0].strip()


def shorten(description: str) -> str:
    return description if len(description) <= MAX_DESCRIPTION else f"{description[: MAX_DESCRIPTION - 1]}…"
