"""Builders of projects, pools, nodes, jobs and builds over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.fake_agent import FakeAgent
from tests.support.server import Server


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
