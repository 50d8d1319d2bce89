"""The worker of Docker agents, without an engine."""

from datetime import timedelta
from typing import Any

from commands.docker_agents import SpawnDockerAgent
from commands.handler import CommandContext, Handler
from domain.docker_agents import DOCKER_AGENT, DockerPolicy
from store.clock import utcnow
from testhide.processes import Core
from workers.docker_agents import DockerOperator


class EmptyHost:
    """A Docker host, at once all of them, that has no container and must not get one."""

    names = frozenset({"here"})

    def open(self, name: str) -> Any:
        return self

    async def find(self, agent_id: str) -> None:
        return None


async def test_an_image_that_is_not_allowed_any_more_is_not_spawned(parts: Core) -> None:
    handler, until = Handler(parts.log, utcnow), utcnow() + timedelta(minutes=10)
    await handler.execute(SpawnDockerAgent("da-1", "here", "old/agent:1", "r", until), CommandContext("user:1"))
    policy = DockerPolicy(EmptyHost.names, ["testhide/agent:*"])
    hosts: Any = EmptyHost()
    await DockerOperator(hosts, parts.log, handler, parts.secrets, utcnow, policy).operate("da-1")
    agent = await parts.log.load_state(DOCKER_AGENT.at("da-1"))
    assert agent is not None
    assert (agent.status, agent.pending) == ("error", None)
    assert agent.error == "its image is not one of the images that the operator allows: testhide/agent:*"
