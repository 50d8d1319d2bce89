"""Carries out operations on vCenters, and records how they ended."""

import asyncio
import contextlib
import secrets as randomness
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import assert_never
from urllib.parse import urlsplit

import structlog

from commands.handler import CommandContext, Handler
from commands.nodes import DeleteNode
from commands.registrations import make_registration_token
from commands.vcenter import RecordVcenterConnection
from commands.vcenter_operations import (
    REGISTRATION_LIFETIME,
    CompleteVcenterOperation,
    CompleteVmOperation,
    FailVcenterOperation,
    RecordVcenterSync,
    RecordVcenterVms,
    RenewVcenterRegistration,
    StartVcenterOperation,
)
from domain.core.errors import Erased, NotFound
from domain.loopback import is_loopback
from domain.vcenter import VCENTER, Vcenter
from domain.vcenter_operations import VCENTER_OPERATION, Failure, VcenterOperation, find_operation_id, make_machine_id
from domain.vcenter_vms import VCENTER_VMS, PowerAction, PowerState, VirtualMachine
from integrations.vcenter_ports import (
    NewMachine,
    TaskState,
    VcenterFailure,
    VcenterMissing,
    VcenterRejected,
    Vcenters,
    VcenterSession,
    VcenterStateForbids,
    VcenterUnavailable,
)
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog

log = structlog.get_logger()

OnProgress = Callable[[str], None]
"""Function that reports how much of an operation is done."""
CALLER = CommandContext("system:vcenter")
TASK_POLL_INTERVAL_S = 0.5
"""Seconds between two looks at a task of a vCenter."""
SNAPSHOT = "testhide"
"""Name of the snapshot that is taken of a new machine before it is first powered on."""
MAX_AGE = timedelta(hours=1)
"""Age of an operation at which it fails if the vCenter does not answer any more."""
STATES_AFTER: Mapping[PowerAction, PowerState] = {
    "power_on": "powered_on",
    "power_off": "powered_off",
    "suspend": "suspended",
    "reboot": "powered_on",
}


class OperationInterrupted(Exception):
    """The vCenter does not answer any more. A later try goes on with the operation."""


