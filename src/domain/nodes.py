"""Nodes: build machines. A node has one agent at a time; a run of the agent is a session."""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import node_key
from domain.core.events import Category, Event, changes_of, copy_fields

Clearable = Literal["pool_id"]


BUILD_ACCOUNTS = "build_accounts"
"""Name of the feature that an agent has if it runs each build under a separate user account."""
NO_TOKEN = b"none"
"""Value of `token_hash` for a node that has no token. It is shorter than every real hash, so no token matches it."""


class NodeEvent(Event, frozen=True):
    node_id: int

    @property
    def stream(self) -> str:
        return f"node-{self.node_id}"


class NodeRegistered(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.registered"
    sealed: ClassVar[tuple[str, ...]] = ("token_hash",)
    title: str
    claim: str = ""
    """Id of the claim that keeps the node's name unique."""
    token_hash: bytes = b""
    pool_id: int | None = None
    tags: list[str] = []
    max_parallel: int = 1
    admins_only: bool = False
    """Whether the node runs only builds that an admin has queued."""
    single_use: bool = False
    """Whether the node gets one build at most."""

    @property
    def data_key(self) -> str | None:
        return node_key(self.node_id)


class NodeTokenRotated(NodeEvent, frozen=True):
    """The node got a new token. Its agent may use the old token until it has used the new one, but not after
    `old_until`.
    """

    name: ClassVar[str] = "node.token_rotated"
    sealed: ClassVar[tuple[str, ...]] = ("token_hash",)
    token_hash: bytes = b""
    old_until: datetime | None = None
    """Time after which the old token is refused in any case; None if it is refused at once."""

    @property
    def data_key(self) -> str | None:
        return node_key(self.node_id)


class NodeTokenRetired(NodeEvent, frozen=True):
    """The agent has used the node's new token. From now on the old token is refused."""

    name: ClassVar[str] = "node.token_retired"


class NodeConnected(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.connected"
    session: str
    version: str
    platform: str
    hostname: str
    cpu_cores: int
    ram_gb: float
    features: list[str] = []
    """Abilities of the agent that older agents lack (`domain.jobs.find_required_features`)."""


class NodeWentOffline(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.went_offline"
    session: str
    reason: str

    @property
    def notifies(self) -> str:
        """Payload of the notification that ends the open poll of the session's agent."""
        return agent_notification(self.node_id, "")


class NodeUpdated(NodeEvent, frozen=True):
    """The node was changed. Fields that are not None have their new values; fields in `cleared` were set to None."""

    name: ClassVar[str] = "node.updated"
    title: str | None = None
    claim: str | None = None
    pool_id: int | None = None
    tags: list[str] | None = None
    max_parallel: int | None = None
    admins_only: bool | None = None
    cleared: tuple[Clearable, ...] = ()


class NodeQuarantined(NodeEvent, frozen=True):
    """The node was put in quarantine: it gets no new builds, and running builds go on."""

    name: ClassVar[str] = "node.quarantined"


class NodeReleased(NodeEvent, frozen=True):
    """The node was released from quarantine."""

    name: ClassVar[str] = "node.released"


class NodeDeleted(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.deleted"


class Node(msgspec.Struct, frozen=True):
    node_id: int
    title: str
    claim: str
    pool_id: int | None
    tags: list[str]
    max_parallel: int
    admins_only: bool = False
    single_use: bool = False
    quarantined: bool = False
    session: str | None = None
    """Id of the connected agent's session; None while the node is offline."""
    features: frozenset[str] = frozenset()
    """Features of the agent that connected last."""
    has_old_token: bool = False
    """Whether the agent may still use the token that the last rotation replaced."""
    deleted: bool = False


def evolve(state: Node | None, event: Event) -> Node | None:
    match event:
        case NodeRegistered():
            return copy_fields(Node, event)
        case NodeConnected() if state is not None:
            return msgspec.structs.replace(state, session=event.session, features=frozenset(event.features))
        case NodeWentOffline() if state is not None and state.session == event.session:
            return msgspec.structs.replace(state, session=None)
        case NodeUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case NodeQuarantined() | NodeReleased() if state is not None:
            return msgspec.structs.replace(state, quarantined=isinstance(event, NodeQuarantined))
        case NodeTokenRotated() if state is not None:
            return msgspec.structs.replace(state, has_old_token=event.old_until is not None)
        case NodeTokenRetired() if state is not None:
            return msgspec.structs.replace(state, has_old_token=False)
        case NodeDeleted() if state is not None:
            return msgspec.structs.replace(state, session=None, deleted=True)
        case _:
            return state


def agent_notification(node_id: int, subject: int | str) -> str:
    """Returns the payload of a notification to the agent of a node. `subject` says what the notification is about: the
    id of a build, `cmd-` followed by the id of a command, or empty if it is about the agent's session.
    """
    return f"{node_id}:{subject}"


NODE = Category[Node | None]("node", None, evolve)
EVENTS = (
    NodeRegistered,
    NodeTokenRotated,
    NodeTokenRetired,
    NodeConnected,
    NodeWentOffline,
    NodeUpdated,
    NodeQuarantined,
    NodeReleased,
    NodeDeleted,
)
