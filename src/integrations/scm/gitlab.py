"""Repositories at GitLab: gitlab.com and self-managed servers."""

from datetime import datetime
from typing import Any

import msgspec

from integrations.ports import Outgoing
from integrations.scm.rest import (
    COMMIT_ID,
    RequestRejected,
    RestApi,
    check_repository,
    decode_file,
    encode,
    first_line,
    shorten,
    utc_date,
)
from integrations.source_ports import CloneCredentials, CommitState, CommitStatus, SourceCommit, SourceNotFound

STATES: dict[CommitState, str] = {
    "queued": "pending",
    "running": "running",
    "passed": "success",
    "failed": "failed",
    "aborted": "canceled",
}
IS_SET_ALREADY = "Cannot transition status"
"""Beginning of the message with which GitLab refuses a status that the commit has already."""


class _GitLabBranch(msgspec.Struct):
    name: str


class _GitLabCommit(msgspec.Struct):
    id: str
    title: str
    author_name: str
    created_at: datetime


class _GitLabTarget(msgspec.Struct):
    id: str


class _GitLabHead(msgspec.Struct):
    commit: _GitLabTarget


class _GitLabFile(msgspec.Struct):
    content: str


class GitLabRepository:
    """Implements `SourceHost`. `base_url` is the URL of a self-managed server; empty for gitlab.com."""

    def __init__(self, outgoing: Outgoing, base_url: str, repo: str, token: str) -> None:
        self._server, self._repo, self._token = base_url or "https://gitlab.com", repo, token
        # GitLab accepts personal, project and OAuth tokens as bearer tokens.
        self._api = RestApi(
            outgoing,
            f"{self._server}/api/v4/projects/{encode(repo)}",
            self._server.partition("://")[2],
            repo,
            token,
            {"Authorization": f"Bearer {token}"},
        )

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        search = {"search": f"^{prefix}"} if prefix else {}
        found = await self._api.get("/repository/branches", list[_GitLabBranch], per_page=limit, **search)
        return [branch.name for branch in found]

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        missing = f"branch {branch} in {self._repo}"
        query: dict[str, Any] = {"per_page": limit}
        if branch is not None:
            query["ref_name"] = await self._find_head("branches", branch, missing)
        found = await self._api.get("/repository/commits", list[_GitLabCommit], missing=missing, **query)
        return [
            SourceCommit(one.id, first_line(one.title), one.author_name, utc_date(one.id, one.created_at))
            for one in found
        ]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        async with self._api.time_limit():
            commit = await self._find_commit(ref)
            missing = f"file {path} in {self._repo} at {ref}"
            file = await self._api.get(f"/repository/files/{encode(path)}", _GitLabFile, missing=missing, ref=commit)
        return commit, decode_file(self._api, path, file.content)

    async def _find_commit(self, ref: str) -> str:
        """Returns the id of the commit that `ref` names: a branch, a tag, or a commit id. If a branch and a tag have
        this name, the branch counts.
        """
        if COMMIT_ID.fullmatch(ref):
            return ref
        missing = f"branch or tag {ref} in {self._repo}"
        try:
            return await self._find_head("branches", ref, missing)
        except SourceNotFound:
            return await self._find_head("tags", ref, missing)

    async def _find_head(self, kind: str, name: str, missing: str) -> str:
        found = await self._api.get(f"/repository/{kind}/{encode(name)}", _GitLabHead, missing=missing)
        return found.commit.id

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        body = {
            "state": STATES[status.state],
            "name": status.context,
            "description": shorten(status.description),
            **({"target_url": status.url} if status.url else {}),
        }
        try:
            await self._api.call("POST", f"/statuses/{commit}", missing=f"commit {commit} in {self._repo}", body=body)
        except RequestRejected as error:
            if IS_SET_ALREADY not in str(error):
                raise

    async def clone_credentials(self) -> CloneCredentials:
        return CloneCredentials("oauth2", self._token)

    async def check(self) -> None:
        await check_repository(self._api, self.set_status)