@dataclass(frozen=True)
class VcenterOperator:
    event_log: EventLog
    handler: Handler
    vcenters: Vcenters
    secrets: Secrets
    base_url: str
    """URL of the server, which agents in machines connect to."""
    clock: Callable[[], datetime]

    async def check(self, vcenter_id: int) -> None:
        """Signs in to a vCenter and looks for the datacenter, and records whether this succeeded."""
        vcenter = await self.event_log.load_state(VCENTER.at(vcenter_id))
        if vcenter is None or vcenter.deleted:
            return
        with contextlib.suppress(Erased):  # the integration was deleted meanwhile
            try:
                async with self.vcenters.sign_in(vcenter) as session:
                    await session.check()
                    await self._note_connection(vcenter_id, version=session.version)
            except VcenterFailure as failure:
                await self._note_connection(vcenter_id, error=str(failure))

    async def sync(self, vcenter_id: int) -> Sequence[VirtualMachine]:
        """Reads the machines of a vCenter, and records what has changed. Returns the machines, or no machines if
        reading failed.
        """
        vcenter = await self.event_log.load_state(VCENTER.at(vcenter_id))
        if vcenter is None or vcenter.deleted:
            return ()
        before = await self.event_log.load_state(VCENTER_VMS.at(vcenter_id))
        vms: Sequence[VirtualMachine] = ()
        with contextlib.suppress(Erased):  # the integration was deleted meanwhile
            try:
                async with self.vcenters.sign_in(vcenter) as session:
                    await session.check()
                    vms = await session.fetch_vms()
                    await self._note_connection(vcenter_id, version=session.version)
                await self.handler.execute(RecordVcenterVms(vcenter_id, vms, before), CALLER)
            except VcenterFailure as failure:
                log.info("a vCenter cannot be synced", vcenter=vcenter_id, error=str(failure))
                await self._note_connection(vcenter_id, error=str(failure))
        return vms

    async def carry_out(self, operation_id: int, on_progress: OnProgress) -> None:
        """Carries out an operation, and records its end. Does nothing if the operation has ended, or if the vCenter's
        integration was deleted. Raises OperationInterrupted if the vCenter does not answer any more after the operation
        began: a second call then goes on with the operation. So a change is not made twice, however often this is
        called.
        """
        operation = await self.event_log.load_state(VCENTER_OPERATION.at(operation_id))
        if operation is None or operation.end is not None:
            return
        vcenter = await self.event_log.load_state(VCENTER.at(operation.vcenter_id))
        if vcenter is None or vcenter.deleted:
            return
        with contextlib.suppress(Erased):  # the integration was deleted meanwhile
            try:
                await self._carry_out(operation, vcenter, on_progress)
            except VcenterUnavailable as failure:
                await self._interrupt(operation, failure)
            except VcenterFailure as failure:
                await self._fail(operation, _kind_of(failure), str(failure))

    async def _carry_out(self, operation: VcenterOperation, vcenter: Vcenter, on_progress: OnProgress) -> None:
        is_signed_in = False
        try:
            async with self.vcenters.sign_in(vcenter) as session:
                is_signed_in = True
                await self._perform(operation, vcenter, session, on_progress)
        except VcenterFailure as failure:
            if not is_signed_in or operation.kind in ("test", "sync"):
                await self._note_connection(vcenter.vcenter_id, error=str(failure))
            raise

    async def _perform(
        self, operation: VcenterOperation, vcenter: Vcenter, session: VcenterSession, on_progress: OnProgress
    ) -> None:
        match operation.kind:
            case "test":
                await session.check()
                await self._note_connection(operation.vcenter_id, version=session.version)
                done = CompleteVcenterOperation(operation.operation_id, session.version, session.latency_ms)
                await self.handler.execute(done, CALLER)
            case "sync":
                await session.check()
                began = monotonic()
                vms = await session.fetch_vms()
                duration_ms = round(1_000 * (monotonic() - began))
                await self._note_connection(operation.vcenter_id, version=session.version)
                synced = RecordVcenterSync(operation.operation_id, operation.vcenter_id, vms, duration_ms)
                await self.handler.execute(synced, CALLER)
            case "power_on" | "power_off" | "reboot" | "suspend":
                await self._change_power(operation, operation.kind, session, on_progress)
            case "clone":
                self._must_be_reachable(vcenter)
                await self._clone(operation, session, on_progress)
            case "revert":
                await self._revert(operation, session, on_progress)
            case "delete":
                await self._delete(operation, session, on_progress)
            case _:
                assert_never(operation.kind)

    async def _clone(self, operation: VcenterOperation, session: VcenterSession, on_progress: OnProgress) -> None:
        """Clones a template, takes a snapshot of the new machine, and powers it on. Goes on with the machine that an
        earlier try has made.
        """
        is_resumed = await self._resume(operation, session, on_progress)
        if not is_resumed and await session.find_vm_by_name(operation.vm_name) is None:
            await self._note_start(operation, "")
            task_id = await session.start_clone(self._describe(operation))
            await self._note_start(operation, task_id)
            await self._wait_for_task(session, task_id, on_progress)
        vm = await session.find_vm_by_name(operation.vm_name)
        if vm is None:
            raise VcenterMissing(f"The new machine {operation.vm_name} has vanished.")
        if vm.power_state != "powered_on":
            await self._wait_for_task(session, await session.start_snapshot(vm.vm_id, SNAPSHOT), on_progress)
            await self._power(session, vm.vm_id, "power_on", on_progress)
        await self._complete(operation, session, await session.find_vm(vm.vm_id))

    def _must_be_reachable(self, vcenter: Vcenter) -> None:
        """Raises VcenterRejected if no machine of the vCenter can reach this server, so that none could register."""
        host = urlsplit(self.base_url).hostname or ""
        if is_loopback(host) and not is_loopback(urlsplit(f"//{vcenter.host}").hostname or ""):
            raise VcenterRejected(
                f"Machines cannot reach this server at {self.base_url}, since {host} is the machine itself there: set"
                " TESTHIDE_BASE_URL to a URL that they reach, and let the server listen there."
            )

    def _describe(self, operation: VcenterOperation) -> NewMachine:
        annotation = f"Made by the Testhide server {self.base_url}, operation {operation.operation_id}."
        guestinfo = self._make_guestinfo(operation.operation_id, operation.registration_id)
        return NewMachine(operation.vm_name, operation.vm_id, annotation, guestinfo)

    def _make_guestinfo(self, clone_id: int, registration_id: str) -> Mapping[str, str]:
        token = make_registration_token(self.secrets, make_machine_id(clone_id), registration_id)
        return {"server": self.base_url, "registration-token": token}

    async def _revert(self, operation: VcenterOperation, session: VcenterSession, on_progress: OnProgress) -> None:
        """Reverts a machine to its state before it was first powered on, hands it a new registration token, and powers
        it on. If an earlier try has powered the machine on again, all of this is done already.
        """
        vm = await session.find_vm(operation.vm_id)
        clone = await self._find_clone(operation, vm)
        if not await self._resume(operation, session, on_progress):
            await self._note_start(operation, "")
            if vm.power_state != "powered_off":
                await self._power(session, vm.vm_id, "power_off", on_progress)
            task_id = await session.start_revert(vm.vm_id, SNAPSHOT)
            await self._note_start(operation, task_id)
            await self._wait_for_task(session, task_id, on_progress)
        if (await session.find_vm(vm.vm_id)).power_state != "powered_on":
            registration_id = randomness.token_hex(16)
            until = self.clock() + REGISTRATION_LIFETIME
            renewal = RenewVcenterRegistration(clone.operation_id, registration_id, until)
            await self.handler.execute(renewal, CALLER)
            guestinfo = self._make_guestinfo(clone.operation_id, registration_id)
            task_id = await session.start_reconfiguration(vm.vm_id, guestinfo)
            await self._wait_for_task(session, task_id, on_progress)
            await self._power(session, vm.vm_id, "power_on", on_progress)
        await self._complete(operation, session, await session.find_vm(vm.vm_id))

    async def _delete(self, operation: VcenterOperation, session: VcenterSession, on_progress: OnProgress) -> None:
        vm = await self._find_to_delete(operation, session)
        if vm is None:
            vm = VirtualMachine(operation.vm_id, operation.vm_name, "powered_off")
        else:
            clone = await self._find_clone(operation, vm)
            await self._note_start(operation, "")
            if clone.node_id is not None:
                with contextlib.suppress(NotFound):
                    await self.handler.execute(DeleteNode(clone.node_id), CALLER)
            if vm.power_state == "powered_on":
                await self._power(session, vm.vm_id, "power_off", on_progress)
            await self._wait_for_task(session, await session.start_deletion(vm.vm_id), on_progress)
        await self._complete(operation, session, vm, is_deleted=True)

    async def _find_to_delete(self, operation: VcenterOperation, session: VcenterSession) -> VirtualMachine | None:
        """Returns the machine to delete; None if the machine is gone. Raises VcenterMissing if a user asked for the
        deletion of a machine that is not there, and no earlier try has begun to delete it.
        """
        if operation.vm_name:
            return await session.find_vm_by_name(operation.vm_name)
        try:
            return await session.find_vm(operation.vm_id)
        except VcenterMissing:
            if not operation.is_started:
                raise
            return None

    async def _power(self, session: VcenterSession, vm_id: str, action: PowerAction, on_progress: OnProgress) -> None:
        if (task_id := await session.start_power_action(vm_id, action)) is not None:
            await self._wait_for_task(session, task_id, on_progress)

    async def _find_clone(self, operation: VcenterOperation, vm: VirtualMachine) -> VcenterOperation:
        """Returns the operation that has made the machine. Raises VcenterStateForbids if no operation on this vCenter
        has made it.
        """
        operation_id = find_operation_id(vm.name)
        made_by = None if operation_id is None else await self.event_log.load_state(VCENTER_OPERATION.at(operation_id))
        if made_by is None or (made_by.vm_name, made_by.vcenter_id) != (vm.name, operation.vcenter_id):
            raise VcenterStateForbids(f"Machine {vm.vm_id} was not made by this server, so it is left as it is.")
        return made_by

    async def _complete(
        self, operation: VcenterOperation, session: VcenterSession, vm: VirtualMachine, *, is_deleted: bool = False
    ) -> None:
        await self._note_connection(operation.vcenter_id, version=session.version)
        done = CompleteVmOperation(operation.operation_id, operation.vcenter_id, vm, is_deleted)
        await self.handler.execute(done, CALLER)

    async def _change_power(
        self,
        operation: VcenterOperation,
        action: PowerAction,
        session: VcenterSession,
        on_progress: OnProgress,
    ) -> None:
        before = await session.find_vm(operation.vm_id)
        if not await self._resume(operation, session, on_progress):
            is_done = operation.is_started and before.power_state == STATES_AFTER[action]
            if operation.is_started and action == "reboot":
                raise VcenterRejected(
                    f"The answer to the reboot of {operation.vm_id} was lost, so it is not known whether the machine"
                    " has rebooted."
                )
            if not is_done:
                await self._note_start(operation, "")
                task_id = await session.start_power_action(operation.vm_id, action)
                if task_id is not None:
                    await self._note_start(operation, task_id)
                    await self._wait_for_task(session, task_id, on_progress)
        await self._complete(operation, session, await session.find_vm(operation.vm_id))

    async def _resume(self, operation: VcenterOperation, session: VcenterSession, on_progress: OnProgress) -> bool:
        """Waits for the task that an earlier try has begun. Returns False if no earlier try has begun a task, or if the
        vCenter does not know the task any more.
        """
        if not operation.task_id:
            return False
        try:
            await self._wait_for_task(session, operation.task_id, on_progress)
        except VcenterMissing:
            return False
        return True

    async def _wait_for_task(self, session: VcenterSession, task_id: str, on_progress: OnProgress) -> TaskState:
        while not (task := await session.read_task(task_id)).is_done:
            on_progress(f"{task.progress} %")
            await asyncio.sleep(TASK_POLL_INTERVAL_S)
        return task

    async def _note_start(self, operation: VcenterOperation, task_id: str) -> None:
        await self.handler.execute(StartVcenterOperation(operation.operation_id, task_id), CALLER)

    async def _interrupt(self, operation: VcenterOperation, failure: VcenterFailure) -> None:
        """Records that an operation failed, since the vCenter does not answer. If the vCenter may have begun the
        operation and the operation is younger than MAX_AGE, raises OperationInterrupted instead.
        """
        now = await self.event_log.load_state(VCENTER_OPERATION.at(operation.operation_id))
        if now is None or not now.is_started:
            await self._fail(operation, "outside", str(failure))
        elif self.clock() - now.requested_at < MAX_AGE:
            raise OperationInterrupted(str(failure))
        else:
            await self._fail(operation, "timeout", f"{failure} It is not known how the operation ended.")

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
