"""Interface to source code hosts. `integrations.ports` has the interfaces to all other outside systems."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from domain.scm import ScmEndpoint, ScmType

MAX_SOURCE_FILE = 1024 * 1024
"""Largest number of bytes of a file that is read from a repository."""


class SourceFailure(Exception):
    """A call of a source code host failed. The message is a sentence that names the host and the reason, without
    secrets.

    SourceFailure
        ├── SourceNotFound     the host knows no such repository, branch, commit or file, or hides it from this token
        ├── SourceForbidden    the token is refused, or lacks a right
        └── SourceUnavailable  a later try may succeed
    """


class SourceNotFound(SourceFailure):
    pass


class SourceForbidden(SourceFailure):
    pass


class SourceUnavailable(SourceFailure):
    """The host cannot be reached, fails, or has had too many requests."""

    def __init__(self, sentence: str, retry_after_s: int = 0, *, is_timeout: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        """Seconds that the host asks to wait; 0 if it does not say."""
        self.is_timeout = is_timeout
        """True if the host did not answer in time, so that it may still carry the request out."""


@dataclass(frozen=True)
class SourceCommit:
    sha: str
    message: str
    """First line of the message."""
    author: str
    date: datetime


CommitState = Literal["queued", "running", "passed", "failed", "aborted"]


@dataclass(frozen=True)
class CommitStatus:
    """State of a build, as the host shows it next to a commit and its pull requests."""

    state: CommitState
    context: str
    """Name of the status. A later status of a commit replaces the earlier one with the same name."""
    description: str
    url: str


@dataclass(frozen=True)
class CloneCredentials:
    username: str
    password: str = field(repr=False)


class SourceHost(Protocol):
    """One repository at a source code host.

    Each call takes 10 s at most and raises SourceFailure. Do not trust texts of the repository, such as names and
    messages: anybody who can push to it chooses them.
    """

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        """Returns the names of branches that begin with `prefix`, up to `limit` names. `limit` is 100 at most."""
        ...

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        """Returns the newest commits of `branch` (None: the default branch), newest first; `limit` is 100 at most."""
        ...

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        """Returns the full id of the commit that `ref` (a branch, a tag or a commit id) names, and the contents of the
        file at this commit. Also raises SourceNotFound for a folder and for a file of more than MAX_SOURCE_FILE bytes.
        """
        ...

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        """Sets a status of a commit. `commit` is the full id. Does nothing if the host has no statuses."""
        ...

    async def clone_credentials(self) -> CloneCredentials | None:
        """Returns the credentials with which `git` can fetch the repository; None if the repository can be fetched
        without credentials. The credentials may expire within an hour.
        """
        ...

    async def check(self) -> None:
        """Raises SourceFailure if the repository cannot be read, or if no statuses can be set."""
        ...


@dataclass(frozen=True)
class NewSource:
    """Fields of an SCM endpoint, as a user enters them."""

    type: ScmType
    host: str
    repo: str
    token: str | None = field(repr=False)
    """Access token; None if the user enters none. No token is needed for a repository that everybody may read, or if
    the stored token stays while other fields change.
    """
    app_id: int | None = None


class SourceHosts(Protocol):
    """Opens the repositories of SCM endpoints."""

    async def check(self, endpoint: NewSource, *, is_admin: bool) -> None:
        """Raises Invalid, which names the field, if the endpoint's fields cannot be used or its host may not be called.
        Does not call the host.
        """
        ...

    def open(self, endpoint: ScmEndpoint) -> SourceHost:
        """Returns the repository of an endpoint. Makes no call. Raises SourceForbidden for a repository in a folder of
        the server that the operator does not allow.
        """
        ...
