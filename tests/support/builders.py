"""Creates projects, pools, nodes, jobs and builds over HTTP, for tests that need them."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.fake_agent import FakeAgent
from tests.support.http import TIMEOUT_S, Answer, Client
from tests.support.server import Server

CONFIGURATION: dict[str, Any] = {"command": "pytest", "setup": [], "env": {}, "artifacts": []}

REPOSITORY = "https://git.example.com/acme/web.git"
"""Repository of jobs whose builds have a commit. It need not exist, since fake agents check nothing out."""


def given_project(server: Server, **fields: Any) -> int:
    return int(server.admin.create("/projects", **{"name": f"P {uuid.uuid4().hex[:8]}"} | fields)["id"])


def given_pool(server: Server, project: int, **fields: Any) -> int:
    return int(server.admin.create("/node-pools", **{"name": uuid.uuid4().hex, "project_id": project} | fields)["id"])


def given_node(server: Server, **fields: Any) -> dict[str, Any]:
    """Registers a node. Returns the node with the token of its agent."""
    return server.admin.create("/nodes", **{"name": uuid.uuid4().hex} | fields)


def given_job(server: Server, project: int, **fields: Any) -> int:
    """Creates a job without a configuration, of which only external builds can be started. Returns the job's id."""
    return int(server.admin.create("/jobs", **{"name": "Smoke", "project_id": project} | fields)["id"])


def given_build(server: Server, job: int, **fields: Any) -> int:
    """Starts an external build. Returns the build's id."""
    return int(server.admin.create("/builds/start", **{"job_id": job, "external": True} | fields)["id"])


def upload(
    client: Client,
    build: object,
    content: bytes,
    name: str = "report.xml",
    path: str | None = None,
    timeout: float = TIMEOUT_S,
) -> Answer:
    fields = {"build_id": str(build)} | ({} if path is None else {"path": path})
    return client.when("POST", "/artifacts/upload", data=fields, files={"file": (name, content)}, timeout=timeout)


def finish(server: Server, build: int, status: str = "passed") -> None:
    """Ends an external build."""
    server.admin.when("POST", f"/builds/{build}/finish", json={"status": status}).then(200)


class Shop:
    """A new project with jobs, builds and nodes. The nodes run no builds of other projects."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admin = server.admin
        self.project = given_project(server)
        self.pool = given_pool(server, self.project, name="linux")
        self.job = self.new_job()

    def new_job(self, **fields: Any) -> int:
        """Creates a job that the nodes of the pool can run. Returns the job's id."""
        job = given_job(self.server, self.project, **{"node_pool_id": self.pool, "max_parallel": 10} | fields)
        self.server.wait_until_projected()  # a busy machine may take longer than a POST waits
        self.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
        return job

    def new_token(self, max_parallel: int = 1) -> str:
        """Returns the agent token of a new node in the pool."""
        return str(given_node(self.server, pool_id=self.pool, max_parallel=max_parallel)["agent_token"])

    def new_agent(self, max_parallel: int = 1) -> FakeAgent:
        return FakeAgent(self.server.url, self.new_token(max_parallel)).connected()

    def start(self, job: int | None = None, **fields: Any) -> int:
        return int(self.admin.create("/builds/start", job_id=job or self.job, **fields)["id"])

    def build(self, build_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.fetch(f"/builds/{build_id}")
        return found

    def ended(self, build_id: int, within_s: float = 30) -> dict[str, Any]:
        """Waits until the build has ended, and returns it."""
        with self.admin.get(f"/api/v3/builds/{build_id}/stream", stream=True, timeout=within_s) as stream:
            assert b'"done"' in stream.content
        self.server.wait_until_projected()
        return self.build(build_id)
