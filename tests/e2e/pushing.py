"""The whole way of a push: git, a signed hook, the sync of `.testhide.yml`, builds on real agents, commit statuses.

The host is our fake of GitHub, over a real bare repository that git's own server program serves. `testhide work` is
killed at chosen moments of that way.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from aiohttp import web

from domain.builds import BuildQueued
from domain.changes import ChangeReceived
from domain.gitops import GitopsSynced
from store.postgres.notifications import EVENTS
from tests.agent.git_server import GitServer
from tests.support.builders import Shop
from tests.support.git_repository import GitRepository
from tests.support.server import Server
from tests.support.source_host import FakeSourceHost, serving

TOKEN = "good-token"
TESTS = 30
"""Tests of the matrix that fail for one cause."""
AGENTS = 2
WITHIN_S = 150.0
"""Longest wait. A busy machine takes most of a minute to start a worker again."""
POLL_INTERVAL_S = 0.05
FILE = """\
jobs:
  unit:
    command: cp report.xml junittests.xml; sleep 0.5; exit 1
    matrix: {axes: {color: [red, blue]}}
    pool: linux
    triggers: {branches: [main]}
    env: {WORD: $word}
  docs:
    command: sleep 0.5; git cat-file -e HEAD:report.xml
    pool: linux
    triggers: {branches: [main]}
"""
ENDS = {"unit": ("failure", "2 of 2 builds failed"), "docs": ("success", "Passed")}
"""State and description of the last status of each job."""
HOOK = r"""#!/bin/sh
# Reports a push as GitHub does. The push fails unless the server takes the message.
set -e
while read -r before after ref; do
    paths=$(git diff --name-only "$before" "$after" | sed 's/.*/"&"/' | paste -sd, -)
    commit="{\"message\": \"Change\", \"modified\": [$paths]}"
    body="{\"ref\": \"$ref\", \"before\": \"$before\", \"after\": \"$after\", \"forced\": false, \"commits\": [$commit],
        \"head_commit\": $commit, \"repository\": {\"full_name\": \"acme/shop\"}}"
    signature=$(printf %s "$body" | openssl dgst -sha256 -hmac $secret | sed 's/.*= *//')
    printf %s "$body" | curl --silent --show-error --fail --data-binary @- -H 'Content-Type: application/json' \
        -H 'X-GitHub-Event: push' -H "X-GitHub-Delivery: $after" -H "X-Hub-Signature-256: sha256=$signature" "$url"
done
"""

ACCEPTED, SYNCED, QUEUED = ChangeReceived.name, GitopsSynced.name, BuildQueued.name
FILE_READ, STATUS_LOST = "the file is read", "a status is lost"
END_LOST, END_SET = "the status of the end is lost", "the status of the end is set"
MOMENTS = (ACCEPTED, FILE_READ, SYNCED, QUEUED, STATUS_LOST, END_LOST, END_SET)
"""Moments of a push, in their order."""


class Killer:
    """Kills `testhide work` with SIGKILL at each of the armed moments, and starts it again. The leases that it held
    end at once, rather than after half a minute.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.armed: list[str] = []
        """Moments that are still to come."""

    def reach(self, moment: str) -> bool:
        """Notes that a moment has come. Returns whether the worker was killed."""
        if moment not in self.armed:
            return False
        self.armed.remove(moment)
        self._server.kill("work")
        with psycopg.connect(self._server.settings.database_url) as connection:
            connection.execute("UPDATE due_reactions SET due_at = now() WHERE error IS NULL")
        self._server.start("work")
        return True

    async def follow_log(self) -> None:
        """Notes each appended event as a moment, until cancelled."""
        url = self._server.settings.database_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {EVENTS}".encode())
            async for notification in connection.notifies():
                for name in notification.payload.split()[1:]:
                    self.reach(name)


@dataclass
class GitHub(FakeSourceHost):
    """Serves the repository to git, too, and notes the moments that it sees."""

    git_url: str = ""
    killer: Killer | None = None

    async def handle(self, request: web.BaseRequest) -> web.Response:
        assert self.killer is not None
        if "/shop.git/" in request.path:
            return await pass_on(request, self.git_url + request.path_qs.removeprefix("/github/acme"))
        if "/statuses/" not in request.path:
            if "/contents/" in request.path:
                self.killer.reach(FILE_READ)
            return await super().handle(request)
        is_end = (await request.json())["state"] != "pending"
        if self.killer.reach(END_LOST if is_end else STATUS_LOST):
            return web.Response(status=503)  # whoever has asked is gone
        answer = await super().handle(request)
        if is_end:
            self.killer.reach(END_SET)
        return answer


async def pass_on(request: web.BaseRequest, url: str) -> web.Response:
    """Answers a request as the server at a URL does."""
    headers = {name: text for name, text in request.headers.items() if name not in ("Host", "Transfer-Encoding")}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(request.method, url, headers=headers, data=await request.read()) as answer,
    ):
        kept = {name: text for name, text in answer.headers.items() if name not in ("Transfer-Encoding", "Date")}
        return web.Response(status=answer.status, headers=kept, body=await answer.read())


