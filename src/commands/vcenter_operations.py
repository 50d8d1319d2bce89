"""Requests operations on a vCenter, and records how they ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from domain.core.events import AnyStream, Event
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    Failure,
    Kind,
    VcenterOperation,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
)


@dataclass(frozen=True)
class RequestVcenterOperation(Command):
    operation_id: int
    vcenter_id: int
    kind: Kind

    def reads(self) -> Sequence[AnyStream]:
        return VCENTER_OPERATION.at(self.operation_id), VCENTER.at(self.vcenter_id)

    def decide(self, operation: VcenterOperation | None, vcenter: Vcenter | None) -> Iterable[Event]:
        if operation is not None:
            return
        must_exist(vcenter, f"vCenter {self.vcenter_id}")
        yield self.event(VcenterOperationRequested)


@dataclass(frozen=True)
class CompleteVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records that an operation succeeded. Ignores an operation that has ended."""

    operation_id: int
    version: str = ""
    latency_ms: int = 0

    def decide(self, operation: VcenterOperation | None) -> Iterable[Event]:
        if operation is not None and operation.end is None:
            yield self.event(VcenterOperationCompleted, operation)


@dataclass(frozen=True)
class FailVcenterOperation(Command, of=VCENTER_OPERATION):
    """Records why an operation failed. Ignores an operation that has ended."""

    operation_id: int
    failure: Failure
    error: str

    def decide(self, operation: VcenterOperation | None) -> Iterable[Event]:
        if operation is not None and operation.end is None:
            yield self.event(VcenterOperationFailed, operation)
