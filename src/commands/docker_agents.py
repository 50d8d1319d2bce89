"""Commands on Docker agents: spawn, start, stop, destroy, register, and record what became of their containers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from commands.handler import Command, must_exist
from commands.nodes import must_be_pool
from commands.registrations import NOT_VALID
from domain.claims import CLAIM, Claim, take_claim
from domain.core.errors import Conflict, NotFound, Unauthenticated
from domain.core.events import AnyStream, Event
from domain.docker_agents import (
    DOCKER_AGENT,
    ContainerState,
    DockerAgent,
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentFailed,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStarted,
    DockerAgentStartRequested,
    DockerAgentStopped,
    DockerAgentStopRequested,
    Operation,
)
from domain.nodes import NO_TOKEN, NODE, Node, NodeRegistered, NodeTokenRotated, NodeWentOffline
from domain.pools import POOL, Pool


@dataclass(frozen=True)
class SpawnDockerAgent(Command):
    """Requests a new Docker agent. `registration_id` and `registration_until` are those of its registration token."""

    agent_id: str
    host: str
    image: str
    registration_id: str
    registration_until: datetime
    pool_id: int | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    sealed_env: bytes | None = None

    def reads(self) -> Sequence[AnyStream]:
        return DOCKER_AGENT.at(self.agent_id), POOL.at(self.pool_id or 0)

    def decide(self, agent: DockerAgent | None, pool: Pool | None) -> Iterable[Event]:
        if agent is None:
            must_be_pool(self.pool_id, pool)
            yield self.event(DockerAgentRequested)


@dataclass(frozen=True)
class StartDockerAgent(Command, of=DOCKER_AGENT):
    """Requests that the container of a Docker agent is started again, with a new registration token. Does nothing if
    the container runs or is being started.
    """

    agent_id: str
    registration_id: str
    registration_until: datetime

    def decide(self, agent: DockerAgent | None) -> Iterable[Event]:
        agent = _must_be_kept(agent, self.agent_id)
        if agent.pending == "stop":
            raise Conflict(f"Docker agent {self.agent_id} is being stopped; start it afterwards.")
        if agent.pending is None and agent.status != "running":
            yield self.event(DockerAgentStartRequested)


@dataclass(frozen=True)
class StopDockerAgent(Command, of=DOCKER_AGENT):
    """Requests that the container of a Docker agent is stopped. Does nothing if it is stopped or being stopped."""

    agent_id: str

    def decide(self, agent: DockerAgent | None) -> Iterable[Event]:
        agent = _must_be_kept(agent, self.agent_id)
        if agent.pending in ("spawn", "start"):
            raise Conflict(f"Docker agent {self.agent_id} is being started; stop it afterwards, or destroy it.")
        if agent.pending is None and agent.status != "stopped":
            yield DockerAgentStopRequested(agent_id=self.agent_id)


@dataclass(frozen=True)
class DestroyDockerAgent(Command, of=DOCKER_AGENT):
    """Requests that the container of a Docker agent is removed. The caller also deletes the agent's node."""

    agent_id: str

    def decide(self, agent: DockerAgent | None) -> Iterable[Event]:
        if agent is None:
            raise NotFound(f"There is no Docker agent {self.agent_id}.")
        if not agent.deleted and agent.pending != "destroy":
            yield DockerAgentDestroyRequested(agent_id=self.agent_id)


@dataclass(frozen=True)
class RecordDockerAgentDestroyed(Command, of=DOCKER_AGENT):
    """Records that the container of a Docker agent is removed, if this was requested."""

    agent_id: str

    def decide(self, agent: DockerAgent | None) -> Iterable[Event]:
        if agent is not None and not agent.deleted and agent.pending == "destroy":
            yield DockerAgentDestroyed(agent_id=self.agent_id)


@dataclass(frozen=True)
class RecordDockerFailure(Command, of=DOCKER_AGENT):
    """Records that a worker could not carry out the pending operation. `repeats` says whether the worker tries again:
    if so, an error that was recorded before is not recorded again.
    """

    agent_id: str
    operation: Operation
    error: str
    repeats: bool

    def decide(self, agent: DockerAgent | None) -> Iterable[Event]:
        if agent is None or agent.deleted or agent.pending != self.operation:
            return
        if not (self.repeats and agent.error == self.error):
            yield self.event(DockerAgentFailed)


