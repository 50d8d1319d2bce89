"""Read model of the autoscaling of node pools: the setting of each pool, its machines, and the last decisions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec

from domain.autoscaling import (
    AutoscalingEvent,
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
from domain.core.events import Recorded
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, row_of
from projections.engine.queries import find_row
from store.postgres.queries import Source

VERSION = 2
MAX_DECISIONS = 50
"""Largest number of scaling decisions that are kept for each pool. When there are more, the oldest ones are dropped."""

DecisionKind = Literal["scaled_up", "scaled_down", "machine_reverted", "scaling_failed"]


class AutoscalingRow(Row, frozen=True):
    table = Table("autoscaling", VERSION)
    id: int
    """Id of the pool."""
    project_id: int
    minimum: int | None = None
    """None if the pool is not scaled any more, but still has machines."""
    maximum: int = 0
    idle_s: int = 0
    single_use: bool = False
    docker: dict[str, Any] | None = None
    vcenter: dict[str, Any] | None = None
    machines: dict[str, bool] = {}
    """Machine id -> whether the machine is being destroyed."""
    failures: int = 0
    retry_at: datetime | None = None
    decisions: list[dict[str, Any]] = []
    """The last MAX_DECISIONS decisions, the latest first."""


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    if not isinstance(event, AutoscalingEvent):
        return
    row = rows.get(AutoscalingRow, event.pool_id) or AutoscalingRow(event.pool_id, event.project_id)
    row = _changed(row, event, recorded.position)
    if row.minimum is None and not row.machines:
        yield Delete(AutoscalingRow, row.id)
    else:
        yield row


def _changed(row: AutoscalingRow, event: AutoscalingEvent, position: int) -> AutoscalingRow:
    replace = msgspec.structs.replace
    match event:
        case AutoscalingSet():
            shown: dict[str, Any] = {
                "failures": 0,
                "retry_at": None,
                "docker": msgspec.to_builtins(event.docker),
                "vcenter": msgspec.to_builtins(event.vcenter),
            }
            return replace(
                row,
                minimum=event.minimum,
                maximum=event.maximum,
                idle_s=event.idle_s,
                single_use=event.single_use,
                **shown,
            )
        case AutoscalingRemoved():
            return replace(row, minimum=None)
        case PoolScaledUp():
            decision = ScalingDecision(position, event.at, "scaled_up", event.machine_ids, event.reason, event.waiting)
            machines = row.machines | dict.fromkeys(event.machine_ids, False)
            return replace(row, machines=machines, decisions=_with(row, decision))
        case PoolScaledDown():
            names = [event.machine_id]
            decision = ScalingDecision(
                position, event.at, "scaled_down", names, event.reason, idle_since=event.idle_since
            )
            return replace(row, machines=_leaving(row, event.machine_id), decisions=_with(row, decision))
        case PoolMachineReverted():
            names = [event.machine_id]
            decision = ScalingDecision(position, event.at, "machine_reverted", names, event.reason)
            return replace(row, decisions=_with(row, decision))
        case PoolScalingFailed():
            names = [event.machine_id]
            decision = ScalingDecision(
                position, event.at, "scaling_failed", names, event.error, retry_at=event.retry_at
            )
            machines = _leaving(row, event.machine_id) if event.destroys else row.machines
            failed: dict[str, Any] = {"failures": event.failures, "retry_at": event.retry_at}
            return replace(row, machines=machines, decisions=_with(row, decision), **failed)
        case PoolMachineRemoved():
            return replace(row, machines={key: row.machines[key] for key in row.machines if key != event.machine_id})
        case _:
            return row


class ScalingDecision(msgspec.Struct, frozen=True):
    """A decision about the machines of a node pool."""

    position: int
    """Position in the log of the event that records the decision."""
    at: datetime
    kind: DecisionKind
    """`scaled_up`: machines were spawned. `scaled_down`: a machine is being destroyed. `machine_reverted`: a virtual
    machine is being reset to its snapshot. `scaling_failed`: a machine has failed.
    """
    machine_ids: list[str]
    """Machines that were spawned, destroyed or reverted, or the machine that failed."""
    reason: str
    """Why the decision was made; for `scaling_failed`, the error of the machine."""
    waiting: int | None = None
    """For `scaled_up`, number of queued builds that no node was free for."""
    idle_since: datetime | None = None
    """For `scaled_down`, time since which the machine had no build; null if it was not online."""
    retry_at: datetime | None = None
    """For `scaling_failed`, time until which no machine is spawned."""


def _with(row: AutoscalingRow, decision: ScalingDecision) -> list[dict[str, Any]]:
    added: dict[str, Any] = msgspec.to_builtins(decision)
    return [added, *row.decisions][:MAX_DECISIONS]


def _leaving(row: AutoscalingRow, machine_id: str) -> dict[str, bool]:
    return row.machines | {machine_id: True} if machine_id in row.machines else row.machines


PROJECTION = Projection(
    "autoscaling",
    VERSION,
    (AutoscalingRow,),
    row_of(AutoscalingRow, "pool_id", AutoscalingEvent),
    apply,
    handles=(AutoscalingEvent,),
)


class ScalingMachine(msgspec.Struct, frozen=True):
    id: str
    """For a container, the id of its Docker agent; for a virtual machine, `vm-` and the id of the operation that clones
    it.
    """
    leaving: bool
    """Whether the machine is being destroyed. It counts toward the pool's maximum until it is gone."""


class AutoscalingView(msgspec.Struct, frozen=True):
    pool_id: int
    minimum: int
    maximum: int
    idle_seconds: int
    docker: DockerSource | None
    """Where containers are spawned; null if the machines are virtual ones."""
    vcenter: VcenterSource | None
    """Template that virtual machines are cloned from; null if the machines are containers."""
    single_use: bool
    machines: list[ScalingMachine]
    """Machines that are not gone yet."""
    failures: int
    """Number of failures of machines in a row, as of the last failure; 0 if no machine has failed since the setting was
    changed.
    """
    retry_at: datetime | None
    """Time until which no machine is spawned, because of the last failure of a machine. Null if no machine has failed
    since the setting was changed.
    """
    decisions: list[ScalingDecision]
    """The last 50 decisions, the latest first."""


async def find_view(source: Source, pool_id: int) -> AutoscalingView | None:
    """Returns the autoscaling of a pool; None if the pool is not scaled."""
    row = await find_row(source, AutoscalingRow, pool_id)
    if row is None or row.minimum is None:
        return None
    return AutoscalingView(
        row.id,
        row.minimum,
        row.maximum,
        row.idle_s,
        msgspec.convert(row.docker, DockerSource | None),
        msgspec.convert(row.vcenter, VcenterSource | None),
        row.single_use,
        [ScalingMachine(machine_id, leaving) for machine_id, leaving in row.machines.items()],
        row.failures,
        row.retry_at,
        msgspec.convert(row.decisions, list[ScalingDecision]),
    )
