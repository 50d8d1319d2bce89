"""Carries out the operations that are requested for Docker agents, and records what became of their containers."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog

from commands.docker_agents import ObserveContainer, RecordDockerAgentDestroyed, RecordDockerFailure
from commands.handler import Command, CommandContext, Handler
from commands.nodes import DeleteNode
from commands.registrations import make_registration_token
from domain.core.errors import Invalid, NotFound
from domain.docker_agents import DOCKER_AGENT, ContainerState, DockerAgent, DockerPolicy
from integrations.container_ports import (
    DockerFailure,
    DockerHost,
    DockerHosts,
    DockerRejected,
    DockerUnavailable,
    NewContainer,
)
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog

log = structlog.get_logger()

CALLER = CommandContext("system:docker-agents")


class DockerDelayed(Exception):
    """A Docker host did not carry out an operation, which must be tried again. The message says why."""


@dataclass
class DockerOperator:
    """Carries out pending operations. Any operation may be carried out twice, also at the same time: a container is
    looked for by its agent's id before it is created.
    """

    hosts: DockerHosts
    log: EventLog
    handler: Handler
    secrets: Secrets
    clock: Callable[[], datetime]
    policy: DockerPolicy
    """Docker hosts and images that may be used. The policy is checked again before a container is created, since it may
    have changed after a pool was set to use a host and an image.
    """

    async def operate(self, agent_id: str) -> None:
        """Carries out the pending operation of a Docker agent; does nothing if there is none. Raises DockerDelayed if
        the operation must be tried again.
        """
        agent = await self.log.load_state(DOCKER_AGENT.at(agent_id))
        if agent is None or agent.deleted or agent.pending is None:
            return
        try:
            await self._operate(agent)
        except DockerFailure as error:
            repeats = self._repeats(agent, error)
            await self._execute(RecordDockerFailure(agent_id, agent.pending, str(error), repeats))
            if repeats:
                raise DockerDelayed(str(error)) from None

    async def observe(self, agent_id: str, container: ContainerState | None) -> None:
        """Records the state of an agent's container; None stands for a container that does not exist."""
        await self._execute(ObserveContainer(agent_id, container))

    async def check(
        self, host: DockerHost, agent_id: str, agent: DockerAgent | None, listed: ContainerState | None
    ) -> None:
        """Compares an agent with its container on a host, and mends what differs. The caller must load `agent` before
        it reads `listed`. Otherwise a container that was created in between would seem to be missing.
        """
        if agent is None or agent.deleted:
            if listed is not None:
                log.warning("removing a leftover container", agent=agent_id, container=listed.container_id)
                await host.remove(agent_id)
        elif agent.pending == "destroy":
            with contextlib.suppress(DockerDelayed):
                await self.operate(agent_id)
        elif listed is not None or agent.pending not in ("spawn", "start"):
            await self.observe(agent_id, listed)

    async def _operate(self, agent: DockerAgent) -> None:
        if agent.pending == "destroy":
            if agent.node_id is not None:
                with contextlib.suppress(NotFound):
                    await self._execute(DeleteNode(agent.node_id))
            # Nobody can remove containers on a host that the operator has taken out of the settings.
            if agent.host in self.hosts.names:
                await self.hosts.open(agent.host).remove(agent.agent_id)
            await self._execute(RecordDockerAgentDestroyed(agent.agent_id))
            return
        host = self.hosts.open(agent.host)
        if agent.pending == "stop":
            await self.observe(agent.agent_id, await host.stop(agent.agent_id))
        else:
            await self._run(host, agent)

    async def _run(self, host: DockerHost, agent: DockerAgent) -> None:
        agent_id = agent.agent_id
        container = await host.find(agent_id)
        if container is None:
            self._check_allowed(agent)
            text = "{}" if agent.sealed_env is None else self.secrets.unseal(agent.sealed_env)
            env = msgspec.json.decode(text, type=dict[str, str])
            new = NewContainer(agent_id, agent.image, agent.memory_mb, agent.cpus, env)
            container = await host.create(new)
        if not container.running and container.run in ("", agent.ended_run):
            if self.clock() > agent.registration_until:
                raise DockerRejected(f"Docker host {agent.host} took too long, so the registration token has expired")
            token = make_registration_token(self.secrets, agent_id, agent.registration_id)
            container = await host.start(agent_id, token)
        await self.observe(agent_id, container)
        latest = await self.log.load_state(DOCKER_AGENT.at(agent_id))
        if latest is None or latest.deleted:  # it was destroyed meanwhile
            await host.remove(agent_id)

    def _check_allowed(self, agent: DockerAgent) -> None:
        try:
            self.policy.check(agent.host, agent.image)
        except Invalid as refused:
            raise DockerRejected("; ".join(f"its {error.field} {error.message}" for error in refused.errors)) from None

    def _repeats(self, agent: DockerAgent, error: DockerFailure) -> bool:
        if agent.pending == "destroy":
            return True
        is_late = agent.pending != "stop" and self.clock() > agent.registration_until
        return isinstance(error, DockerUnavailable) and not is_late

    async def _execute(self, command: Command) -> None:
        await self.handler.execute(command, CALLER)
