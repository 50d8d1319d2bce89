"""Node pools."""

from typing import Any

import pytest
from hypothesis import given

from commands.pools import CreatePool, DeletePool, UpdatePool
from domain import claims, nodes, pools, projects
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.nodes import NodeRegistered, NodeUpdated
from domain.pools import POOL, PoolCreated, PoolDeleted, PoolUpdated
from domain.projects import ProjectCreated
from tests.support.given import commands, decided, folds, histories, is_decided_once

PROJECT = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"")
CREATE = CreatePool(2, 1, "linux", "pool-name-1", labels={"arch": "amd64"}, max_parallel=10)
CREATED = PoolCreated(
    pool_id=2, project_id=1, title="linux", claim="pool-name-1", labels={"arch": "amd64"}, max_parallel=10
)
TAKEN = ClaimTaken(claim="pool-name-1", owner="node-pool-2")
RELEASED = ClaimReleased(claim="pool-name-1", owner="node-pool-2")
DELETED = PoolDeleted(pool_id=2, project_id=1)


def test_create() -> None:
    assert decided(CREATE, PROJECT) == [TAKEN, CREATED]
    assert decided(CREATE, PROJECT, TAKEN, CREATED) == []


def test_a_pool_needs_its_project() -> None:
    with pytest.raises(NotFound):
        decided(CREATE)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(Conflict, match="linux"):
        decided(CREATE, PROJECT, ClaimTaken(claim="pool-name-1", owner="node-pool-1"))


def test_a_new_name_is_taken_and_the_old_one_free() -> None:
    command = UpdatePool(2, title="big", claim="pool-name-2")
    assert decided(command, CREATED, TAKEN) == [
        ClaimTaken(claim="pool-name-2", owner="node-pool-2"),
        RELEASED,
        PoolUpdated(pool_id=2, project_id=1, title="big", claim="pool-name-2"),
    ]
    with pytest.raises(Conflict, match="big"):
        decided(command, CREATED, TAKEN, ClaimTaken(claim="pool-name-2", owner="node-pool-9"))


def test_only_what_changes_is_told() -> None:
    command = UpdatePool(2, title="linux", claim="pool-name-1", labels={}, max_parallel=10, shared=True)
    assert decided(command, CREATED, TAKEN) == [PoolUpdated(pool_id=2, project_id=1, labels={}, shared=True)]
    unlimited = PoolUpdated(pool_id=2, project_id=1, cleared=("max_parallel",))
    assert decided(UpdatePool(2, cleared=("max_parallel",)), CREATED) == [unlimited]
    assert decided(UpdatePool(2, cleared=("max_parallel",)), CREATED, unlimited) == []


def test_the_nodes_of_a_deleted_pool_are_unassigned() -> None:
    inside = NodeRegistered(node_id=7, title="a", pool_id=2)
    moved = NodeRegistered(node_id=8, title="b", pool_id=3)
    assert decided(DeletePool(2, [7, 8]), CREATED, TAKEN, inside, moved) == [
        NodeUpdated(node_id=7, cleared=("pool_id",)),
        RELEASED,
        DELETED,
    ]


def test_a_pool_with_active_builds_stays() -> None:
    with pytest.raises(Conflict, match="1 build is"):
        decided(DeletePool(2, active_builds=1), CREATED, TAKEN)


@pytest.mark.parametrize("command", [UpdatePool(2), DeletePool(2)])
def test_there_is_no_such_pool(command: Any) -> None:
    for history in ((), (CREATED, DELETED)):
        with pytest.raises(NotFound):
            decided(command, *history)


@pytest.mark.parametrize("kind", [CreatePool, UpdatePool, DeletePool])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @given(commands(kind), histories(*pools.EVENTS, *projects.EVENTS, *claims.EVENTS, *nodes.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@given(histories(*pools.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(POOL, history)
