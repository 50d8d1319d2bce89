"""Carries out operations on vCenters, and records how they ended."""

import contextlib
from dataclasses import dataclass

import structlog

from commands.handler import CommandContext, Handler
from commands.vcenter import RecordVcenterConnection
from commands.vcenter_operations import CompleteVcenterOperation, FailVcenterOperation
from domain.core.errors import Erased
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import VCENTER_OPERATION, Failure, VcenterOperation
from integrations.vcenter_ports import (
    VcenterFailure,
    VcenterMissing,
    Vcenters,
    VcenterSession,
    VcenterStateForbids,
)
from store.log.event_log import EventLog

log = structlog.get_logger()

CALLER = CommandContext("system:vcenter")


@dataclass(frozen=True)
class VcenterOperator:
    event_log: EventLog
    handler: Handler
    vcenters: Vcenters

    async def check(self, vcenter_id: int) -> None:
        """Signs in to a vCenter, and records whether this succeeded."""
        vcenter = await self.event_log.load_state(VCENTER.at(vcenter_id))
        if vcenter is None or vcenter.deleted:
            return
        with contextlib.suppress(Erased):  # the integration was deleted meanwhile
            try:
                async with self.vcenters.sign_in(vcenter) as session:
                    await self._note_connection(vcenter_id, version=session.version)
            except VcenterFailure as failure:
                await self._note_connection(vcenter_id, error=str(failure))

    async def carry_out(self, operation_id: int) -> None:
        """Carries out an operation, and records its end. Does nothing if it has ended, or if the vCenter's integration
        was deleted.
        """
        operation = await self.event_log.load_state(VCENTER_OPERATION.at(operation_id))
        if operation is None or operation.end is not None:
            return
        vcenter = await self.event_log.load_state(VCENTER.at(operation.vcenter_id))
        if vcenter is None or vcenter.deleted:
            return
        with contextlib.suppress(Erased):  # the integration was deleted meanwhile
            try:
                await self._carry_out(operation, vcenter)
            except VcenterFailure as failure:
                await self._fail(operation, _kind_of(failure), str(failure))

    async def _carry_out(self, operation: VcenterOperation, vcenter: Vcenter) -> None:
        is_signed_in = False
        try:
            async with self.vcenters.sign_in(vcenter) as session:
                is_signed_in = True
                await self._note_connection(vcenter.vcenter_id, version=session.version)
                await self._perform(operation, session)
        except VcenterFailure as failure:
            if not is_signed_in:
                await self._note_connection(vcenter.vcenter_id, error=str(failure))
            raise

    async def _perform(self, operation: VcenterOperation, session: VcenterSession) -> None:
        match operation.kind:
            case "test":
                await session.check()
                done = CompleteVcenterOperation(operation.operation_id, session.version, session.latency_ms)
                await self.handler.execute(done, CALLER)

    async def _note_connection(self, vcenter_id: int, version: str = "", error: str = "") -> None:
        await self.handler.execute(RecordVcenterConnection(vcenter_id, version, error), CALLER)

    async def _fail(self, operation: VcenterOperation, failure: Failure, error: str) -> None:
        log.warning("an operation on a vCenter failed", operation=operation.operation_id, failure=failure)
        await self.handler.execute(FailVcenterOperation(operation.operation_id, failure, error), CALLER)


def _kind_of(failure: VcenterFailure) -> Failure:
    match failure:
        case VcenterMissing():
            return "missing"
        case VcenterStateForbids():
            return "refused"
        case _:
            return "outside"
