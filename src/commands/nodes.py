"""What is asked of nodes, and what follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Decision
from domain.base import AnyStream, Event
from domain.claims import CLAIM, Claim, ClaimReleased, ClaimTaken
from domain.errors import Conflict, Invalid, NotFound
from domain.nodes import NODE, Node, NodeConnected, NodeDeleted, NodeRegistered, NodeWentOffline
from domain.pools import POOL, Pool


@dataclass(frozen=True)
class RegisterNode(Decision):
    """`claim` is that of the name."""

    node_id: int
    title: str
    claim: str
    token_hash: bytes
    pool_id: int | None
    """None: the node takes builds of any project whose job wants no pool."""
    tags: Sequence[str] = ()
    max_parallel: int = 1

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id), POOL.at(self.pool_id or 0), CLAIM.at(self.claim))

    def decide(self, node: Node | None, pool: Pool | None, claim: Claim) -> Iterable[Event]:
        if node is not None:
            return
        if pool is None and self.pool_id is not None:
            raise Invalid.field("pool_id", f"there is no node pool {self.pool_id}")
        owner = f"node-{self.node_id}"
        if claim.owner not in ("", owner):
            raise Conflict(f"There already is a node called {self.title!r}; choose another name.")
        if not claim.owner:
            yield ClaimTaken(claim=self.claim, owner=owner)
        yield NodeRegistered(
            node_id=self.node_id,
            title=self.title,
            token_hash=self.token_hash,
            pool_id=self.pool_id,
            tags=list(self.tags),
            max_parallel=self.max_parallel,
        )


@dataclass(frozen=True)
class ConnectNode(Decision):
    """`replaces_dead`: the agent of the connected session has not been heard of for too long."""

    node_id: int
    session: str
    version: str
    platform: str
    hostname: str
    cpu_cores: int
    ram_gb: float
    replaces_dead: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id),)

    def decide(self, node: Node | None) -> Iterable[Event]:
        if node is None or node.deleted:
            raise NotFound(f"There is no node {self.node_id}.")
        if node.session == self.session:
            return
        if node.session is not None and not self.replaces_dead:
            raise Conflict(f"Another agent is connected as node {node.title!r}; stop it, or register this machine too.")
        yield NodeConnected(
            node_id=self.node_id,
            session=self.session,
            version=self.version,
            platform=self.platform,
            hostname=self.hostname,
            cpu_cores=self.cpu_cores,
            ram_gb=self.ram_gb,
        )


@dataclass(frozen=True)
class MarkNodeOffline(Decision):
    """Nothing happens when another session has connected since."""

    node_id: int
    session: str
    reason: str

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id),)

    def decide(self, node: Node | None) -> Iterable[Event]:
        if node is not None and node.session == self.session:
            yield NodeWentOffline(node_id=self.node_id, session=self.session, reason=self.reason)


@dataclass(frozen=True)
class DeleteNode(Decision):
    """`claim` is that of the name, which is free again. The dispatcher ends the builds that run there."""

    node_id: int
    claim: str

    def reads(self) -> Sequence[AnyStream]:
        return (NODE.at(self.node_id), CLAIM.at(self.claim))

    def decide(self, node: Node | None, claim: Claim) -> Iterable[Event]:
        if node is None:
            raise NotFound(f"There is no node {self.node_id}.")
        if node.deleted:
            return
        owner = f"node-{self.node_id}"
        if claim.owner == owner:
            yield ClaimReleased(claim=self.claim, owner=owner)
        yield NodeDeleted(node_id=self.node_id)
