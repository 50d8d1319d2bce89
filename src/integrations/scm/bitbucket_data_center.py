"""Repositories at Bitbucket Data Center. Its API differs from the API of Bitbucket Cloud."""

from typing import Any, Generic, TypeVar

import msgspec

from integrations.ports import Outgoing
from integrations.scm.bitbucket import STATES as CLOUD_STATES
from integrations.scm.bitbucket import authorization, clone_credentials
from integrations.scm.rest import (
    RestApi,
    check_repository,
    encode,
    first_line,
    full_names,
    must_be_small,
    shorten,
    utc_date,
)
from integrations.source_ports import CloneCredentials, CommitStatus, SourceCommit, SourceNotFound

T = TypeVar("T")

STATES = CLOUD_STATES | {"aborted": "FAILED"}  # not every release knows CANCELLED


class _DataCenterPage(msgspec.Struct, Generic[T]):
    values: list[T]


class _DataCenterBranch(msgspec.Struct, rename="camel"):
    display_id: str


class _DataCenterAuthor(msgspec.Struct, rename="camel"):
    name: str = ""
    display_name: str = ""


class _DataCenterCommit(msgspec.Struct, rename="camel"):
    id: str
    message: str
    author_timestamp: int
    """Milliseconds since 1970."""
    author: _DataCenterAuthor


class DataCenterRepository:
    """Implements `SourceHost`. `repo` is `PROJECT/name`, or `~user/name`."""

    def __init__(self, outgoing: Outgoing, base_url: str, repo: str, token: str) -> None:
        self._base_url, self._repo, self._token = base_url, repo, token
        project, name = map(encode, repo.split("/"))
        root = f"{base_url}/rest/api/1.0/projects/{project}/repos/{name}"
        # Without this header, Data Center refuses a POST as a possible forgery.
        headers = {"X-Atlassian-Token": "no-check", **authorization(token)}
        self._api = RestApi(outgoing, root, base_url.partition("://")[2], repo, token, headers)

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        # The host also finds names that contain the prefix in another position.
        search = {"filterText": prefix} if prefix else {}
        page = await self._api.get("/branches", _DataCenterPage[_DataCenterBranch], limit=100, **search)
        return [branch.display_id for branch in page.values if branch.display_id.startswith(prefix)][:limit]

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        until = None if branch is None else f"refs/heads/{branch}"
        found = await self._commits(until, limit, f"branch {branch} in {self._repo}")
        return [
            SourceCommit(
                one.id,
                first_line(one.message),
                one.author.display_name or one.author.name,
                utc_date(one.id, one.author_timestamp),
            )
            for one in found
        ]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        async with self._api.time_limit():
            commit = await self._find_commit(ref)
            answer = await self._api.call(
                "GET",
                f"/raw/{'/'.join(map(encode, path.split('/')))}",
                missing=f"file {path} in {self._repo} at {ref}",
                query={"at": commit},
                headers={"Accept": "*/*"},
            )
        return commit, must_be_small(self._repo, path, answer.body)

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        body = {
            "key": status.context,
            "name": status.context,
            "state": STATES[status.state],
            "description": shorten(status.description),
            "url": status.url,
        }
        await self._api.call("POST", f"/commits/{commit}/builds", missing=f"commit {commit} in {self._repo}", body=body)

    async def clone_credentials(self) -> CloneCredentials:
        return clone_credentials(self._token)

    async def check(self) -> None:
        await check_repository(self._api, self.set_status)

    async def _find_commit(self, ref: str) -> str:
        missing = f"branch, tag or commit {ref} in {self._repo}"
        for name in full_names(ref):
            try:
                commits = await self._commits(name if name == ref else f"refs/{name}", 1, missing)
            except SourceNotFound:
                continue
            if commits:
                return commits[0].id
        raise SourceNotFound(f"{self._api.name} has no {missing}, or hides it from this token.")

    async def _commits(self, until: str | None, limit: int, missing: str) -> list[_DataCenterCommit]:
        query: dict[str, Any] = {"limit": limit} | ({"until": until} if until is not None else {})
        return (await self._api.get("/commits", _DataCenterPage[_DataCenterCommit], missing=missing, **query)).values
