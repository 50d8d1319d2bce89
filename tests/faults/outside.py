"""Commit statuses and tickets during the faults: builds of commits that fail, a host that keeps their statuses, and an
issue tracker.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from tests.faults.client import ANSWER_TIMEOUT_S, RETRY_DELAY_S, File, RetryingClient

TESTS = 30
"""Failed tests of a build, all for one cause."""
LETTERS = str.maketrans("0123456789.", "abcdefghijx")
"""Texts of failures that differ only in numbers have one signature."""
STATES = {"passed": "success", "failed": "failure"}


@dataclass
class OutsideSystems:
    """A fake of GitHub that keeps the last status of each commit, and a fake of Jira Data Center. Both refuse some
    calls, and carry out others without saying so. `Retry-After` makes the next try follow soon.
    """

    rng: random.Random
    failure_rate: float = 0.05
    url: str = ""
    statuses: dict[str, str] = field(default_factory=dict)
    """Commit -> state."""
    issues: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key -> fields."""
    counts: Counter[str] = field(default_factory=Counter)
    _keys: Iterator[int] = field(default_factory=lambda: count(1))

    async def handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.json() if request.body_exists else {}
        drawn = self.rng.random()
        if drawn < self.failure_rate / 2:
            return self._fail()
        answer = self._carry_out(request.method, request.path, dict(request.query), body)
        return self._fail() if drawn < self.failure_rate else web.json_response(answer)

    def _fail(self) -> web.Response:
        self.counts["calls that failed"] += 1
        return web.Response(status=503, headers={"Retry-After": "2"})

    def _carry_out(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        match method, path.strip("/").split("/"):
            case "POST", ["api", "v3", "repos", "acme", "faults", "statuses", commit]:
                self.counts["statuses"] += 1
                self.statuses[commit] = body["state"]
                return {}
            case "GET", ["rest", "api", "2", "search"]:
                found = [key for key, fields in self.issues.items() if f'"{fields["labels"][0]}"' in query["jql"]]
                return {"issues": [{"key": key} for key in found]}
            case "POST", ["rest", "api", "2", "issue"]:
                key = f"BACK-{next(self._keys)}"
                self.issues[key] = body["fields"]
                return {"key": key}
            case "POST", ["rest", "api", "2", "issue", _, "comment"]:
                self.counts["comments"] += 1
                return {}
            case "GET", ["rest", "api", "2", "issue", _]:
                return {"fields": {"status": {"statusCategory": {"key": "new"}}}}
        raise AssertionError(f"{method} {path}")


@dataclass
class CommitLoad:
    """All builds of commits of a run, and what they must have led to outside."""

    client: RetryingClient
    outside: OutsideSystems
    job: int = 0
    _verdicts: dict[str, str] = field(default_factory=dict)
    """Token -> verdict of its build."""

    async def begin(self) -> None:
        """Creates a project that is connected to the outside systems, with a job."""
        project = await self._create("/api/v3/projects", name="Commits")
        repository = {
            "type": "github",
            "name": "Host",
            "host": self.outside.url,
            "repo": "acme/faults",
            "token": "token",
        }
        await self._create("/api/v3/scm", project_id=project, **repository)
        tracker = {
            "name": "Tracker",
            "host": self.outside.url,
            "email": "u@acme.com",
            "api_token": "token",
            "project_key": "BACK",
        }
        options = {"deployment": "data_center", "auto_create": True, "testhide_project_id": project}
        await self._create("/api/v3/jira", **tracker, **options)
        self.job = await self._create("/api/v3/jobs", name="Commits", project_id=project)

    async def carry_out(self, rng: random.Random, token: str) -> None:
        """Starts a build of a commit, and reports its results. Two of three fail."""
        verdict = self._verdicts[token] = rng.choice(("passed", "failed", "failed"))
        build = await self._start(find_commit(token))
        content = make_report(token, has_failed=verdict == "failed")
        await self.client.call("POST", "/api/v3/artifacts/upload", file=File(build, "junittests.xml", content))
        await self.client.call("POST", f"/api/v3/builds/{build}/finish", {"status": verdict})

    def check(self) -> Iterator[str]:
        """Checks at the end, when no reaction is due any more, the last status of each commit, and that each failure
        has one issue.
        """
        summaries = [fields["summary"] for fields in self.outside.issues.values()]
        for token, verdict in self._verdicts.items():
            shown = self.outside.statuses.get(find_commit(token))
            if shown != STATES[verdict]:
                yield f"the commit of {token}, whose build {verdict}, is shown as {shown}"
            issues = [summary for summary in summaries if summary.startswith(f"{describe(token)}:")]
            if len(issues) != (verdict == "failed"):
                yield f"{token}, whose build {verdict}, has {len(issues)} issues: {issues}"
        if len(summaries) != list(self._verdicts.values()).count("failed"):
            yield f"there are {len(summaries)} issues: {summaries}"

    @property
    def counts(self) -> dict[str, int]:
        return {"builds of commits": len(self._verdicts), "issues": len(self.outside.issues), **self.outside.counts}

    async def _start(self, commit: str) -> int:
        body = {"job_id": self.job, "external": True, "commit_sha": commit}
        answer = await self.client.call("POST", "/api/v3/builds/start", body)
        if answer.status in (200, 201):
            return int(answer.body["id"])
        assert answer.carried_out, answer
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not (found := await self.client.call("GET", f"/api/v3/builds?commit_sha={commit}")).body["results"]:
                await asyncio.sleep(RETRY_DELAY_S)
        return int(found.body["results"][0]["id"])

    async def _create(self, path: str, **body: Any) -> int:
        answer = await self.client.call("POST", path, body)
        assert answer.status in (200, 201), answer
        return int(answer.body["id"])


def find_commit(token: str) -> str:
    return hashlib.sha1(token.encode(), usedforsecurity=False).hexdigest()


def describe(token: str) -> str:
    return f"{token.translate(LETTERS)} is away"


def make_report(token: str, *, has_failed: bool) -> bytes:
    failure = f'<failure message="{describe(token)}"/>' if has_failed else ""
    cases = "".join(f'<testcase classname="c" name="t{number}">{failure}</testcase>' for number in range(TESTS))
    return f'<testsuite name="s">{cases}</testsuite>'.encode()
