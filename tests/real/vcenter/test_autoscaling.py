"""A node pool whose machines are cloned in a vCenter, and reverted after each build. The simulator runs no programs in
its machines, so the test runs an agent for each, with what the machine finds in its guestinfo.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
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
            token = guestinfo.get("guestinfo.testhide.registration-token")
            if token is not None and token != self._tokens.get(name):
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


class ScaledPool:
    """A node pool that is scaled with machines for one build each, and a job whose builds run only there."""

    def __init__(self, server: Server, simulator: Simulator, builds: int) -> None:
        self.admin = admin = server.admin
        account = {"name": "Lab", "host": simulator.host, "username": USER, "password": PASSWORD, "datacenter": "DC0"}
        vcenter = admin.post("/api/v3/vcenter", json=account).then(201)["id"]
        admin.post(f"/api/v3/vcenter/{vcenter}/sync").then(200)
        template = admin.get(f"/api/v3/vcenter/{vcenter}/vms").then(200)[0]["vm_id"]
        project = given_project(server)
        pool = given_pool(server, project)
        job = given_job(server, project, node_pool_id=pool, max_parallel=100)
        configuration = {"command": "true", "setup": [], "env": {}, "artifacts": []}
        admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).then(200)
        self.path = f"/api/v3/node-pools/{pool}/autoscaling"
        starts = (admin.post("/api/v3/builds/start", json={"job_id": job}) for _ in range(builds))
        self.builds = [start.then(201)["id"] for start in starts]
        source = {"vcenter_id": vcenter, "template_id": template}
        setting = {"maximum": MAXIMUM, "idle_seconds": 5, "single_use": True, "vcenter": source}
        admin.put(self.path, json=setting).then(200)

    def show(self) -> Any:
        return self.admin.get(self.path).then(200)

    def show_builds(self) -> list[Any]:
        return [self.admin.get(f"/api/v3/builds/{build}").then(200) for build in self.builds]

    def count_passed(self) -> int:
        return sum(build["status"] == "passed" for build in self.show_builds())

    def is_busy(self, passed: int) -> bool:
        """Returns whether so many builds have passed, and there are machines."""
        return self.count_passed() >= passed and bool(self.show()["machines"])

    def run(self, machines: Machines, is_done: Callable[[], bool]) -> None:
        """Lets the agents of the machines run until something is so."""
        deadline = time.monotonic() + END_TIMEOUT_S
        machines.run()
        while not is_done():
            machines.run()
            assert time.monotonic() < deadline, (self.show_builds(), self.show())
            time.sleep(0.1)  # between two looks; the deadline is above

    def run_to_end(self, machines: Machines) -> None:
        """Lets the agents run until all builds have passed and no machine is left."""
        self.run(machines, lambda: self.count_passed() == len(self.builds))
        self.run(machines, lambda: not machines.run() and not self.show()["machines"])


def test_an_empty_pool_drains_a_queue_and_goes_to_its_minimum(
    server: Server, simulator: Simulator, machines: Machines
) -> None:
    scaled = ScaledPool(server, simulator, builds=4)
    scaled.run_to_end(machines)
    assert machines.most == MAXIMUM
    nodes = {build["node_id"] for build in scaled.show_builds()}
    assert len(nodes) == MAXIMUM, "a machine that was reverted stays its node"
    assert sum(machines.starts.values()) == MAXIMUM + 4, "each build had a machine as it was at its start"
    kinds = Counter(one["kind"] for one in scaled.show()["decisions"])
    assert (kinds["machine_reverted"], kinds["scaled_down"], kinds["scaling_failed"]) == (4, MAXIMUM, 0)


def test_a_dispatcher_and_a_worker_that_are_killed_leave_no_machine_and_lose_no_build(
    server: Server, simulator: Simulator, machines: Machines
) -> None:
    scaled = ScaledPool(server, simulator, builds=6)
    for number, process in enumerate(("work", "dispatch", "work")):
        # While machines are being cloned, then while they are being reverted.
        scaled.run(machines, partial(scaled.is_busy, passed=number))
        server.kill(process)
        server.start(process)
    scaled.run_to_end(machines)
    assert machines.most <= MAXIMUM
    assert [name for name in simulator.list_names() if name.startswith("testhide-")] == []
