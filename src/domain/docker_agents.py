"""Docker agents: containers on Docker hosts, in each of which an agent registers itself as a node.

A user requests an operation (`pending`), and a worker carries it out. States follow what the Docker host reports about
the container.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import docker_agent_key
from domain.core.errors import FieldError, Invalid
from domain.core.events import Category, Event, copy_fields
from domain.globs import find_match

DockerAgentStatus = Literal["starting", "running", "stopped", "error"]
Operation = Literal["spawn", "start", "stop", "destroy"]

PREFIX = "da-"
"""Prefix of the ids of Docker agents."""


class DockerPolicy(msgspec.Struct, frozen=True):
    """Which Docker hosts and images the operator of the server allows."""

    hosts: frozenset[str] = frozenset()
    """Names of the hosts."""
    images: Sequence[str] = ()
    """Globs over names of images with their tags, such as `testhide/agent:*`."""

    def check(self, host: str, image: str) -> None:
        """Raises Invalid, which names the fields, if agents may not be spawned on this host or from this image."""
        errors: list[FieldError] = []
        if host not in self.hosts:
            known = ", ".join(sorted(self.hosts)) or "none"
            errors.append(FieldError("host", f"is not one of the Docker hosts that the operator has set: {known}"))
        if not self._allows(image):
            allowed = ", ".join(self.images) or "none"
            errors.append(FieldError("image", f"is not one of the images that the operator allows: {allowed}"))
        if errors:
            raise Invalid.fields(errors)

    def _allows(self, image: str) -> bool:
        """Returns whether the globs allow an image.

        With a digest, Docker ignores the tag: `agent:3.14@sha256:…` may be an image with any tag. So a glob that
        matches only the tag does not allow such an image. A glob must match the image's name with the digest but
        without the tag. A glob that contains a digest may also match the image as it is written.
        """
        name, at, digest = image.partition("@")
        if not at:
            return find_match(self.images, image) is not None
        folder, slash, last = name.rpartition("/")
        without_tag = f"{folder}{slash}{last.partition(':')[0]}@{digest}"
        pinned = [glob for glob in self.images if "@" in glob]
        return find_match(self.images, without_tag) is not None or find_match(pinned, image) is not None


class ContainerState(msgspec.Struct, frozen=True):
    """The state of a container, as its Docker host reports it."""

    container_id: str
    running: bool
    run: str = ""
    """Time at which the container's process last started, in the form in which the Docker host writes it. The time
    identifies this run of the container. Empty if the container was never started.
    """
    exit_code: int = 0
    """Exit code of the last run."""
    out_of_memory: bool = False
    """Whether the kernel killed a process of the last run at the memory limit."""
    error: str = ""
    """Why the container could not be started; empty if it could."""

    @property
    def has_ended(self) -> bool:
        return not self.running and bool(self.run or self.error)


class DockerAgentEvent(Event, frozen=True):
    agent_id: str

    @property
    def stream(self) -> str:
        return f"docker-agent-{self.agent_id}"

    @property
    def data_key(self) -> str | None:
        return docker_agent_key(self.agent_id)


class DockerAgentRequested(DockerAgentEvent, frozen=True):
    """A Docker agent was requested. `registration_id` is the id of its registration token, and `registration_until` the
    end of the token's validity.
    """

    name: ClassVar[str] = "docker_agent.requested"
    sealed: ClassVar[tuple[str, ...]] = ("sealed_env",)
    host: str
    image: str
    registration_id: str
    registration_until: datetime
    pool_id: int | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    sealed_env: bytes | None = None
    """Environment variables of the container, as JSON that a root key seals; None for none."""
    single_use: bool = False
    """Whether the agent's node gets only one build (`domain.autoscaling`)."""


class DockerAgentRegistered(DockerAgentEvent, frozen=True):
    """The agent in the container has used its registration token: it is the agent of this node from now on."""

    name: ClassVar[str] = "docker_agent.registered"
    sealed: ClassVar[tuple[str, ...]] = ("token_hash",)
    node_id: int
    token_hash: bytes = b""
    """Hash of the token that the agent uses from now on."""


class DockerAgentStarted(DockerAgentEvent, frozen=True):
    """The container runs. `run` identifies the run (`ContainerState.run`)."""

    name: ClassVar[str] = "docker_agent.started"
    container_id: str
    run: str


