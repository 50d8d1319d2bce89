"""Repositories at Bitbucket Cloud."""

import hashlib
from base64 import b64encode
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from integrations.ports import Outgoing
from integrations.scm.rest import (
    COMMIT_ID,
    RestApi,
    check_repository,
    encode,
    first_line,
    must_be_small,
    shorten,
    utc_date,
)
from integrations.source_ports import CloneCredentials, CommitState, CommitStatus, SourceCommit, SourceNotFound

T = TypeVar("T")

STATES: dict[CommitState, str] = {
    "queued": "INPROGRESS",
    "running": "INPROGRESS",
    "passed": "SUCCESSFUL",
    "failed": "FAILED",
    "aborted": "STOPPED",
}
API_URL = "https://api.bitbucket.org/2.0"


class _BitbucketPage(msgspec.Struct, Generic[T]):
    values: list[T]


class _BitbucketNamed(msgspec.Struct):
    name: str


class _BitbucketTarget(msgspec.Struct):
    hash: str


class _BitbucketBranch(msgspec.Struct):
    target: _BitbucketTarget


class _BitbucketUser(msgspec.Struct):
    display_name: str = ""


class _BitbucketAuthor(msgspec.Struct):
    raw: str = ""
    user: _BitbucketUser | None = None


class _BitbucketCommit(msgspec.Struct):
    hash: str
    message: str
    date: datetime
    author: _BitbucketAuthor = msgspec.field(default_factory=_BitbucketAuthor)


class BitbucketRepository:
    """Implements `SourceHost`. The token is an access token, or `user:password` with an app password or API token."""

    def __init__(self, outgoing: Outgoing, repo: str, token: str, api_url: str = API_URL) -> None:
        self._repo, self._token = repo, token
        self._api = RestApi(
            outgoing, f"{api_url}/repositories/{repo}", "bitbucket.org", repo, token, authorization(token)
        )

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        # The host also finds names that contain the prefix in another position.
        quoted = prefix.replace("\\", "\\\\").replace('"', '\\"')
        query = {"q": f'name ~ "{quoted}"'} if prefix else {}
        page = await self._api.get("/refs/branches", _BitbucketPage[_BitbucketNamed], pagelen=100, **query)
        return [branch.name for branch in page.values if branch.name.startswith(prefix)][:limit]

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        missing = f"branch {branch} in {self._repo}"
        query = {} if branch is None else {"include": await self._find_head("branches", branch, missing)}
        kind = _BitbucketPage[_BitbucketCommit]
        page = await self._api.get("/commits", kind, missing=missing, pagelen=limit, **query)
        return [
            SourceCommit(one.hash, first_line(one.message), _author_name(one.author), utc_date(one.hash, one.date))
            for one in page.values
        ]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        async with self._api.time_limit():
            commit = await self._find_commit(ref)
            answer = await self._api.call(
                "GET",
                f"/src/{commit}/{'/'.join(map(encode, path.split('/')))}",
                missing=f"file {path} in {self._repo} at {ref}",
                headers={"Accept": "*/*"},
            )
        return commit, must_be_small(self._repo, path, answer.body)

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        # Bitbucket accepts keys of up to 40 characters.
        key = hashlib.sha256(status.context.encode()).hexdigest()[:40]
        body = {
            "key": key,
            "name": status.context,
            "state": STATES[status.state],
            "description": shorten(status.description),
            "url": status.url,
        }
        missing = f"commit {commit} in {self._repo}"
        await self._api.call("POST", f"/commit/{commit}/statuses/build", missing=missing, body=body)

    async def clone_credentials(self) -> CloneCredentials:
        return clone_credentials(self._token)

    async def check(self) -> None:
        await check_repository(self._api, self.set_status)

    async def _find_commit(self, ref: str) -> str:
        """Returns the id of the commit that `ref` names: a branch, a tag, or a commit id. Looks up each of these three
        kinds separately, since most of Bitbucket's paths do not accept a branch name with a slash.
        """
        if COMMIT_ID.fullmatch(ref):
            return ref
        missing = f"branch, tag or commit {ref} in {self._repo}"
        for kind in ("branches", "tags"):
            try:
                return await self._find_head(kind, ref, missing)
            except SourceNotFound:
                continue
        return (await self._api.get(f"/commit/{encode(ref)}", _BitbucketCommit, missing=missing)).hash

    async def _find_head(self, kind: str, name: str, missing: str) -> str:
        found = await self._api.get(f"/refs/{kind}/{encode(name)}", _BitbucketBranch, missing=missing)
        return found.target.hash


def authorization(token: str) -> dict[str, str]:
    """Returns the header `Authorization` for an access token or for `user:password`."""
    if ":" in token:
        return {"Authorization": f"Basic {b64encode(token.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"}


def clone_credentials(token: str) -> CloneCredentials:
    user, _, password = token.rpartition(":")
    return CloneCredentials(user or "x-token-auth", password)


def _author_name(author: _BitbucketAuthor) -> str:
    return (author.user.display_name if author.user else "") or author.raw.partition("<")[0].strip()
