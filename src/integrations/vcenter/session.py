"""A session at a vCenter. pyVmomi blocks, so each call runs on a thread, and is broken off when its time is over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from pyVmomi import vim

from domain.vcenter_vms import PowerAction, VirtualMachine
from integrations.vcenter import inventory, machines
from integrations.vcenter.connection import CheckedHost, VcenterStub
from integrations.vcenter.faults import to_failure
from integrations.vcenter_ports import NewMachine, TaskState, VcenterUnavailable

T = TypeVar("T")

CALL_TIMEOUT_S = 10.0
"""Longest time in seconds of a call, or of signing in."""
INVENTORY_TIMEOUT_S = 120.0
"""Longest time in seconds to read the inventory: a vCenter may have 10,000 machines."""
SIGN_OUT_TIMEOUT_S = 2.0
"""Longest time in seconds to sign out. The vCenter ends a session that is left open after half an hour."""
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="vcenter")
"""Threads for all calls of vCenters in this process. An operation makes one call at a time."""


class PyVmomiSession:
    """Implements `VcenterSession`."""

    def __init__(self, checked: CheckedHost, datacenter: str, cluster: str) -> None:
        self.version, self.latency_ms = "", 0
        self._stub = VcenterStub(checked)
        self._title = checked.title
        self._datacenter, self._cluster = datacenter, cluster
        self._content: Any = None

    async def open(self, user: str, password: str) -> None:
        await self._call(CALL_TIMEOUT_S, self._sign_in, user, password)

    async def close(self) -> None:
        if self._content is not None:
            try:
                await self._call(SIGN_OUT_TIMEOUT_S, self._content.sessionManager.Logout)
            except Exception as error:
                to_failure(error, self._title)  # raises errors that are no failures of the vCenter
        self._stub.close()

    async def check(self) -> None:
        await self._call(CALL_TIMEOUT_S, self._check)

    async def fetch_vms(self) -> Sequence[VirtualMachine]:
        return await self._call(INVENTORY_TIMEOUT_S, inventory.read_vms, self._content, self._datacenter)

    async def find_vm(self, vm_id: str) -> VirtualMachine:
        return await self._call(CALL_TIMEOUT_S, self._find_vm, vm_id)

    async def find_vm_by_name(self, name: str) -> VirtualMachine | None:
        return await self._call(CALL_TIMEOUT_S, inventory.find_vm_by_name, self._content, self._datacenter, name)

    async def start_power_action(self, vm_id: str, action: PowerAction) -> str | None:
        return await self._call(CALL_TIMEOUT_S, self._on, machines.start_power_action, vm_id, action)

    async def start_clone(self, machine: NewMachine) -> str:
        start = partial(machines.start_clone, self._content, self._datacenter, self._cluster)
        return await self._call(CALL_TIMEOUT_S, self._on, start, machine.template_id, machine)

    async def start_snapshot(self, vm_id: str, name: str) -> str:
        return await self._call(CALL_TIMEOUT_S, self._on, machines.start_snapshot, vm_id, name)

    async def start_revert(self, vm_id: str, name: str) -> str:
        return await self._call(CALL_TIMEOUT_S, self._on, machines.start_revert, vm_id, name)

    async def start_reconfiguration(self, vm_id: str, guestinfo: Mapping[str, str]) -> str:
        return await self._call(CALL_TIMEOUT_S, self._on, machines.start_reconfiguration, vm_id, guestinfo)

    async def start_deletion(self, vm_id: str) -> str:
        return await self._call(CALL_TIMEOUT_S, self._on, machines.start_deletion, vm_id)

    async def read_task(self, task_id: str) -> TaskState:
        return await self._call(CALL_TIMEOUT_S, machines.read_task, self._content, vim.Task(task_id, self._stub))

    def _sign_in(self, user: str, password: str) -> None:
        began = monotonic()
        content: Any = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        self.latency_ms = round(1_000 * (monotonic() - began))
        content.sessionManager.Login(user, password)
        self.version, self._content = inventory.must_be_short(str(content.about.version)), content

    def _check(self) -> None:
        found = inventory.find_datacenter(self._content, self._datacenter)
        if self._cluster:
            machines.find_cluster_pool(self._content, found, self._cluster)

    def _find_vm(self, vm_id: str) -> VirtualMachine:
        return inventory.read_vm(self._content, self._datacenter, vim.VirtualMachine(vm_id, self._stub))

    def _on(self, start: Callable[..., T], vm_id: str, *arguments: Any) -> T:
        """Calls `start` with the machine `vm_id` and with `arguments`, and returns the result of `start`. Raises
        VcenterMissing if the datacenter has no such machine.
        """
        vm = vim.VirtualMachine(vm_id, self._stub)
        inventory.must_be_in(self._content, self._datacenter, vm)
        return start(vm, *arguments)

    async def _call(self, timeout_s: float, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function on a thread. Raises VcenterFailure for an error of pyVmomi or a call that takes too long.
        After a call that took too long, the session cannot be used any more.
        """
        calling = asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(calling)
        except TimeoutError:
            raise VcenterUnavailable(f"{self._title} did not answer within {timeout_s:.0f} s.") from None
        except Exception as error:
            raise to_failure(error, self._title) from None
        finally:
            if not calling.done():
                self._stub.close()
                calling.add_done_callback(_forget)


def _forget(calling: "asyncio.Future[Any]") -> None:
    """Reads the error of a call that was broken off. Otherwise asyncio would log this error."""
    if not calling.cancelled():
        calling.exception()


@asynccontextmanager
async def open_session(
    checked: CheckedHost, user: str, password: str, datacenter: str, cluster: str
) -> AsyncIterator[PyVmomiSession]:
    """Context manager that signs in, and signs out at the end of the block. Raises VcenterFailure."""
    session = PyVmomiSession(checked, datacenter, cluster)
    try:
        await session.open(user, password)
        yield session
    finally:
        await session.close()