class DockerAgentStopped(DockerAgentEvent, frozen=True):
    """The container has ended without an error: a worker stopped it, or its agent ended."""

    name: ClassVar[str] = "docker_agent.stopped"
    container_id: str
    run: str
    exit_code: int


class DockerAgentFailed(DockerAgentEvent, frozen=True):
    """The container has ended with an error or is gone, or the requested operation failed."""

    name: ClassVar[str] = "docker_agent.failed"
    error: str
    container_id: str = ""
    run: str = ""
    """The run that has ended; empty if none has."""
    repeats: bool = False
    """Whether a worker still tries to carry out the requested operation."""


class DockerAgentStartRequested(DockerAgentEvent, frozen=True):
    name: ClassVar[str] = "docker_agent.start_requested"
    registration_id: str
    registration_until: datetime


class DockerAgentStopRequested(DockerAgentEvent, frozen=True):
    name: ClassVar[str] = "docker_agent.stop_requested"


class DockerAgentDestroyRequested(DockerAgentEvent, frozen=True):
    name: ClassVar[str] = "docker_agent.destroy_requested"


class DockerAgentDestroyed(DockerAgentEvent, frozen=True):
    """The container is removed, with its files."""

    name: ClassVar[str] = "docker_agent.destroyed"
    destroys_key: ClassVar[bool] = True


class DockerAgent(msgspec.Struct, frozen=True):
    agent_id: str
    host: str
    image: str
    registration_id: str
    registration_until: datetime
    pool_id: int | None
    memory_mb: int | None
    cpus: float | None
    sealed_env: bytes | None
    single_use: bool = False
    status: DockerAgentStatus = "starting"
    pending: Operation | None = "spawn"
    """Requested operation that no worker has carried out yet."""
    error: str = ""
    """Why the status is `error`, or why the last try of the pending operation failed. A worker tries a pending
    operation again.
    """
    container_id: str = ""
    ended_run: str = ""
    """The last run that has ended."""
    node_id: int | None = None
    """Id of the agent's node; None until it registers for the first time."""
    token_hash: bytes = b""
    """Hash of the token that the agent got for its registration token; empty until the registration token is used."""
    deleted: bool = False


def evolve(state: DockerAgent | None, event: Event) -> DockerAgent | None:
    if isinstance(event, DockerAgentRequested):
        return copy_fields(DockerAgent, event)
    if state is None or not isinstance(event, DockerAgentEvent):
        return state
    replace = msgspec.structs.replace
    match event:
        case DockerAgentStartRequested():
            registration = {"registration_id": event.registration_id, "registration_until": event.registration_until}
            return replace(state, **registration, status="starting", pending="start", error="", token_hash=b"")
        case DockerAgentStopRequested():
            return replace(state, pending="stop", error="")
        case DockerAgentDestroyRequested():
            return replace(state, pending="destroy", error="")
        case DockerAgentRegistered():
            return replace(state, node_id=event.node_id, token_hash=event.token_hash)
        case DockerAgentStarted():
            pending = None if state.pending in ("spawn", "start") else state.pending
            return replace(state, status="running", pending=pending, error="", container_id=event.container_id)
        case DockerAgentStopped():
            pending = state.pending if state.pending == "destroy" else None
            ended = {"container_id": event.container_id, "ended_run": event.run or state.ended_run}
            return replace(state, **ended, status="stopped", pending=pending, error="")
        case DockerAgentFailed():
            pending = state.pending if event.repeats or state.pending == "destroy" else None
            ended = {
                "container_id": event.container_id or state.container_id,
                "ended_run": event.run or state.ended_run,
            }
            status: DockerAgentStatus = state.status if event.repeats else "error"
            return replace(state, **ended, status=status, pending=pending, error=event.error)
        case DockerAgentDestroyed():
            return replace(state, pending=None, sealed_env=None, deleted=True)
        case _:
            return state


DOCKER_AGENT = Category[DockerAgent | None]("docker-agent", None, evolve)
EVENTS = (
    DockerAgentRequested,
    DockerAgentRegistered,
    DockerAgentStarted,
    DockerAgentStopped,
    DockerAgentFailed,
    DockerAgentStartRequested,
    DockerAgentStopRequested,
    DockerAgentDestroyRequested,
    DockerAgentDestroyed,
)
