"""Operations on a vCenter, from the request to the vCenter and back: through HTTP, the log and a worker."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testhide.engines import Engines
from tests.contract.operations import DOCUMENTED
from tests.contract.shape import same_shape
from tests.real.vcenter.simulated import PASSWORD, USER, Simulator
from tests.support.server import Server, server_on_new_database

from .conftest import StartSimulator

pytestmark = pytest.mark.real("go", "govmomi")


@pytest.fixture(name="server", scope="module")
def _server(engines: Engines, tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Server]:
    data, ca = tmp_path_factory.mktemp("data"), str(certificates / "ca.pem")
    names = ("serve", "project", "work")
    with server_on_new_database(engines, data, *names, outgoing_allow="127.0.0.0/8", vcenter_ca=ca) as server:
        yield server


@dataclass
class Connected:
    """A simulated vCenter that the server is connected to."""

    server: Server
    simulator: Simulator
    path: str

    def fetch(self, path: str = "") -> Any:
        return self.server.admin.get(f"{self.path}{path}").then(200)

    def vm(self, vm_id: str) -> Any:
        return next(vm for vm in self.fetch("/vms") if vm["vm_id"] == vm_id)

    def power(self, vm_id: str, action: str) -> Any:
        return self.server.admin.post(f"{self.path}/vm/power", json={"vm_id": vm_id, "action": action}, timeout=60)


def connect(server: Server, simulator: Simulator, **more: Any) -> Connected:
    body = {"name": "Lab", "host": simulator.host, "username": USER, "password": PASSWORD, "datacenter": "DC0"}
    created = server.admin.post("/api/v3/vcenter", json=body | more).then(201)
    return Connected(server, simulator, f"/api/v3/vcenter/{created['id']}")


@pytest.fixture(name="lab", scope="module")
def _lab(server: Server, simulator: Simulator) -> Connected:
    lab = connect(server, simulator)
    lab.server.admin.post(f"{lab.path}/sync").then(200)
    return lab


def until(is_true: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)  # between two looks


def test_the_requests_of_the_reference(lab: Connected) -> None:
    admin, at = lab.server.admin, "/api/v3/vcenter"

    def check(method: str, path: str, **changes: Any) -> Any:
        operation = DOCUMENTED[method, f"{at}{path}"]
        body = None if operation.request_example is None else operation.request_example | changes
        answer = admin.request(method, f"{lab.path.rpartition('/')[0]}{path.replace('{id}', known)}", json=body)
        assert answer.status_code == operation.status, answer.text
        assert same_shape(operation.response, answer.json()) == []
        return answer.json()

    known = lab.path.rpartition("/")[2]
    here = {"host": lab.simulator.host, "username": USER, "password": PASSWORD, "datacenter": "DC0"}
    known = str(check("POST", "", **here, cluster="DC0_C0")["id"])
    assert check("POST", "/{id}/test")["connected"]
    assert check("GET", "/{id}")["connected"]
    assert any(one["connected"] for one in check("GET", ""))
    assert check("POST", "/{id}/sync")["synced_vms"] == 4
    vm_id = lab.fetch("/vms")[0]["vm_id"]
    lab.power(vm_id, "power_off").then(200)
    assert check("POST", "/{id}/vm/power", vm_id=vm_id)["status"] == "powered_on"


def test_a_new_vcenter_connects(lab: Connected) -> None:
    until(lambda: lab.fetch()["connected"])
    assert lab.fetch()["vcenter_version"] == "6.5.0"
    tested = lab.server.admin.post(f"{lab.path}/test").then(200)
    assert (tested["connected"], tested["vcenter_version"], tested["error"]) == (True, "6.5.0", "")
    assert tested["latency_ms"] > 0


def test_a_wrong_password(server: Server, simulator: Simulator) -> None:
    wrong = connect(server, simulator, password="wrong")
    tested = server.admin.post(f"{wrong.path}/test").then(200)
    assert (tested["connected"], "password" in tested["error"]) == (False, True)
    assert wrong.fetch()["last_error"] == tested["error"]
    assert server.admin.post(f"{wrong.path}/sync").then(502)["detail"] == tested["error"]
    server.admin.put(wrong.path, json={"password": PASSWORD}).then(200)
    assert server.admin.post(f"{wrong.path}/test").then(200)["connected"]


def test_sync(lab: Connected) -> None:
    lab.server.admin.post(f"{lab.path}/sync").then(200)  # finds what tests before have changed
    synced = lab.server.admin.post(f"{lab.path}/sync").then(200)
    vms = lab.fetch("/vms")
    assert (synced["synced_vms"], synced["updated"], synced["duration_ms"] > 0) == (len(vms), 0, True)
    assert {vm["name"] for vm in vms} >= {"DC0_H0_VM0", "DC0_C0_RP0_VM0"}
    assert {vm["resource_pool"] for vm in vms} == {"Resources"}
    assert lab.fetch("/vms?limit=1&page=2") == vms[1:2]
    assert lab.fetch("/vms?power_state=suspended") == []


def test_power(lab: Connected) -> None:
    vm_id = lab.fetch("/vms")[0]["vm_id"]
    steps = (("power_off", "powered_off"), ("power_on", "powered_on"), ("suspend", "suspended"))
    for action, state in (*steps, ("power_on", "powered_on"), ("reboot", "powered_on")):
        answer = lab.power(vm_id, action).then(200)
        assert answer == {"vm_id": vm_id, "action": action, "status": state}
        assert lab.vm(vm_id)["power_state"] == state
    last = lab.fetch("/operations")[-1]
    assert (last["kind"], last["vm_id"], last["status"], last["error"]) == ("reboot", vm_id, "completed", "")
    assert lab.fetch(f"/operations/{last['id']}") == last | {"progress": None}


def test_what_the_state_forbids(lab: Connected) -> None:
    vm_id = lab.fetch("/vms")[1]["vm_id"]
    assert lab.power(vm_id, "power_on").then(409)["detail"] == "The machine is powered on."
    assert "no machine vm-99999" in lab.power("vm-99999", "power_on").then(404)["detail"]
    assert lab.power(vm_id, "explode").status_code == 422
    assert lab.power("../x", "power_on").status_code == 422


def test_a_lost_answer(lab: Connected) -> None:
    vm_id = lab.fetch("/vms")[2]["vm_id"]
    before = lab.simulator.count_calls("PowerOffVM_Task")
    lab.simulator.lose_answer("PowerOffVM_Task")
    assert lab.power(vm_id, "power_off").then(200)["status"] == "powered_off"
    assert lab.simulator.count_calls("PowerOffVM_Task") == before + 1


def test_a_worker_that_is_killed_in_mid_task(lab: Connected) -> None:
    vm_id = lab.fetch("/vms")[3]["vm_id"]
    before = lab.simulator.count_calls("PowerOffVM_Task")
    lab.simulator.ask("hold")
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(lab.power, vm_id, "power_off")
        until(lambda: lab.simulator.count_calls("PowerOffVM_Task") > before)
        lab.server.kill("work")
        lab.server.start("work")
        lab.simulator.ask("release")
        answer = asked.result(60)
    if answer.status_code == 504:  # the lease of the worker that was killed lasts as long as the request
        path = answer.headers["Location"]
        until(lambda: lab.server.admin.get(path).then(200)["status"] == "completed")
    until(lambda: lab.vm(vm_id)["power_state"] == "powered_off")
    assert lab.simulator.count_calls("PowerOffVM_Task") == before + 1


def test_a_vcenter_that_vanishes_in_mid_task(server: Server, start: StartSimulator) -> None:
    vanishing = connect(server, start())
    server.admin.post(f"{vanishing.path}/sync").then(200)
    vm_id = vanishing.fetch("/vms")[0]["vm_id"]
    vanishing.simulator.ask("hold")
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(vanishing.power, vm_id, "power_off")
        until(lambda: vanishing.simulator.count_calls("PowerOffVM_Task") > 0)
        vanishing.simulator.stop()
        answer = asked.result(60)
    assert answer.status_code == 504, "whether it was powered off is not known before the vCenter is back"
    shown = server.admin.get(answer.headers["Location"]).then(200)
    assert (shown["status"], shown["kind"]) == ("running", "power_off")
    assert server.admin.post(f"{vanishing.path}/sync").then(502)["detail"].endswith("Connection refused.")
    until(lambda: not vanishing.fetch()["connected"])


def test_clone_revert_and_delete(lab: Connected) -> None:
    template = lab.fetch("/vms")[0]["vm_id"]
    lab.simulator.lose_answer("CloneVM_Task")
    before = lab.simulator.count_calls("CloneVM_Task")
    made = lab.server.admin.post(f"{lab.path}/vms", json={"template_id": template}, timeout=60).then(201)
    assert (made["power_state"], lab.simulator.count_calls("CloneVM_Task")) == ("powered_on", before + 1)
    assert lab.vm(made["vm_id"])["name"] == made["name"]
    path = f"{lab.path}/vms/{made['vm_id']}"
    reverted = lab.server.admin.post(f"{path}/revert", timeout=60).then(200)
    assert reverted == {"vm_id": made["vm_id"], "power_state": "powered_on"}
    other = lab.server.admin.delete(f"{lab.path}/vms/{template}", timeout=60)
    assert "was not made by this server" in other.then(409)["detail"]
    assert lab.server.admin.delete(path, timeout=60).status_code == 204
    assert made["vm_id"] not in [vm["vm_id"] for vm in lab.fetch("/vms")]
    assert "no machine" in lab.server.admin.delete(path, timeout=60).then(404)["detail"]


def test_an_agent_registers_after_each_revert_as_the_same_node(lab: Connected) -> None:
    template = lab.fetch("/vms")[0]["vm_id"]
    made = lab.server.admin.post(f"{lab.path}/vms", json={"template_id": template}, timeout=60).then(201)
    tokens, nodes = [], set()
    for number in range(3):
        guestinfo = lab.simulator.read_guestinfo(made["name"])
        tokens.append(guestinfo["guestinfo.testhide.registration-token"])
        body = {"registration_token": tokens[-1], "agent_token": f"agt_{number}{'x' * 31}"}
        nodes.add(lab.server.client().post("/api/v3/agent/register", json=body).then(200)["node_id"])
        lab.server.admin.post(f"{lab.path}/vms/{made['vm_id']}/revert", timeout=60).then(200)
    assert (len(set(tokens)), len(nodes)) == (3, 1)
    used = {"registration_token": tokens[0], "agent_token": f"agt_0{'x' * 31}"}
    assert "not valid" in lab.server.client().post("/api/v3/agent/register", json=used).then(401)["detail"]
    lab.server.admin.delete(f"{lab.path}/vms/{made['vm_id']}", timeout=60)
