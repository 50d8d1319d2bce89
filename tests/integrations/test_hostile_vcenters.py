"""vCenters whose answers have no end, or are too long to be stored."""

from collections.abc import Sequence
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import StubAdapterBase

from integrations.vcenter import inventory
from integrations.vcenter.faults import to_failure
from integrations.vcenter.inventory import COLLECTOR, PAGE_SIZE
from integrations.vcenter.machines import start_power_action
from integrations.vcenter_ports import VcenterRejected

DATACENTER = "DC-Main"


class FakeVcenter(StubAdapterBase):
    """Answers the calls of pyVmomi. Every list has `pages` pages, all alike."""

    def __init__(self, pages: int = 1, name: str = DATACENTER, vm_id: str = "vm-1") -> None:
        super().__init__("vim.version.version11")  # type: ignore[no-untyped-call]
        self._pages, self._name, self._vm_id = pages, name, vm_id
        self._kind: Any = None
        self.content = vim.ServiceInstanceContent(
            rootFolder=vim.Folder("group-d1", self),
            viewManager=vim.view.ViewManager("views", self),
            propertyCollector=COLLECTOR("collector", self),
        )

    def InvokeMethod(self, mo: Any, info: Any, args: Sequence[Any], *_: Any) -> Any:
        match info.wsdlName:
            case "CreateContainerView":
                return vim.view.ContainerView("view", self)
            case "RetrievePropertiesEx":
                self._kind, self._left = args[0][0].propSet[0].type, self._pages
                return self._page()
            case "ContinueRetrievePropertiesEx":
                return self._page()
            case "PowerOnVM_Task":
                return vim.Task("task-" + "1" * 10_000, self)
            case _:
                return None

    def _page(self) -> Any:
        self._left -= 1
        is_machine = self._kind is vim.VirtualMachine
        name = self._name if is_machine else DATACENTER
        found = COLLECTOR.ObjectContent(
            obj=self._kind(self._vm_id if is_machine else "object-1", self),
            propSet=[vmodl.DynamicProperty(name="name", val=name)],
        )
        return COLLECTOR.RetrieveResult(token="more" if self._left else None, objects=[found] * PAGE_SIZE)


def test_a_list_without_an_end() -> None:
    endless = FakeVcenter(pages=10**9)
    with pytest.raises(VcenterRejected, match="more than 50,000 objects"):
        inventory.find_datacenter(endless.content, "another")


@pytest.mark.parametrize("fake", [FakeVcenter(name="x" * 1_000), FakeVcenter(vm_id="vm-" + "1" * 1_000)])
def test_names_and_ids_that_are_too_long(fake: FakeVcenter) -> None:
    with pytest.raises(ValueError, match="characters") as refused:
        inventory.read_vms(fake.content, DATACENTER)
    assert "does not answer like a vCenter" in str(to_failure(refused.value, "vc.example.com"))


def test_the_id_of_a_task_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="characters"):
        start_power_action(vim.VirtualMachine("vm-1", FakeVcenter()), "power_on")


def test_ordinary_answers_are_read() -> None:
    fake = FakeVcenter(name="Web%2f1")
    assert {vm.name for vm in inventory.read_vms(fake.content, DATACENTER)} == {"Web/1"}