@dataclass(frozen=True)
class ObserveContainer(Command, of=DOCKER_AGENT):
    """Records the state in which a worker found the container of a Docker agent, if this differs from the recorded
    state. `container` is None if the host has no such container.
    """

    agent_id: str
    container: ContainerState | None

    def then_reads(self, agent: DockerAgent | None) -> Sequence[AnyStream]:
        return () if agent is None or agent.node_id is None else (NODE.at(agent.node_id),)

    def decide(self, agent: DockerAgent | None, node: Node | None = None) -> Iterable[Event]:
        if agent is None or agent.deleted:
            return
        change = self._find_change(agent)
        if change is None:
            return
        yield change
        if isinstance(change, DockerAgentStarted) or node is None or node.deleted:
            return
        if self.container is not None and agent.token_hash:
            # The ended agent had its token in memory only. So whoever sends the token now is not the agent, but for
            # example a build that has read the agent's memory.
            yield NodeTokenRotated(node_id=node.node_id, token_hash=NO_TOKEN)
        if node.session is not None:
            yield NodeWentOffline(node_id=node.node_id, session=node.session, reason="its container has ended")

    def _find_change(self, agent: DockerAgent) -> Event | None:
        found = self.container
        if found is None:
            return self._find_loss(agent)
        if found.running:
            is_news = agent.status != "running" or agent.container_id != found.container_id
            return self.event(DockerAgentStarted, found) if is_news and found.run != agent.ended_run else None
        if not found.has_ended or (found.run == agent.ended_run and found.run and agent.status != "running"):
            return None
        if found.error and found.run in ("", agent.ended_run):
            is_awaited = agent.pending in ("spawn", "start")
            return self.event(DockerAgentFailed, found, repeats=False) if is_awaited else None
        if agent.pending == "stop" or found.exit_code == 0:
            return self.event(DockerAgentStopped, found)
        return self.event(DockerAgentFailed, found, error=describe_end(found), repeats=False)

    def _find_loss(self, agent: DockerAgent) -> Event | None:
        error = f"Docker host {agent.host} has no such container any more"
        is_awaited = agent.pending in ("spawn", "start", "destroy")
        is_known = agent.pending is None and (agent.error == error or not agent.container_id)
        return None if is_awaited or is_known else DockerAgentFailed(agent_id=self.agent_id, error=error)


@dataclass(frozen=True)
class RegisterDockerAgent(Command):
    """Exchanges the registration token of a Docker agent for a token of its node. The agent itself has made the token
    of the node, so it may repeat the request if the answer was lost.

    The first time, the command registers the node, with the id `node_id`. After a restart of the container, the command
    gives the node a new token.
    """

    agent_id: str
    registration_id: str
    token_hash: bytes
    node_id: int
    claim: str
    """Id of the claim that keeps the node's name unique."""
    now: datetime

    def reads(self) -> Sequence[AnyStream]:
        return DOCKER_AGENT.at(self.agent_id), CLAIM.at(self.claim)

    def then_reads(self, agent: DockerAgent | None, claim: Claim) -> Sequence[AnyStream]:
        if agent is None:
            return ()
        return POOL.at(agent.pool_id or 0), NODE.at(agent.node_id or self.node_id)

    def decide(
        self, agent: DockerAgent | None, claim: Claim, pool: Pool | None = None, node: Node | None = None
    ) -> Iterable[Event]:
        if agent is None or agent.deleted or agent.pending == "destroy":
            raise Unauthenticated(NOT_VALID)
        if agent.registration_id != self.registration_id or self.now > agent.registration_until:
            raise Unauthenticated(NOT_VALID)
        if agent.token_hash:
            if agent.token_hash != self.token_hash:
                raise Unauthenticated("The registration token was used before: it works once.")
            return
        if agent.pending is None and agent.status != "running":
            raise Unauthenticated(NOT_VALID)  # its container has ended without using it
        if node is not None and not node.deleted:
            yield NodeTokenRotated(node_id=node.node_id, token_hash=self.token_hash)
            if node.session is not None:
                yield NodeWentOffline(node_id=node.node_id, session=node.session, reason="its container was restarted")
            yield DockerAgentRegistered(agent_id=self.agent_id, node_id=node.node_id, token_hash=self.token_hash)
            return
        must_be_pool(agent.pool_id, pool)
        taken = f"There already is a node called {self.agent_id!r}: rename it."
        yield from take_claim(self.claim, claim, NODE.at(self.node_id).name, taken)
        yield self.event(NodeRegistered, title=self.agent_id, pool_id=agent.pool_id, single_use=agent.single_use)
        yield self.event(DockerAgentRegistered)


def describe_end(container: ContainerState) -> str:
    """Returns a sentence that says how the last run of a container ended."""
    if container.error:
        return f"the container could not be started: {container.error}"
    if container.out_of_memory:
        return f"the container ended with exit code {container.exit_code}, since it reached its memory limit"
    killed = " (killed)" if container.exit_code == 137 else ""
    return f"the container ended with exit code {container.exit_code}{killed}"


def _must_be_kept(agent: DockerAgent | None, agent_id: str) -> DockerAgent:
    agent = must_exist(agent, f"Docker agent {agent_id}")
    if agent.pending == "destroy":
        raise Conflict(f"Docker agent {agent_id} is being destroyed.")
    return agent
