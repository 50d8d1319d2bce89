"""Node pools: groups of nodes that jobs are routed to."""

from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import project_key
from domain.core.events import Category, Event, changes_of, copy_fields

Clearable = Literal["max_parallel"]


class PoolEvent(Event, frozen=True):
    pool_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"node-pool-{self.pool_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


class PoolCreated(PoolEvent, frozen=True):
    name: ClassVar[str] = "node_pool.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "labels")
    title: str = ""
    claim: str = ""
    """Id of the claim that keeps the pool's name unique within the project."""
    labels: dict[str, str] = {}
    max_parallel: int | None = None
    shared: bool = False
    untrusted: bool = False
    """Whether builds of pull requests from forks run in the pool."""


class PoolUpdated(PoolEvent, frozen=True):
    """The pool was changed. Fields that are not None have their new values; fields in `cleared` were set to None."""

    name: ClassVar[str] = "node_pool.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "labels")
    title: str | None = None
    claim: str | None = None
    labels: dict[str, str] | None = None
    max_parallel: int | None = None
    shared: bool | None = None
    untrusted: bool | None = None
    cleared: tuple[Clearable, ...] = ()


class PoolDeleted(PoolEvent, frozen=True):
    """The pool was deleted. At the same time, its nodes left the pool and were put in quarantine."""

    name: ClassVar[str] = "node_pool.deleted"


class Pool(msgspec.Struct, frozen=True):
    pool_id: int
    project_id: int
    title: str
    claim: str
    labels: dict[str, str]
    max_parallel: int | None
    shared: bool
    untrusted: bool = False
    deleted: bool = False

    def serves(self, project_id: int) -> bool:
        """Returns whether builds of the project may use the pool."""
        return not self.deleted and (self.shared or self.project_id == project_id)


def evolve(state: Pool | None, event: Event) -> Pool | None:
    match event:
        case PoolCreated():
            return copy_fields(Pool, event)
        case PoolUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case PoolDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


POOL = Category[Pool | None]("node-pool", None, evolve)
EVENTS = (PoolCreated, PoolUpdated, PoolDeleted)
