"""Node pools."""

import pytest
from hypothesis import given

from commands.pools import CreatePool
from domain import claims, pools, projects
from domain.base import Event
from domain.claims import ClaimTaken
from domain.errors import Conflict, NotFound
from domain.pools import POOL, PoolCreated
from domain.projects import ProjectCreated
from tests.commands.given import commands, decided, folds, histories, is_decided_once

PROJECT = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"")
CREATE = CreatePool(2, 1, "linux", "pool-name-1", labels={"arch": "amd64"}, max_parallel=10)
CREATED = PoolCreated(pool_id=2, project_id=1, title="linux", labels={"arch": "amd64"}, max_parallel=10)
TAKEN = ClaimTaken(claim="pool-name-1", owner="node-pool-2")


def test_create() -> None:
    assert decided(CREATE, PROJECT) == [TAKEN, CREATED]
    assert decided(CREATE, PROJECT, TAKEN, CREATED) == []


def test_a_pool_needs_its_project() -> None:
    with pytest.raises(NotFound):
        decided(CREATE)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(Conflict, match="linux"):
        decided(CREATE, PROJECT, ClaimTaken(claim="pool-name-1", owner="node-pool-1"))


@given(commands(CreatePool), histories(*pools.EVENTS, *projects.EVENTS, *claims.EVENTS))
def test_deciding_again_does_nothing(command: CreatePool, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(histories(*pools.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(POOL, history)
