"""A node pool whose machines are cloned in a vCenter, and reverted after each build. The simulator runs no programs in
its machines, so the test runs an agent for each, with what the machine finds in its guestinfo.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import build_zipapp
from testhide.engines import Engines
from tests.real.vcenter.simulated import PASSWORD, USER, Simulator
from tests.support.builders import given_job, given_pool, given_project
from tests.support.server import Server, server_on_new_database

pytestmark = pytest.mark.real("go", "govmomi")
END_TIMEOUT_S = 120.0
MAXIMUM = 2


@dataclass
class Machines:
    """The machines of the simulator that the server has made, with an agent in each."""

    simulator: Simulator
    folder: Path
    agents: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    """Name of a machine -> how often it was started with another registration token."""
    most: int = 0
    """Largest number of machines at the same time."""
    _tokens: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Starts agents in machines that are new or were reverted, and ends those of machines that are gone. Returns
        the machines' names.
        """
        names = [name for name in self.simulator.list_names() if name.startswith("testhide-")]
        self.most = max(self.most, len(names))
        for name in self.agents.keys() - set(names):
            self._end(self.agents.pop(name))
        for name in names:
            guestinfo = self.simulator.read_guestinfo(name)
            token = guestinfo["guestinfo.testhide.registration-token"]
            if token != self._tokens.get(name):
                if name in self.agents:
                    self._end(self.agents.pop(name))
                self._tokens[name] = token
                self._start(name, guestinfo["guestinfo.testhide.server"], token)
        return names

    def _start(self, name: str, server: str, token: str) -> None:
        self.starts[name] = self.starts.get(name, 0) + 1
        folder = self.folder / f"{name}-{self.starts[name]}"
        folder.mkdir()
        file = folder / "token"
        file.write_text(token)
        file.chmod(0o600)
        options = ["--server", server, "--registration-file", str(file), "--workdir", str(folder / "work")]
        program = [sys.executable, "-I", str(self.folder / "agent.pyz"), *options, "--trust-builds"]
        with (folder / "log").open("wb") as log:
            self.agents[name] = subprocess.Popen(program, stdout=log, stderr=log)

    def end(self) -> None:
        for agent in self.agents.values():
            self._end(agent)

    def _end(self, agent: "subprocess.Popen[bytes]") -> None:
        agent.terminate()
        agent.wait(30)


@pytest.fixture(name="machines")
def _machines(simulator: Simulator, tmp_path: Path) -> Iterator[Machines]:
    (tmp_path / "agent.pyz").write_bytes(build_zipapp())
    machines = Machines(simulator, tmp_path)
    yield machines
    machines.end()


@pytest.fixture(name="server", scope="module")
def _server(engines: Engines, tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Server]:
    data, ca = tmp_path_factory.mktemp("data"), str(certificates / "ca.pem")
    names = ("serve", "project", "dispatch", "work")
    with server_on_new_database(engines, data, *names, outgoing_allow="127.0.0.0/8", vcenter_ca=ca) as server:
        yield server


def test_an_empty_pool_drains_a_queue_and_goes_to_its_minimum(
    server: Server, simulator: Simulator, machines: Machines
) -> None:
    admin = server.admin
    account = {"name": "Lab", "host": simulator.host, "username": USER, "password": PASSWORD, "datacenter": "DC0"}
    vcenter = admin.post("/api/v3/vcenter", json=account).then(201)["id"]
    admin.post(f"/api/v3/vcenter/{vcenter}/sync").then(200)
    template = admin.get(f"/api/v3/vcenter/{vcenter}/vms").then(200)[0]["vm_id"]
    project = given_project(server)
    pool = given_pool(server, project)
    job = given_job(server, project, node_pool_id=pool, max_parallel=100)
    configuration = {"command": "true", "setup": [], "env": {}, "artifacts": []}
    admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).then(200)
    setting = {
        "maximum": MAXIMUM,
        "idle_seconds": 5,
        "single_use": True,
        "vcenter": {"vcenter_id": vcenter, "template_id": template},
    }
    path = f"/api/v3/node-pools/{pool}/autoscaling"
    builds = [admin.post("/api/v3/builds/start", json={"job_id": job}).then(201)["id"] for _ in range(4)]
    admin.put(path, json=setting).then(200)

    def show(build: int) -> Any:
        return admin.get(f"/api/v3/builds/{build}").then(200)

    deadline = time.monotonic() + END_TIMEOUT_S
    while not all(show(build)["status"] == "passed" for build in builds):
        machines.run()
        assert time.monotonic() < deadline, ([show(build) for build in builds], admin.get(path).then(200))
        time.sleep(0.1)  # between two looks; the deadline is above
    while machines.run() or admin.get(path).then(200)["machines"]:
        assert time.monotonic() < deadline, admin.get(path).then(200)
        time.sleep(0.1)
    assert machines.most == MAXIMUM
    assert len({show(build)["node_id"] for build in builds}) == MAXIMUM, "a machine that was reverted stays its node"
    assert sum(machines.starts.values()) == MAXIMUM + len(builds), "each build had a machine as it was at its start"
    kinds = Counter(one["kind"] for one in admin.get(path).then(200)["decisions"])
    assert (kinds["machine_reverted"], kinds["scaled_down"], kinds["scaling_failed"]) == (len(builds), MAXIMUM, 0)
