"""A fake of four source code hosts over a real bare repository.

Its paths and answers follow the public documentation of GitHub, GitLab, Bitbucket Cloud and Bitbucket Data Center. No
program of these hosts has confirmed them. tests/real/github checks the requests to GitHub against GitHub's own
description of its API.
"""

import base64
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from tests.support.git_repository import GitRepository

Answer = tuple[int, Any]
MISSING: Answer = (404, {"message": "Not Found"})
SHA = 40


@dataclass
class FakeSourceHost:
    repository: GitRepository
    tokens: set[str] = field(default_factory=lambda: {"Bearer good-token"})
    """Values of `Authorization` that are accepted."""
    may_set_statuses: bool = True
    refusal: tuple[int, Mapping[str, str], bytes] | None = None
    """Answer to every request; None for the normal answers."""
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """Function that runs between a request and its answer."""
    statuses: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Commit and body of each status that was set."""
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.refusal is not None:
            status, headers, body = self.refusal
            return web.Response(status=status, headers=headers, body=body)
        if request.headers.get("Authorization") not in self.tokens:
            return web.json_response({"message": "Bad credentials"}, status=401)
        host, *parts = map(unquote, request.rel_url.raw_path.strip("/").split("/"))
        body = await request.json() if request.body_exists else {}
        handler = {"github": self._github, "gitlab": self._gitlab, "cloud": self._cloud, "center": self._center}[host]
        status, answer = handler(parts, dict(request.query), body)
        if isinstance(answer, bytes):
            return web.Response(status=status, body=answer)
        return web.json_response(answer, status=status)

    def _github(self, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        limit = int(query.get("per_page", 30))
        match parts:
            case ["api", "v3", "repos", "acme", "shop", *rest]:
                pass
            case _:
                return MISSING
        match rest:
            case []:
                return 200, {"full_name": "acme/shop"}
            case ["branches"]:
                return 200, [{"name": name} for name in self._branches()[:limit]]
            case ["git", "matching-refs", prefix]:
                refs = [f"heads/{name}" for name in self._branches()]
                return 200, [{"ref": f"refs/{ref}"} for ref in refs if ref.startswith(prefix)]
            case ["commits"]:
                found = self._log(query.get("sha", "HEAD"), limit)
                return MISSING if found is None else (200, [_github_commit(one) for one in found])
            case ["commits", ref]:
                found = self._log(ref, 1)
                unknown = (422, {"message": f"No commit found for SHA: {ref}"})
                return unknown if found is None else (200, _github_commit(found[0]))
            case ["contents", path]:
                content = self._blob(query["ref"], path)
                if content is None:
                    return MISSING
                # GitHub's description has lines of 60 characters, and so do GitHub's answers.
                return 200, {"type": "file", "encoding": "base64", "content": base64.encodebytes(content).decode()}
            case ["statuses", commit] if not self.may_set_statuses:
                return 403, {"message": "Resource not accessible by personal access token"}
            case ["statuses", commit] if not self._has(commit):
                return 422, {"message": f"No commit found for SHA: {commit}"}
            case ["statuses", commit]:
                return self._set(commit, body)
        return MISSING

    def _gitlab(self, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        limit = int(query.get("per_page", 20))
        match parts:
            case ["api", "v4", "projects", "acme/shop", *rest]:
                pass
            case _:
                return 404, {"message": "404 Project Not Found"}
        match rest:
            case []:
                return 200, {"path_with_namespace": "acme/shop"}
            case ["repository", "branches"]:
                prefix = query.get("search", "^").removeprefix("^")
                return 200, [{"name": name} for name in self._branches() if name.startswith(prefix)][:limit]
            case ["repository", "branches" | "tags" as kind, name]:
                head = self._head(kind, name)
                return (200, {"name": name, "commit": {"id": head}}) if head else (404, {"message": "404 Not Found"})
            case ["repository", "commits"]:
                found = self._log(query.get("ref_name", "HEAD"), limit)
                if found is None:
                    return 404, {"message": "404 Repository Not Found"}
                keys = ("id", "title", "author_name", "created_at")
                return 200, [dict(zip(keys, (sha, title, name, date), strict=True)) for sha, title, name, date in found]
            case ["repository", "files", path]:
                found, content = self._log(query["ref"], 1), self._blob(query["ref"], path)
                if found is None or content is None:
                    return 404, {"message": "404 File Not Found"}
                return 200, {"commit_id": found[0][0], "content": base64.b64encode(content).decode()}
            case ["statuses", commit] if not self.may_set_statuses:
                return 403, {"message": "403 Forbidden"}
            case ["statuses", commit] if not self._has(commit):
                return 404, {"message": "404 Commit Not Found"}
            case ["statuses", commit]:
                if self.statuses and self.statuses[-1][1]["state"] == body["state"] == "running":
                    return 400, {"message": "Cannot transition status via :run from :running"}
                return self._set(commit, body)
        return MISSING

    def _cloud(self, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        missing = (404, {"type": "error", "error": {"message": "Resource not found"}})
        match parts:
            case ["2.0", "repositories", "acme", "shop", *rest]:
                pass
            case _:
                return missing
        match rest:
            case []:
                return 200, {"full_name": "acme/shop"}
            case ["refs", "branches"]:
                wanted = query.get("q", 'name ~ ""').split('"')[1]
                return 200, {"values": [{"name": name} for name in self._branches() if wanted in name]}
            case ["refs", "branches" | "tags" as kind, name] if head := self._head(kind, name):
                return 200, {"name": name, "target": {"hash": head}}
            case ["commits"]:
                found = self._log(query.get("include", "HEAD"), int(query["pagelen"]))
                return missing if found is None else (200, {"values": [_cloud_commit(one) for one in found]})
            case ["commit", ref]:
                found = self._log(ref, 1)
                return missing if found is None else (200, _cloud_commit(found[0]))
            case ["src", commit, *path]:
                content = self._blob(commit, "/".join(path))
                return missing if content is None else (200, content)
            case ["commit", commit, "statuses", "build"] if not self.may_set_statuses:
                return 403, {
                    "type": "error",
                    "error": {"message": "Your credentials lack privilege scopes."},
                }
            case ["commit", commit, "statuses", "build"] if self._has(commit) and len(body["key"]) <= 40:
                return self._set(commit, body)
        return missing

    def _center(self, parts: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        missing = (404, {"errors": [{"context": None, "message": "It does not exist."}]})
        match parts:
            case ["rest", "api", "1.0", "projects", "acme", "repos", "shop", *rest]:
                pass
            case _:
                return missing
        match rest:
            case []:
                return 200, {"slug": "shop"}
            case ["branches"]:
                wanted = query.get("filterText", "")
                return 200, {"values": [{"displayId": name} for name in self._branches() if wanted in name]}
            case ["commits"]:
                found = self._log(query.get("until", "HEAD"), int(query["limit"]))
                return missing if found is None else (200, {"values": [_center_commit(one) for one in found]})
            case ["raw", *path]:
                content = self._blob(query["at"], "/".join(path))
                return missing if content is None else (200, content)
            case ["commits", commit, "builds"] if not self.may_set_statuses:
                return 401, {"errors": [{"message": "You are not permitted to access this resource"}]}
            case ["commits", commit, "builds"] if self._has(commit):
                return self._set(commit, body)
        return missing

    def _set(self, commit: str, body: dict[str, Any]) -> Answer:
        self.statuses.append((commit, body))
        return 201, {}

    def _branches(self) -> list[str]:
        return self.repository.git("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").split()

    def _head(self, kind: str, name: str) -> str | None:
        found = self._log(f"refs/{'heads' if kind == 'branches' else 'tags'}/{name}", 1)
        return found[0][0] if found else None

    def _has(self, commit: str) -> bool:
        return len(commit) == SHA and self._log(commit, 1) is not None

    def _log(self, ref: str, limit: int) -> list[list[str]] | None:
        """Returns (id, subject, author, date) of the newest commits; None for an unknown ref."""
        try:
            lines = self.repository.git("log", f"-n{limit}", "--format=%H%x09%s%x09%an%x09%cI", ref, "--").splitlines()
        except subprocess.CalledProcessError:
            return None
        return [line.split("\t") for line in lines]

    def _blob(self, ref: str, path: str) -> bytes | None:
        try:
            return f"{self.repository.git('cat-file', 'blob', f'{ref}:{path}')}\n".encode()
        except subprocess.CalledProcessError:
            return None


def _github_commit(found: list[str]) -> dict[str, Any]:
    sha, subject, author, date = found
    details = {"message": f"{subject}\n\nMore.", "author": {"name": author, "date": date}, "committer": {"date": date}}
    return {"sha": sha, "commit": details, "author": None}


def _cloud_commit(found: list[str]) -> dict[str, Any]:
    sha, subject, author, date = found
    raw = {"raw": f"{author} <alice@example.org>"}
    return {"hash": sha, "message": f"{subject}\n\nMore.\n", "author": raw, "date": date}


def _center_commit(found: list[str]) -> dict[str, Any]:
    sha, subject, author, date = found
    at = int(datetime.fromisoformat(date).timestamp() * 1000)
    return {"id": sha, "message": subject, "author": {"name": "a", "displayName": author}, "authorTimestamp": at}


@contextlib.asynccontextmanager
async def fake_source_host(repository: GitRepository) -> AsyncIterator[FakeSourceHost]:
    host = FakeSourceHost(repository)
    async with serving(host.handle) as host.url:
        yield host


@contextlib.asynccontextmanager
async def serving(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serves requests in the loop of the test. Yields the URL."""
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
