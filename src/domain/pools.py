"""Node pools: groups of nodes that jobs are routed to."""

from typing import ClassVar

import msgspec

from domain.base import Category, Event


class PoolCreated(Event, frozen=True):
    name: ClassVar[str] = "node_pool.created"
    pool_id: int
    project_id: int
    title: str
    labels: dict[str, str] = {}
    max_parallel: int | None = None
    shared: bool = False

    @property
    def stream(self) -> str:
        return f"node-pool-{self.pool_id}"


class Pool(msgspec.Struct, frozen=True):
    pool_id: int
    project_id: int
    shared: bool


def evolve(state: Pool | None, event: Event) -> Pool | None:
    match event:
        case PoolCreated():
            return Pool(event.pool_id, event.project_id, event.shared)
        case _:
            return state


POOL = Category[Pool | None]("node-pool", None, evolve)
EVENTS = (PoolCreated,)
