"""States of containers that no Docker engine has: tests record them as a worker would."""

import asyncio
from collections.abc import Mapping

from commands.docker_agents import ObserveContainer
from commands.handler import CommandContext, Handler
from domain.docker_agents import ContainerState
from store.clock import utcnow
from testhide.processes import core
from tests.support.server import Server

RUNNING = ContainerState("c1", running=True, run="t1")
ENDED = ContainerState("c2", running=False, run="t1")
KILLED = ContainerState("c3", running=False, run="t1", exit_code=137)


def observe_containers(server: Server, states: Mapping[str, ContainerState]) -> None:
    """Records the states of containers, by the ids of their agents."""

    async def record() -> None:
        async with core(server.settings, pool_size=1) as parts:
            await record_states(Handler(parts.log, utcnow), states)

    asyncio.run(record())
    server.wait_until_projected()


async def record_states(handler: Handler, states: Mapping[str, ContainerState]) -> None:
    for agent_id, state in states.items():
        await handler.execute(ObserveContainer(agent_id, state), CommandContext("system:docker-agents"))
