"""Commands on nodes: register, rotate the token, connect, update, quarantine, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest

from commands.handler import Command, must_exist
from domain.claims import CLAIM, Claim, release_claim, take_claim
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import AnyStream, Event
from domain.nodes import (
    NODE,
    Clearable,
    Node,
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeTokenRetired,
    NodeTokenRotated,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import POOL, Pool


@dataclass(frozen=True)
class RegisterNode(Command):
    """Registers a node. `claim` is the id of the claim that keeps the node's name unique."""

    node_id: int
    title: str
    claim: str
    token_hash: bytes
    pool_id: int | None
    """Id of the node's pool. A node without a pool (None) runs builds of all projects, but only of jobs without a
    pool.
    """
    tags: Sequence[str] = ()
    max_parallel: int = 1
    admins_only: bool = False
    """Whether the node runs only builds that an admin has queued."""

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id), POOL.at(self.pool_id or 0), CLAIM.at(self.claim))

    def decide(self, node: Node | None, pool: Pool | None, claim: Claim) -> Iterable[Event]:
        if node is not None:
            return
        must_be_pool(self.pool_id, pool)
        yield from take_claim(self.claim, claim, NODE.at(self.node_id).name, _taken(self.title))
        yield self.event(NodeRegistered)


@dataclass(frozen=True)
class RotateNodeToken(Command, of=NODE):
    """Gives a node a new token. The node's agent may use the old token until `old_until`. If `old_until` is None, the
    old token is refused at once, and the session of the agent ends.
    """

    node_id: int
    token_hash: bytes
    old_until: datetime | None

    def decide(self, node: Node | None) -> Iterable[Event]:
        node = must_exist(node, f"node {self.node_id}")
        yield self.event(NodeTokenRotated)
        if self.old_until is None and node.session is not None:
            yield NodeWentOffline(node_id=self.node_id, session=node.session, reason="its token is not valid any more")


@dataclass(frozen=True)
class RetireOldToken(Command, of=NODE):
    """Records that a node's agent has used its new token. From then on the old token is refused."""

    node_id: int

    def decide(self, node: Node | None) -> Iterable[Event]:
        if node is not None and node.has_old_token:
            yield NodeTokenRetired(node_id=self.node_id)


@dataclass(frozen=True)
class ConnectNode(Command, of=NODE):
    """Connects an agent to its node. Raises Conflict if another agent has the node's session and may still be alive.

    The new agent replaces the session of another agent in two cases. In the first, the other agent has been silent for
    too long (`replaces_dead`). In the second, the session of the other agent is `replaces_session`, the last session
    that used the new agent's work folder. Only one agent at a time can use a folder, so the other agent has ended.
    """

    node_id: int
    session: str
    version: str
    platform: str
    hostname: str
    cpu_cores: int
    ram_gb: float
    features: Sequence[str] = ()
    replaces_dead: bool = False
    replaces_session: str | None = None

    def decide(self, node: Node | None) -> Iterable[Event]:
        node = must_exist(node, f"node {self.node_id}")
        if node.session == self.session:
            return
        replaces = self.replaces_dead or compare_digest(node.session or "", self.replaces_session or "")
        if node.session is not None and not replaces:
            raise Conflict(f"Another agent is connected as node {node.title!r}; stop it, or register this machine too.")
        yield self.event(NodeConnected)


@dataclass(frozen=True)
class MarkNodeOffline(Command, of=NODE):
    """Records that a node went offline. Does nothing if `session` is no longer the session of the node."""

    node_id: int
    session: str
    reason: str

    def decide(self, node: Node | None) -> Iterable[Event]:
        if node is not None and node.session == self.session:
            yield self.event(NodeWentOffline)


@dataclass(frozen=True)
class UpdateNode(Command):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it. `claim` is
    the id of the claim that keeps the new name unique.
    """

    node_id: int
    title: str | None = None
    claim: str | None = None
    pool_id: int | None = None
    tags: Sequence[str] | None = None
    max_parallel: int | None = None
    admins_only: bool | None = None
    cleared: tuple[Clearable, ...] = ()

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id), POOL.at(self.pool_id or 0))

    def then_reads(self, node: Node | None, pool: Pool | None) -> Sequence[AnyStream]:
        """Returns the streams of the claims of the new and the old name, if the command renames the node."""
        if node is None or self.claim in (None, node.claim):
            return ()
        return CLAIM.at(self.claim), CLAIM.at(node.claim)

    def decide(self, node: Node | None, pool: Pool | None, *claims: Claim) -> Iterable[Event]:
        node = must_exist(node, f"node {self.node_id}")
        must_be_pool(self.pool_id, pool)
        if claims:
            new, old = claims
            owner = NODE.at(self.node_id).name
            yield from take_claim(self.claim or node.claim, new, owner, _taken(self.title or node.title))
            yield from release_claim(node.claim, old, owner)
        yield from self.update(NodeUpdated, node)


@dataclass(frozen=True)
class QuarantineNode(Command, of=NODE):
    """Keeps the dispatcher from assigning builds to a node until it is released. Running builds go on."""

    node_id: int

    def decide(self, node: Node | None) -> Iterable[Event]:
        if not must_exist(node, f"node {self.node_id}").quarantined:
            yield NodeQuarantined(node_id=self.node_id)


@dataclass(frozen=True)
class ReleaseNode(Command, of=NODE):
    node_id: int

    def decide(self, node: Node | None) -> Iterable[Event]:
        if must_exist(node, f"node {self.node_id}").quarantined:
            yield NodeReleased(node_id=self.node_id)


@dataclass(frozen=True)
class DeleteNode(Command, of=NODE):
    """Deletes a node and releases its name. The dispatcher then aborts the builds that run on it."""

    node_id: int

    def then_reads(self, node: Node | None) -> Sequence[AnyStream]:
        return () if node is None else (CLAIM.at(node.claim),)

    def decide(self, node: Node | None, *claims: Claim) -> Iterable[Event]:
        if node is None:
            raise NotFound(f"There is no node {self.node_id}.")
        if node.deleted:
            return
        for claim in claims:
            yield from release_claim(node.claim, claim, NODE.at(self.node_id).name)
        yield NodeDeleted(node_id=self.node_id)


def must_be_pool(pool_id: int | None, pool: Pool | None) -> None:
    """Raises Invalid if there is no pool `pool_id`. None is valid, and means no pool."""
    if pool_id is not None and (pool is None or pool.deleted):
        raise Invalid.field("pool_id", f"there is no node pool {pool_id}")


def _taken(title: str) -> str:
    return f"There already is a node called {title!r}; choose another name."
