"""Which nodes get untrusted builds, and which builds get nodes of pools for these."""

from domain.builds import BuildApproved, BuildRequeued
from domain.pools import PoolUpdated
from tests.workers.test_dispatch_state import PROJECT, after, assigned, ids, job, node, placed, pool, queued, reasons
from workers.dispatch.placement import REASON_AWAITS_APPROVAL, REASON_TRUSTED_POOLS


def test_an_untrusted_pool_runs_ordinary_builds_only_of_jobs_that_name_it() -> None:
    history = (job(), pool(7, untrusted=True, labels={"os": "linux"}), *node(3, pool=7))
    assert placed(after(*history, queued(1), polls={3: 1})) == []
    assert placed(after(*history, queued(1, pool_labels={"os": "linux"}), polls={3: 1})) == []
    assert placed(after(*history, queued(1, pool=7), polls={3: 1})) == [(1, 3)]


def test_an_untrusted_build_runs_in_untrusted_pools_once_it_is_approved() -> None:
    approved = BuildApproved(**ids(1))
    history = (job(), pool(7), *node(3, pool=7), *node(4), queued(1, untrusted=True))
    polls = {3: 1, 4: 1}
    assert reasons(*history) == [REASON_AWAITS_APPROVAL]
    assert reasons(*history, approved) == [REASON_TRUSTED_POOLS]
    assert placed(after(*history, approved, polls=polls)) == []
    opened = PoolUpdated(pool_id=7, project_id=PROJECT, untrusted=True)
    assert placed(after(*history, opened, polls=polls)) == []
    assert placed(after(*history, opened, approved, polls=polls)) == [(1, 3)]
    lost = BuildRequeued(**ids(1), node_id=3, attempt=1, reason="agent_lost")
    assert placed(after(*history, opened, approved, assigned(1), lost, polls=polls)) == [(1, 3)], "it stays approved"
    closed = PoolUpdated(pool_id=7, project_id=PROJECT, untrusted=False)
    assert placed(after(*history, opened, approved, closed, polls=polls)) == []
