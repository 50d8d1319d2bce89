"""Nodes: build machines, each with one agent at a time (its session)."""

from typing import ClassVar

import msgspec

from domain.base import Category, Event


class NodeEvent(Event, frozen=True):
    node_id: int

    @property
    def stream(self) -> str:
        return f"node-{self.node_id}"


class NodeRegistered(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.registered"
    title: str
    token_hash: bytes
    pool_id: int | None = None
    tags: list[str] = []
    max_parallel: int = 1

    @property
    def data_key(self) -> str | None:
        return f"node-{self.node_id}"


class NodeConnected(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.connected"
    session: str
    version: str
    platform: str
    hostname: str
    cpu_cores: int
    ram_gb: float


class NodeWentOffline(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.went_offline"
    session: str
    reason: str


class NodeDeleted(NodeEvent, frozen=True):
    name: ClassVar[str] = "node.deleted"


class Node(msgspec.Struct, frozen=True):
    node_id: int
    title: str
    max_parallel: int
    session: str | None = None
    """The connected agent's session; None while offline."""
    deleted: bool = False


def evolve(state: Node | None, event: Event) -> Node | None:
    match event:
        case NodeRegistered():
            return Node(event.node_id, event.title, event.max_parallel)
        case NodeConnected() if state is not None:
            return msgspec.structs.replace(state, session=event.session)
        case NodeWentOffline() if state is not None and state.session == event.session:
            return msgspec.structs.replace(state, session=None)
        case NodeDeleted() if state is not None:
            return msgspec.structs.replace(state, session=None, deleted=True)
        case _:
            return state


NODE = Category[Node | None]("node", None, evolve)
EVENTS = (NodeRegistered, NodeConnected, NodeWentOffline, NodeDeleted)
