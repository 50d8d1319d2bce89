"""The autoscaling of node pools as rows."""

from datetime import UTC, datetime
from typing import Any

import hypothesis
import msgspec

from domain import autoscaling
from domain.autoscaling import (
    AutoscalingRemoved,
    AutoscalingSet,
    DockerSource,
    PoolMachineRemoved,
    PoolMachineReverted,
    PoolScaledDown,
    PoolScaledUp,
    PoolScalingFailed,
    VcenterSource,
)
from domain.core.events import Event
from projections.autoscaling import MAX_DECISIONS, PROJECTION, AutoscalingRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
IDS: dict[str, Any] = {"pool_id": 3, "project_id": 1, "at": NOW}
SET = AutoscalingSet(**IDS, minimum=1, maximum=4, idle_s=300, docker=DockerSource("here", "image:1", 512))
UP = PoolScaledUp(**IDS, machine_ids=["a", "b"], waiting=2, reason="2 builds wait for a free node")
DOWN = PoolScaledDown(**IDS, machine_id="a", cause="idle", reason="it had no build for 300 s", idle_since=NOW)
FAILED = PoolScalingFailed(**IDS, machine_id="b", error="no such image", failures=1, retry_at=LATER)


def row_after(*events: Event) -> AutoscalingRow:
    return given(*events).when(PROJECTION).one(AutoscalingRow)


def test_a_setting() -> None:
    docker = {"host": "here", "image": "image:1", "memory_mb": 512, "cpus": None}
    assert row_after(SET) == AutoscalingRow(3, 1, 1, 4, 300, False, docker)
    virtual = msgspec.structs.replace(SET, docker=None, vcenter=VcenterSource(5, "vm-42"))
    source = {"vcenter_id": 5, "template_id": "vm-42"}
    assert row_after(SET, virtual) == AutoscalingRow(3, 1, 1, 4, 300, False, None, source)


def test_decisions_and_machines() -> None:
    row = row_after(SET, UP, DOWN, FAILED)
    assert row.machines == {"a": True, "b": True}
    assert (row.failures, row.retry_at) == (1, LATER)
    assert [(one["kind"], one["machine_ids"], one["reason"]) for one in row.decisions] == [
        ("scaling_failed", ["b"], "no such image"),
        ("scaled_down", ["a"], "it had no build for 300 s"),
        ("scaled_up", ["a", "b"], "2 builds wait for a free node"),
    ]
    reverted = row_after(SET, UP, PoolMachineReverted(**IDS, machine_id="a", reason="it has had its only build"))
    assert (reverted.machines, reverted.decisions[0]["kind"]) == ({"a": False, "b": False}, "machine_reverted")
    gone = PoolMachineRemoved(**IDS, machine_id="a")
    assert row_after(SET, UP, DOWN, gone).machines == {"b": False}
    assert row_after(SET, UP, FAILED, SET).failures == 0
    again = PoolScalingFailed(**IDS, machine_id="b", error="x", failures=1, retry_at=LATER, destroys=False)
    assert row_after(SET, UP, again).machines == {"a": False, "b": False}
    assert len(row_after(SET, UP, *[again] * 60).decisions) == MAX_DECISIONS


def test_a_pool_that_is_not_scaled_is_kept_until_its_machines_are_gone() -> None:
    removed = AutoscalingRemoved(**IDS)
    row = row_after(SET, UP, removed)
    assert (row.minimum, len(row.machines)) == (None, 2)
    gone = [PoolMachineRemoved(**IDS, machine_id=name) for name in ("a", "b")]
    assert given(SET, UP, removed, *gone).when(PROJECTION).all(AutoscalingRow) == []


@hypothesis.given(histories(*autoscaling.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
