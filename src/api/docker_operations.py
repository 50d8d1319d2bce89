"""Requests operations on the containers of Docker agents, and waits for the workers that carry them out."""

import asyncio
from typing import Any

from litestar import Request

from api.http.permissions import User
from api.http.request_context import RequestContext
from api.live.stream_clients import watching_disconnect
from commands.docker_agents import DestroyDockerAgent, StartDockerAgent, StopDockerAgent
from commands.nodes import DeleteNode
from domain import docker_agents
from domain.core.errors import StillRunning
from domain.docker_agents import DOCKER_AGENT, DockerAgent, Operation
from store.postgres.cancellation import wait_for
from store.postgres.notifications import EVENTS, may_contain

WAIT_TIMEOUT_S = 30.0
"""Seconds that a request waits for its operation. After that, the request is answered with 504."""
POLL_INTERVAL_S = 1.0
"""Seconds after which the state of an agent is looked up again, in case a notification was lost."""
NOTIFY_ON = frozenset(event.name for event in docker_agents.EVENTS)


async def operate(
    request: Request[User, Any, Any],
    ctx: RequestContext,
    command: StartDockerAgent | StopDockerAgent | DestroyDockerAgent,
    *operations: Operation,
) -> DockerAgent:
    """Executes a command that requests an operation, and waits. Returns the state of the agent as soon as none of
    `operations` is pending any more, or as soon as a try has failed, even if a worker will try again.

    Raises StillRunning after WAIT_TIMEOUT_S. Raises the errors by which the command is refused.
    """
    agent_id = command.agent_id
    changed = asyncio.Event()

    def on_events(payload: str | None) -> None:
        if payload is None or may_contain(payload, NOTIFY_ON):
            changed.set()

    # Subscribe before the request, so that no notification of the outcome is missed.
    with ctx.services.listener.subscribed(EVENTS, on_events):
        requested = (await ctx(command)).existing(DOCKER_AGENT.at(agent_id))
        if isinstance(command, DestroyDockerAgent) and requested.node_id is not None and not requested.deleted:
            # The worker deletes the node, too. Deleting it here aborts its build even while no worker runs.
            await ctx.prepare(DeleteNode(requested.node_id))
        deadline = asyncio.get_running_loop().time() + WAIT_TIMEOUT_S
        async with watching_disconnect(request, changed) as is_gone:
            while True:
                changed.clear()
                agent = await ctx.services.log.load_state(DOCKER_AGENT.at(agent_id))
                assert agent is not None, "the command has found it"
                if agent.deleted or agent.pending not in operations or agent.error:
                    await ctx.wait_until_all_shown()
                    return agent
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or is_gone.is_set():
                    raise StillRunning(
                        f"Docker host {agent.host} has not answered in {WAIT_TIMEOUT_S:.0f} s; ask again later.",
                        f"/api/v3/docker-agents/{agent_id}",
                    )
                await wait_for(changed, min(POLL_INTERVAL_S, left))
