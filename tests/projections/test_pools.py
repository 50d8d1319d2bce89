"""Node pools as rows."""

from datetime import UTC, datetime

from domain.pools import PoolCreated
from projections.pools import PROJECTION, PoolRow
from tests.projections.memory import MemoryRows

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)


def test_a_pool() -> None:
    created = PoolCreated(
        at=NOW, pool_id=2, project_id=1, title="linux", labels={"a": "b"}, max_parallel=3, shared=True
    )
    rows = MemoryRows(PROJECTION).apply(created)
    assert rows.one(PoolRow) == PoolRow(2, 1, "linux", {"a": "b"}, 3, True, NOW)
