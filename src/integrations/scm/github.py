"""Repositories at GitHub, and at GitHub Enterprise Server."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec

from integrations.ports import Outgoing
from integrations.scm.rest import (
    RequestRejected,
    RestApi,
    check_repository,
    decode_file,
    encode,
    first_line,
    full_names,
    shorten,
    utc_date,
)
from integrations.source_ports import (
    MAX_SOURCE_FILE,
    CloneCredentials,
    CommitState,
    CommitStatus,
    SourceCommit,
    SourceFailure,
    SourceNotFound,
)

API_VERSION = "2022-11-28"
STATES: dict[CommitState, str] = {
    "queued": "pending",
    "running": "pending",
    "passed": "success",
    "failed": "failure",
    "aborted": "error",
}


class _GitHubNamed(msgspec.Struct):
    name: str


class _GitHubRef(msgspec.Struct):
    ref: str


class _GitHubAuthor(msgspec.Struct):
    name: str | None = None
    date: datetime | None = None


class _GitHubDetails(msgspec.Struct):
    message: str
    author: _GitHubAuthor | None = None
    committer: _GitHubAuthor | None = None


class _GitHubCommit(msgspec.Struct):
    sha: str
    commit: _GitHubDetails


class _GitHubFile(msgspec.Struct):
    type: str
    encoding: str = ""
    content: str = ""


class GitHubRepository:
    """Implements `SourceHost`. `base_url` is the URL of a self-hosted server; empty for github.com. `fetch_token`
    returns a valid token.
    """

    def __init__(self, outgoing: Outgoing, base_url: str, repo: str, fetch_token: Callable[[], Awaitable[str]]) -> None:
        self._outgoing, self._base_url, self._repo, self._fetch_token = outgoing, base_url, repo, fetch_token

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        api = await self._api()
        if not prefix:
            return [branch.name for branch in await api.get("/branches", list[_GitHubNamed], per_page=limit)]
        refs = await api.get(f"/git/matching-refs/{encode(f'heads/{prefix}')}", list[_GitHubRef])
        return [ref.ref.removeprefix("refs/heads/") for ref in refs[:limit]]

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        api = await self._api()
        query: dict[str, Any] = {"per_page": limit} | ({"sha": f"heads/{branch}"} if branch is not None else {})
        found = await api.get("/commits", list[_GitHubCommit], missing=f"branch {branch} in {self._repo}", **query)
        return [_to_commit(one) for one in found]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        api = await self._api()
        async with api.time_limit():
            commit = await self._find_commit(api, ref)
            missing = f"file {path} in {self._repo} at {ref}"
            answer = await api.call("GET", f"/contents/{encode(path)}", missing=missing, query={"ref": commit.sha})
        if answer.body[:1] == b"[":
            raise SourceNotFound(f"{path} in {self._repo} is a folder.")
        file = api.read(answer, _GitHubFile)
        if file.encoding != "base64":  # a link, a submodule, or a file that is too large for base64
            raise SourceNotFound(f"{path} in {self._repo} is no file of {MAX_SOURCE_FILE:,} bytes at most.")
        return commit.sha, decode_file(api, path, file.content)

    async def _find_commit(self, api: RestApi, ref: str) -> _GitHubCommit:
        missing = f"branch, tag or commit {ref} in {self._repo}"
        for name in full_names(ref):
            try:
                return await api.get(f"/commits/{encode(name)}", _GitHubCommit, missing=missing)
            except (SourceNotFound, RequestRejected):  # GitHub answers 422 for an unknown commit
                continue
        raise SourceNotFound(f"{api.name} has no {missing}, or hides it from this token.")

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        body = {
            "state": STATES[status.state],
            "context": status.context,
            "description": shorten(status.description),
            **({"target_url": status.url} if status.url else {}),
        }
        missing = f"commit {commit} in {self._repo}"
        await (await self._api()).call("POST", f"/statuses/{commit}", missing=missing, body=body)

    async def clone_credentials(self) -> CloneCredentials:
        return CloneCredentials("x-access-token", await self._fetch_token())

    async def check(self) -> None:
        await check_repository(await self._api(), self.set_status, unknown_commit=RequestRejected)

    async def _api(self) -> RestApi:
        return api_of(self._outgoing, self._base_url, self._repo, await self._fetch_token())


def api_of(outgoing: Outgoing, base_url: str, repo: str, token: str) -> RestApi:
    """Returns the API of a repository at GitHub; if `repo` is empty, the API of the whole server."""
    root = f"{base_url}/api/v3" if base_url else "https://api.github.com"
    headers = {"Authorization": f"Bearer {token}", "X-GitHub-Api-Version": API_VERSION}
    name = base_url.partition("://")[2] or "github.com"
    return RestApi(outgoing, f"{root}/repos/{repo}" if repo else root, name, repo, token, headers)


def _to_commit(found: _GitHubCommit) -> SourceCommit:
    details = found.commit
    people = [person for person in (details.author, details.committer) if person is not None]
    date = next((person.date for person in reversed(people) if person.date is not None), None)
    if date is None:
        raise SourceFailure(f"The commit {found.sha} has no date.")
    name = next((person.name for person in people if person.name), "")
    return SourceCommit(found.sha, first_line(details.message), name, utc_date(found.sha, date))
