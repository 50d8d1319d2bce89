"""Interface to Docker hosts. `integrations.ports` has the interfaces to other outside systems."""

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from domain.docker_agents import ContainerState


class DockerFailure(Exception):
    """A call of a Docker host failed. The message is a sentence that names the host and the reason, without secrets.

    DockerFailure
        ├── DockerUnavailable   a later try may succeed
        └── DockerRejected      a later try succeeds only after somebody has changed the host or the request
    """


class DockerUnavailable(DockerFailure):
    """The host cannot be reached, does not answer in time, or fails."""


class DockerRejected(DockerFailure):
    pass


@dataclass(frozen=True)
class NewContainer:
    """A container to create. `memory_mb` and `cpus` are its limits; None for no limit."""

    agent_id: str
    image: str
    memory_mb: int | None = None
    cpus: float | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class DockerHost(Protocol):
    """The containers of this installation on one Docker host. Never touches other containers.

    Each call has a time limit and raises DockerFailure. Calls do not hold each other up.
    """

    async def find(self, agent_id: str) -> ContainerState | None:
        """Returns the state of an agent's container; None if there is none."""
        ...

    async def list_all(self) -> Mapping[str, ContainerState]:
        """Returns agent id -> state of its container."""
        ...

    async def create(self, new: NewContainer) -> ContainerState:
        """Creates the container of an agent, without starting it. Pulls the image if the host does not have it."""
        ...

    async def start(self, agent_id: str, registration_token: str) -> ContainerState:
        """Hands the agent its registration token, and starts its container. Returns the state afterwards. If the host
        cannot start the container, the state has an `error`.
        """
        ...

    async def stop(self, agent_id: str) -> ContainerState | None:
        """Asks the agent to end, kills it if it does not end in time, and returns the state of its container; None if
        there is none.
        """
        ...

    async def remove(self, agent_id: str) -> None:
        """Removes the container of an agent and its files, even if it runs. Does nothing if there is no container."""
        ...

    def follow(self) -> AbstractAsyncContextManager[AsyncGenerator[str, None]]:
        """Context manager that yields an iterator over the ids of agents whose containers change. From the beginning of
        the block, no change is missed. The iterator ends when the host can no longer be followed.
        """
        ...


class DockerHosts(Protocol):
    """Opens the Docker hosts that the operator has configured."""

    @property
    def names(self) -> Collection[str]: ...

    def open(self, name: str) -> DockerHost:
        """Returns the host with this name. Makes no call. Raises DockerRejected if no such host is configured."""
        ...


class ContainerLogs(Protocol):
    def read(
        self, host: str, agent_id: str, tail: int, *, follow: bool = False
    ) -> AbstractAsyncContextManager[AsyncGenerator[list[bytes], None]]:
        """Context manager that yields an iterator over the lines of a container's log, in batches: first its last
        `tail` lines and, with `follow`, later ones as they come. Each line is a JSON text of ASCII characters. The
        iterator ends when the log ends, or with a DockerFailure.
        """
        ...
