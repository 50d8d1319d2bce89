"""An agent that speaks docs/agent-protocol.md and runs nothing: the test decides what it reports."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any

import psycopg
import requests

from tests.support.http import Client

WITHIN_S = 10.0


class FakeAgent:
    """One agent process, with a token and a session of its own."""

    def __init__(self, url: str, token: str) -> None:
        self.session = uuid.uuid4().hex
        self.http = Client(url)
        self.http.headers["Authorization"] = f"Bearer {token}"

    def connect(self, replaces: str | None = None, features: Sequence[str] = ()) -> requests.Response:
        hello: dict[str, Any] = {
            "version": "1",
            "platform": "linux",
            "hostname": "fake",
            "cpu_cores": 2,
            "ram_gb": 4.0,
            "running": [],
            "features": list(features),
        }
        return self.http.post("/api/v3/agent/connect", json=hello | {"session": self.session, "replaces": replaces})

    def connected(self, features: Sequence[str] = ()) -> FakeAgent:
        self.connect(features=features).raise_for_status()
        return self

    def disconnect(self) -> requests.Response:
        return self.http.post("/api/v3/agent/disconnect", json={"session": self.session})

    def ask(self, free: int = 1, receipt: str | None = None) -> requests.Response:
        """Polls for a message. `receipt` is the receipt of the last message; without it, the server takes all messages
        for received.
        """
        params = {"session": self.session, "free": str(free)} | ({} if receipt is None else {"receipt": receipt})
        return self.http.get("/api/v3/agent/next", params=params)

    def next(self, free: int = 1, within_s: float = 30) -> dict[str, Any]:
        """Returns the next message. Polls again after each 204."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            answer = self.ask(free)
            answer.raise_for_status()
            if answer.status_code == 200:
                message: dict[str, Any] = answer.json()
                return message
        raise AssertionError("the server has nothing for this agent")

    def run(self, free: int = 1) -> dict[str, Any]:
        """Returns the `run` message of the next build, without taking the build up."""
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
        return self._report(build, "started", {"commit_sha": commit_sha})

    def log(
        self, build: dict[str, Any], offset: int, lines: Sequence[str], at_ms: int = 36_005_000
    ) -> requests.Response:
        return self._report(build, "log", {"offset": offset, "lines": [[at_ms, line] for line in lines]})

    def report(
        self, build: dict[str, Any], content: bytes, path: str = "junittests.xml", **more: str
    ) -> requests.Response:
        params = {"attempt": build["attempt"], "path": path, **more}
        return self.http.post(f"/api/v3/agent/builds/{build['id']}/report", params=params, data=content)

    def fetch_cache(self, build: dict[str, Any], name: str, **more: str) -> requests.Response:
        return self.http.get(self._cache(build, name), params={"attempt": build["attempt"], **more})

    def send_cache(self, build: dict[str, Any], name: str, content: bytes, **more: str) -> requests.Response:
        params = {"attempt": build["attempt"], "sha256": hashlib.sha256(content).hexdigest(), **more}
        return self.http.put(self._cache(build, name), params=params, data=content)

    def _cache(self, build: dict[str, Any], name: str) -> str:
        return f"/api/v3/agent/builds/{build['id']}/caches/{hashlib.sha256(name.encode()).hexdigest()}"

    def finished(self, build: dict[str, Any], exit_code: int | None = 0, **more: Any) -> requests.Response:
        return self._report(build, "finished", {"exit_code": exit_code, "log_lines": 0} | more)

    def _report(self, build: dict[str, Any], what: str, body: dict[str, Any]) -> requests.Response:
        params = {"attempt": build["attempt"]}
        return self.http.post(f"/api/v3/agent/builds/{build['id']}/{what}", params=params, json=body)


def until_it_asks(database: psycopg.Connection, agent: FakeAgent, free: int = 1) -> None:
    """Waits until the server knows that the agent has an open poll for `free` builds."""
    query = "SELECT count(*) FROM agent_gauges WHERE session = %s AND polling AND free = %s"
    deadline = time.monotonic() + WITHIN_S
    while database.execute(query, (agent.session, free)).fetchone() != (1,):
        assert time.monotonic() < deadline, "it is not noted that the agent asks"
        time.sleep(0.02)  # between two queries
