"""What tests of Docker agents do over HTTP."""

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from commands.registrations import make_registration_token
from domain.docker_agents import DOCKER_AGENT
from testhide.adapters import installation_of
from testhide.processes import core
from tests.real.docker.daemon import HOST, IMAGE, Daemon
from tests.support.builders import given_job, given_pool, given_project
from tests.support.server import Server

PATIENCE_S = 60.0
LABEL = "io.testhide.agent"


@dataclass
class DockerYard:
    server: Server
    daemon: Daemon

    @property
    def installation(self) -> str:
        """Value of the label of this server's containers."""
        return installation_of(self.server.secrets)

    def registration_token(self, agent_id: str) -> str:
        """Returns the registration token that the worker has handed to an agent."""

        async def load() -> str:
            async with core(self.server.settings, pool_size=1) as parts:
                agent = await parts.log.load_state(DOCKER_AGENT.at(agent_id))
                assert agent is not None
                return make_registration_token(parts.secrets, agent_id, agent.registration_id)

        return asyncio.run(load())

    @cached_property
    def project(self) -> int:
        return given_project(self.server)

    @cached_property
    def pool(self) -> int:
        return given_pool(self.server, self.project)

    def job(self, command: str, **options: Any) -> int:
        """Returns a job of the pool that runs this shell line."""
        job_id = given_job(self.server, self.project, node_pool_id=self.pool, max_parallel=20)
        configuration = {"command": command, "setup": [], "env": {}, "artifacts": [], **options}
        self.server.admin.put(f"/api/v3/jobs/{job_id}/configuration", json=configuration).then(200)
        return job_id

    def build(self, job_id: int) -> int:
        return int(self.server.admin.post("/api/v3/builds/start", json={"job_id": job_id}).then(201)["id"])

    def spawn(self, **more: Any) -> str:
        body = {"host": HOST, "image": IMAGE, "pool_id": self.pool, **more}
        spawned = self.server.admin.post("/api/v3/docker-agents/spawn", json=body).then(201)
        assert (spawned["status"], spawned["host"], spawned["image"]) == ("starting", body["host"], body["image"])
        return str(spawned["id"])

    def show(self, agent_id: str) -> Any:
        return self.server.admin.get(f"/api/v3/docker-agents/{agent_id}").then(200)

    def destroy(self, *agent_ids: str) -> None:
        for agent_id in agent_ids:
            answer = self.server.admin.delete(f"/api/v3/docker-agents/{agent_id}")
            assert answer.status_code in (204, 404), answer.text

    def wait(self, agent_id: str, **wanted: Any) -> Any:
        """Waits until an agent has these fields."""
        return wait_for(lambda: self.show(agent_id), wanted)

    def wait_online(self, agent_id: str) -> Any:
        """Waits until an agent's node is online. Returns the node."""
        agent = wait_for(lambda: self.show(agent_id), {"status": "running"}, lambda shown: shown["node_id"] is not None)
        return wait_for(
            lambda: self.server.admin.get(f"/api/v3/nodes/{agent['node_id']}").then(200), {"status": "online"}
        )

    def wait_build(self, build_id: int, **wanted: Any) -> Any:
        return wait_for(lambda: self.server.admin.get(f"/api/v3/builds/{build_id}").then(200), wanted)

    def log(self, build_id: int) -> str:
        return str(self.server.admin.get(f"/api/v3/builds/{build_id}/pipeline_logs/raw").text)

    def containers(self) -> dict[str, Any]:
        """Returns agent id -> container, as the engine lists it."""
        found = self.daemon.client.containers(all=True, filters={"label": LABEL})
        return {container["Labels"][LABEL]: container for container in found}

    def inspect(self, agent_id: str) -> Any:
        return self.daemon.client.inspect_container(self.containers()[agent_id]["Id"])


def wait_for(look: Any, wanted: dict[str, Any], check: Any = lambda shown: True) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        shown = look()
        if shown.items() >= wanted.items() and check(shown):
            return shown
        assert time.monotonic() < deadline, f"not {wanted}: {shown}"
        time.sleep(0.02)  # between two looks; the deadline is above
