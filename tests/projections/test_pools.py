"""Node pools as rows."""

from datetime import UTC, datetime

from hypothesis import given

from domain import pools
from domain.core.events import Event
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from projections.pools import PROJECTION, PoolRow
from tests.support.given import histories
from tests.support.memory_rows import MemoryRows

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def test_a_pool() -> None:
    created = PoolCreated(
        at=NOW, pool_id=2, project_id=1, title="linux", labels={"a": "b"}, max_parallel=3, shared=True
    )
    rows = MemoryRows(PROJECTION).apply(created)
    assert rows.one(PoolRow) == PoolRow(2, 1, "linux", {"a": "b"}, 3, True, NOW)


def test_a_pool_changes() -> None:
    created = PoolCreated(at=NOW, pool_id=2, project_id=1, title="linux", max_parallel=3)
    update = PoolUpdated(pool_id=2, project_id=1, title="big", claim="c", labels={"a": "b"}, cleared=("max_parallel",))
    rows = MemoryRows(PROJECTION).apply(created, update)
    assert rows.one(PoolRow) == PoolRow(2, 1, "big", {"a": "b"}, None, False, NOW)
    assert rows.apply(PoolDeleted(pool_id=2, project_id=1)).all(PoolRow) == []


@given(histories(*pools.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    MemoryRows(PROJECTION).apply(*history)
