"""What is asked of node pools, and what follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from commands.handler import Decision
from domain.base import AnyStream, Event
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.errors import Conflict, NotFound
from domain.pools import POOL, Pool, PoolCreated
from domain.projects import PROJECT, Project


@dataclass(frozen=True)
class CreatePool(Decision):
    """`claim` is that of the name within the project."""

    pool_id: int
    project_id: int
    title: str
    claim: str
    labels: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int | None = None
    shared: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (POOL.at(self.pool_id), PROJECT.at(self.project_id), CLAIM.at(self.claim))

    def decide(self, pool: Pool | None, project: Project | None, claim: Claim) -> Iterable[Event]:
        if pool is not None:
            return
        if project is None:
            raise NotFound(f"There is no project {self.project_id}.")
        owner = f"node-pool-{self.pool_id}"
        if claim.owner not in ("", owner):
            raise Conflict(f"Project {self.project_id} already has a node pool {self.title!r}; choose another name.")
        if not claim.owner:
            yield ClaimTaken(claim=self.claim, owner=owner)
        yield PoolCreated(
            pool_id=self.pool_id,
            project_id=self.project_id,
            title=self.title,
            labels=dict(self.labels),
            max_parallel=self.max_parallel,
            shared=self.shared,
        )
