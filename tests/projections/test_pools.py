"""Node pools as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import pools
from domain.core.events import Event
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from projections.pools import PROJECTION, PoolRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def test_a_pool() -> None:
    created = PoolCreated(
        at=NOW, pool_id=2, project_id=1, title="linux", labels={"a": "b"}, max_parallel=3, shared=True
    )
    rows = given(created).when(PROJECTION)
    assert rows.one(PoolRow) == PoolRow(2, 1, "linux", {"a": "b"}, 3, True, False, NOW)


def test_a_pool_changes() -> None:
    created = PoolCreated(at=NOW, pool_id=2, project_id=1, title="linux", max_parallel=3)
    update = PoolUpdated(
        pool_id=2, project_id=1, title="big", claim="c", labels={"a": "b"}, untrusted=True, cleared=("max_parallel",)
    )
    rows = given(created, update).when(PROJECTION)
    assert rows.one(PoolRow) == PoolRow(2, 1, "big", {"a": "b"}, None, False, True, NOW)
    assert rows.apply(PoolDeleted(pool_id=2, project_id=1)).all(PoolRow) == []


@hypothesis.given(histories(*pools.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
