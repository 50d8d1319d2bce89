"""Commands on node pools: create, update, delete."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.claims import CLAIM, Claim, release_claim, take_claim
from domain.core.errors import Conflict, Forbidden
from domain.core.events import AnyStream, Event
from domain.nodes import NODE, Node, NodeQuarantined, NodeUpdated
from domain.pools import POOL, Clearable, Pool, PoolCreated, PoolDeleted, PoolUpdated
from domain.projects import PROJECT, Project

ONLY_ADMINS_TRUST = "Only admins set `untrusted` of a node pool: pull requests from forks run on its machines then."


@dataclass(frozen=True)
class CreatePool(Command):
    """Creates a node pool. `claim` is the id of the claim that keeps the pool's name unique within the project."""

    pool_id: int
    project_id: int
    title: str
    claim: str
    labels: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int | None = None
    shared: bool = False
    untrusted: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (POOL.at(self.pool_id), PROJECT.at(self.project_id), CLAIM.at(self.claim))

    def decide(self, pool: Pool | None, project: Project | None, claim: Claim) -> Iterable[Event]:
        if pool is not None:
            return
        must_be_open(project, self.project_id)
        yield from take_claim(self.claim, claim, POOL.at(self.pool_id).name, _taken(self.project_id, self.title))
        yield self.event(PoolCreated)


@dataclass(frozen=True)
class UpdatePool(Command, of=POOL):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it. `claim` is
    the id of the claim that keeps the new name unique. Raises Forbidden if the command changes `shared` without
    `may_share`, or `untrusted` without `may_trust`.
    """

    pool_id: int
    title: str | None = None
    claim: str | None = None
    labels: Mapping[str, str] | None = None
    max_parallel: int | None = None
    shared: bool | None = None
    untrusted: bool | None = None
    cleared: tuple[Clearable, ...] = ()
    may_share: bool = False
    may_trust: bool = False

    def then_reads(self, pool: Pool | None) -> Sequence[AnyStream]:
        """Returns the streams of the claims of the new and the old name, if the command renames the pool."""
        if pool is None or self.claim in (None, pool.claim):
            return ()
        return CLAIM.at(self.claim), CLAIM.at(pool.claim)

    def decide(self, pool: Pool | None, *claims: Claim) -> Iterable[Event]:
        pool = must_exist(pool, f"node pool {self.pool_id}")
        if self.shared not in (None, pool.shared) and not self.may_share:
            raise Forbidden("Only admins, and users whom they let manage nodes, set `shared` of a node pool.")
        if self.untrusted not in (None, pool.untrusted) and not self.may_trust:
            raise Forbidden(ONLY_ADMINS_TRUST)
        if claims:
            new, old = claims
            refusal = _taken(pool.project_id, self.title or pool.title)
            yield from take_claim(self.claim or pool.claim, new, POOL.at(self.pool_id).name, refusal)
            yield from release_claim(pool.claim, old, POOL.at(self.pool_id).name)
        yield from self.update(PoolUpdated, pool, project_id=pool.project_id)


@dataclass(frozen=True)
class DeletePool(Command):
    """Deletes a pool. Its nodes then have no pool, and are put in quarantine. Without the quarantine they would run
    builds of all projects, and only people who manage nodes may decide that.

    `node_ids` lists the pool's nodes as the read model has them. `active_builds` is the number of the pool's builds
    that have not ended. The pool can be deleted only if this number is 0.
    """

    pool_id: int
    node_ids: Sequence[int] = ()
    active_builds: int = 0

    def reads(self) -> Sequence[AnyStream]:
        return (POOL.at(self.pool_id), *(NODE.at(node_id) for node_id in dict.fromkeys(self.node_ids)))

    def then_reads(self, pool: Pool | None, *nodes: Node | None) -> Sequence[AnyStream]:
        return () if pool is None else (CLAIM.at(pool.claim),)

    def decide(self, pool: Pool | None, *others: Node | Claim | None) -> Iterable[Event]:
        pool = must_exist(pool, f"node pool {self.pool_id}")
        if self.active_builds:
            what = "1 build is" if self.active_builds == 1 else f"{self.active_builds} builds are"
            raise Conflict(
                f"{what} queued or running in node pool {pool.title!r}; wait for them or stop them, then delete it."
            )
        for other in others:
            match other:
                case Node(deleted=False) if other.pool_id == self.pool_id:
                    yield NodeUpdated(node_id=other.node_id, cleared=("pool_id",))
                    if not other.quarantined:
                        yield NodeQuarantined(node_id=other.node_id)
                case Claim():
                    yield from release_claim(pool.claim, other, POOL.at(self.pool_id).name)
                case _:
                    continue
        yield PoolDeleted(pool_id=self.pool_id, project_id=pool.project_id)


def _taken(project_id: int, title: str) -> str:
    return f"Project {project_id} already has a node pool {title!r}; choose another name."
