"""Node pools."""

from typing import Any

import hypothesis
import pytest
from msgspec.structs import replace

from commands.pools import CreatePool, DeletePool, UpdatePool
from domain import claims, nodes, pools, projects
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, Forbidden, NotFound
from domain.core.events import Event
from domain.nodes import NodeQuarantined, NodeRegistered, NodeUpdated
from domain.pools import POOL, PoolCreated, PoolDeleted, PoolUpdated
from domain.projects import ProjectCreated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"")
CREATE = CreatePool(2, 1, "linux", "pool-name-1", labels={"arch": "amd64"}, max_parallel=10)
CREATED = PoolCreated(
    pool_id=2, project_id=1, title="linux", claim="pool-name-1", labels={"arch": "amd64"}, max_parallel=10
)
TAKEN = ClaimTaken(claim="pool-name-1", owner="node-pool-2")
RELEASED = ClaimReleased(claim="pool-name-1", owner="node-pool-2")
DELETED = PoolDeleted(pool_id=2, project_id=1)


def test_create() -> None:
    given(PROJECT).when(CREATE).then(TAKEN, CREATED)
    given(PROJECT, TAKEN, CREATED).when(CREATE).then_nothing()


def test_a_pool_needs_its_project() -> None:
    with pytest.raises(NotFound):
        given().when(CREATE)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(Conflict, match="linux"):
        given(PROJECT, ClaimTaken(claim="pool-name-1", owner="node-pool-1")).when(CREATE)


def test_a_new_name_is_taken_and_the_old_one_free() -> None:
    command = UpdatePool(2, title="big", claim="pool-name-2")
    given(CREATED, TAKEN).when(command).then(
        ClaimTaken(claim="pool-name-2", owner="node-pool-2"),
        RELEASED,
        PoolUpdated(pool_id=2, project_id=1, title="big", claim="pool-name-2"),
    )
    with pytest.raises(Conflict, match="big"):
        given(CREATED, TAKEN, ClaimTaken(claim="pool-name-2", owner="node-pool-9")).when(command)


def test_only_what_changes_is_told() -> None:
    command = UpdatePool(2, title="linux", claim="pool-name-1", labels={}, max_parallel=10, shared=True, may_share=True)
    given(CREATED, TAKEN).when(command).then(PoolUpdated(pool_id=2, project_id=1, labels={}, shared=True))
    unlimited = PoolUpdated(pool_id=2, project_id=1, cleared=("max_parallel",))
    given(CREATED).when(UpdatePool(2, cleared=("max_parallel",))).then(unlimited)
    given(CREATED, unlimited).when(UpdatePool(2, cleared=("max_parallel",))).then_nothing()


@pytest.mark.parametrize(("field", "right"), [("shared", "may_share"), ("untrusted", "may_trust")])
def test_a_mark_is_set_again_only_by_whoever_may_set_it(field: str, right: str) -> None:
    def updated(value: bool) -> PoolUpdated:
        return replace(PoolUpdated(pool_id=2, project_id=1), **{field: value})

    again: dict[str, Any] = {field: True}
    given(CREATED, updated(True)).when(UpdatePool(2, **again)).then_nothing()
    with pytest.raises(Forbidden, match=field):
        given(CREATED, updated(True), updated(False)).when(UpdatePool(2, **again))
    permitted: dict[str, Any] = again | {right: True}
    allowed = UpdatePool(2, **permitted)
    given(CREATED, updated(True), updated(False)).when(allowed).then(updated(True))


def test_the_nodes_of_a_deleted_pool_serve_nobody_until_they_are_released() -> None:
    """Without a pool they would serve all projects at once."""
    inside = NodeRegistered(node_id=7, title="a", pool_id=2)
    moved = NodeRegistered(node_id=8, title="b", pool_id=3)
    given(CREATED, TAKEN, inside, moved).when(DeletePool(2, [7, 8])).then(
        NodeUpdated(node_id=7, cleared=("pool_id",)), NodeQuarantined(node_id=7), RELEASED, DELETED
    )
    held = NodeQuarantined(node_id=7)
    given(CREATED, TAKEN, inside, held).when(DeletePool(2, [7])).then(
        NodeUpdated(node_id=7, cleared=("pool_id",)), RELEASED, DELETED
    )


def test_a_pool_with_active_builds_stays() -> None:
    with pytest.raises(Conflict, match="1 build is"):
        given(CREATED, TAKEN).when(DeletePool(2, active_builds=1))


@pytest.mark.parametrize("command", [UpdatePool(2), DeletePool(2)])
def test_there_is_no_such_pool(command: Any) -> None:
    for history in ((), (CREATED, DELETED)):
        with pytest.raises(NotFound):
            given(*history).when(command)


@pytest.mark.parametrize("kind", [CreatePool, UpdatePool, DeletePool])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*pools.EVENTS, *projects.EVENTS, *claims.EVENTS, *nodes.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*pools.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(POOL, history)