@dataclass
class Pushed:
    """A project whose repository is at the host, and what pushes to it lead to."""

    server: Server
    shop: Shop
    host: GitHub
    killer: Killer
    work: GitRepository
    folder: Path
    _agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def push(self, word: str) -> str:
        """Pushes a change of the file and of the report, whose failures say the word. Returns the commit."""
        failure = f'<failure message="the {word} is away"/>'
        cases = "".join(f'<testcase classname="shop" name="{word}_{n}">{failure}</testcase>' for n in range(TESTS))
        self.work.write("report.xml", f'<testsuite name="s">{cases}</testsuite>')
        commit = self.work.write(".testhide.yml", FILE.replace("$word", word))
        await asyncio.to_thread(self.work.git, "push", "--quiet", str(self.host.repository.path), "main")
        return commit

    def start_agents(self) -> None:
        for number in range(AGENTS):
            token = self.folder / f"token-{number}"
            token.touch(mode=0o600)
            token.write_text(self.shop.new_token())
            command = [sys.executable, "-m", "agent", "--server", self.server.url, "--token-file", str(token)]
            options = ["--workdir", str(self.folder / f"agent-{number}"), "--trust-builds", "--allow-http-repositories"]
            self._agents.append(subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL, cwd=self.folder))

    def stop_agents(self) -> None:
        for agent in self._agents:
            agent.terminate()
        for agent in self._agents:
            agent.wait(20)
        self._agents.clear()

    def statuses(self, commit: str) -> dict[str, list[dict[str, Any]]]:
        """Statuses of a commit by their context, without repetitions, in the order in which the host got them."""
        found = defaultdict[str, list[dict[str, Any]]](list)
        for of, status in self.host.statuses:
            if of == commit and status not in found[status["context"]][-1:]:
                found[status["context"]].append(status)
        return found

    def ends(self, commit: str) -> dict[str, tuple[str, str]]:
        """State and description of the last status of each job, without ids."""
        shown = {
            context.removeprefix("testhide/").partition(" #")[0]: statuses[-1]
            for context, statuses in self.statuses(commit).items()
        }
        return {name: (last["state"], last["description"].partition(" (")[0]) for name, last in shown.items()}

    def builds(self, commit: str) -> list[dict[str, Any]]:
        listed = self.shop.admin.fetch("/builds", commit_sha=commit)["results"]
        return [self.shop.build(build["id"]) for build in listed]

    def count_events(self, name: str) -> int:
        return len(self._query("SELECT FROM stored_events WHERE topic = %s", name))

    def due(self) -> Sequence[tuple[Any, ...]]:
        return self._query("SELECT reaction, error FROM due_reactions")

    def is_worked(self) -> bool:
        """Returns whether a worker follows the log: what happens before its first start causes no reactions."""
        return bool(self._query("SELECT FROM reaction_positions"))

    def _query(self, text: str, *values: str) -> Sequence[tuple[Any, ...]]:
        with psycopg.connect(self.server.settings.database_url) as connection:
            return connection.execute(text.encode(), values).fetchall()

    async def until(self, holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"{self.host.statuses} {self.due()} {self.killer.armed}"
            await asyncio.sleep(POLL_INTERVAL_S)  # between two looks

    def has_ended(self, commit: str) -> bool:
        """Returns whether the statuses of a commit show the end of all its builds."""
        return self.ends(commit) == ENDS

    def check(self, commit: str, pushes: int) -> list[dict[str, Any]]:
        """Checks what one of so many pushes has led to. Returns the builds of the matrix."""
        self.server.wait_until_projected()
        assert self.count_events(ACCEPTED) == pushes
        assert self.count_events(SYNCED) == pushes
        assert self.shop.admin.fetch("/gitops/status", project_id=self.shop.project)["problem"] is None
        builds = self.builds(commit)
        unit = [build for build in builds if build["matrix"]]
        (docs,) = [build for build in builds if not build["matrix"]]
        assert sorted(build["matrix"]["color"] for build in unit) == ["blue", "red"]
        assert {build["group_id"] for build in unit} == {min(build["id"] for build in unit)}
        assert [(build["status"], build["failed"]) for build in unit] == [("failed", TESTS)] * 2, unit
        assert docs["status"] == "passed"
        urls = {statuses[-1]["target_url"].rpartition("/api/v3")[2] for statuses in self.statuses(commit).values()}
        assert urls == {f"/build-groups/{unit[0]['group_id']}", f"/builds/{docs['id']}"}
        return unit


@contextlib.asynccontextmanager
async def pushed_repository(server: Server, folder: Path) -> AsyncIterator[Pushed]:
    """Connects a new project of the server with a repository at the host. The server may have no other projects."""
    shop = Shop(server)
    work, bare = GitRepository(folder / "work.git", ()), GitRepository(folder / "git" / "shop.git", ())
    killer = Killer(server)
    host = GitHub(bare, killer=killer)
    secret = shop.admin.when("POST", f"/projects/{shop.project}/rotate-webhook-secret").then(200)["webhook_secret"]
    install_hook(bare, secret=secret, url=f"{server.url}/webhook/proj/{shop.project}")
    with GitServer(folder / "git", TOKEN).running() as git:
        host.git_url = git.url
        async with serving(host.handle) as host.url:
            endpoint = {"type": "github", "name": "Shop", "project_id": shop.project, "repo": "acme/shop"}
            shop.admin.create("/scm", **endpoint, host=f"{host.url}/github", token=TOKEN)
            pushed = Pushed(server, shop, host, killer, work, folder)
            following = asyncio.create_task(killer.follow_log())
            try:
                await pushed.until(pushed.is_worked)
                yield pushed
            finally:
                following.cancel()
                await asyncio.to_thread(pushed.stop_agents)


def install_hook(repository: GitRepository, **variables: str) -> None:
    hook = repository.path / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    first, _, rest = HOOK.partition("\n")
    hook.write_text("\n".join([first, *(f"{name}='{text}'" for name, text in variables.items()), rest]))
    hook.chmod(0o755)
