"""An agent that speaks docs/agent-protocol.md and runs nothing: what it says is up to the test."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import requests

from tests.conftest import Client, Server


class FakeAgent:
    """One agent process: a token, and a session of its own."""

    def __init__(self, url: str, token: str) -> None:
        self.session = uuid.uuid4().hex
        self.http = Client(url)
        self.http.headers["Authorization"] = f"Bearer {token}"

    def connect(self, replaces: str | None = None) -> requests.Response:
        hello: dict[str, Any] = {
            "version": "1",
            "platform": "linux",
            "hostname": "fake",
            "cpu_cores": 2,
            "ram_gb": 4.0,
            "running": [],
        }
        return self.http.post("/api/v3/agent/connect", json=hello | {"session": self.session, "replaces": replaces})

    def connected(self) -> FakeAgent:
        self.connect().raise_for_status()
        return self

    def disconnect(self) -> requests.Response:
        return self.http.post("/api/v3/agent/disconnect", json={"session": self.session})

    def ask(self, free: int = 1, receipt: str | None = None) -> requests.Response:
        """`receipt`: that of the last message; without one the server takes all for received."""
        params = {"session": self.session, "free": str(free)} | ({} if receipt is None else {"receipt": receipt})
        return self.http.get("/api/v3/agent/next", params=params)

    def next(self, free: int = 1, within_s: float = 30) -> dict[str, Any]:
        """The next message; asks again after each 204."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            answer = self.ask(free)
            answer.raise_for_status()
            if answer.status_code == 200:
                message: dict[str, Any] = answer.json()
                return message
        raise AssertionError("the server has nothing for this agent")

    def run(self, free: int = 1) -> dict[str, Any]:
        """The next build, as the message says it; not yet taken up."""
        message = self.next(free)
        assert message["type"] == "run", message
        build: dict[str, Any] = message["build"]
        return build

    def take_up(self, free: int = 1) -> dict[str, Any]:
        build = self.run(free)
        self.started(build).raise_for_status()
        return build

    def beat(self, *builds: dict[str, Any]) -> list[list[Any]]:
        body = {"session": self.session, "cpu_pct": 1, "ram_pct": 2, "disk_free_gb": 3, "uptime_s": 4}
        running = [[build["id"], build["attempt"]] for build in builds]
        answer = self.http.post("/api/v3/agent/heartbeat", json=body | {"running": running})
        answer.raise_for_status()
        lost: list[list[Any]] = answer.json()["lost"]
        return lost

    def started(self, build: dict[str, Any], commit_sha: str | None = None) -> requests.Response:
        return self._say(build, "started", {"commit_sha": commit_sha})

    def log(
        self, build: dict[str, Any], offset: int, lines: Sequence[str], at_ms: int = 36_005_000
    ) -> requests.Response:
        return self._say(build, "log", {"offset": offset, "lines": [[at_ms, line] for line in lines]})

    def report(self, build: dict[str, Any], content: bytes, path: str = "junittests.xml") -> requests.Response:
        params = {"attempt": build["attempt"], "path": path}
        return self.http.post(f"/api/v3/agent/builds/{build['id']}/report", params=params, data=content)

    def finished(self, build: dict[str, Any], exit_code: int | None = 0, **more: Any) -> requests.Response:
        return self._say(build, "finished", {"exit_code": exit_code, "log_lines": 0} | more)

    def _say(self, build: dict[str, Any], what: str, body: dict[str, Any]) -> requests.Response:
        params = {"attempt": build["attempt"]}
        return self.http.post(f"/api/v3/agent/builds/{build['id']}/{what}", params=params, json=body)


class Shop:
    """A project of its own with jobs, builds and build machines that take nobody else's builds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admin = server.admin
        self.project = self._made("/api/v3/projects", name=f"Shop {uuid.uuid4().hex[:8]}")["id"]
        self.pool = self._made("/api/v3/node-pools", name="linux", project_id=self.project)["id"]
        self.job = self.new_job()

    def new_job(self, **fields: Any) -> int:
        body = {"name": "Smoke", "project_id": self.project, "node_pool_id": self.pool, "max_parallel": 10} | fields
        job: int = self._made("/api/v3/jobs", **body)["id"]
        configuration = {"command": "pytest", "setup": [], "env": {}, "artifacts": []}
        self.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
        return job

    def new_token(self, max_parallel: int = 1) -> str:
        """Of a new node in the pool."""
        body = {"name": uuid.uuid4().hex, "pool_id": self.pool, "max_parallel": max_parallel}
        return str(self._made("/api/v3/nodes", **body)["agent_token"])

    def new_agent(self, max_parallel: int = 1) -> FakeAgent:
        return FakeAgent(self.server.url, self.new_token(max_parallel)).connected()

    def start(self, job: int | None = None, **fields: Any) -> int:
        build: int = self._made("/api/v3/builds/start", job_id=job or self.job, **fields)["id"]
        return build

    def build(self, build_id: int) -> dict[str, Any]:
        answer = self.admin.get(f"/api/v3/builds/{build_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, build_id: int, within_s: float = 30) -> dict[str, Any]:
        """The build, once it has ended: its stream says when."""
        with self.admin.get(f"/api/v3/builds/{build_id}/stream", stream=True, timeout=within_s) as stream:
            assert b'"done"' in stream.content
        self.server.settle()
        return self.build(build_id)

    def _made(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.admin.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text
        made: dict[str, Any] = answer.json()
        return made
