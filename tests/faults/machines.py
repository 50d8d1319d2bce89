"""Machines on demand during the faults: containers on a Docker engine, and virtual machines of a vCenter.

The engine is a `dockerd` of the suite's own, and the vCenter is govmomi's simulator. The server reaches both, and the
containers reach the server, through proxies.
"""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from domain.vcenter_operations import VM_NAME_PREFIX, find_operation_id
from tests.faults.client import ANSWER_TIMEOUT_S, RETRY_DELAY_S, Answer, RetryingClient
from tests.faults.stack import Stack, Unit
from tests.real.conftest import GOVMOMI
from tests.real.docker.daemon import HOST, IMAGE, NETWORK, Daemon
from tests.real.vcenter.simulated import (
    PASSWORD,
    USER,
    Simulator,
    build_simulator,
    make_certificates,
    start_simulator,
)

LABEL = "io.testhide.agent"
MAXIMUM = 2
"""Largest number of machines of the pool that is scaled."""
IDLE_S = 5
COMMAND = "echo begin; sleep 1; echo end"
END_TIMEOUT_S = 100.0
"""Longest time in seconds, without faults, until machines that are not needed are gone."""
LOST = ("agent_lost", "not_acknowledged")


@dataclass
class MachineHosts:
    """A Docker engine and a simulated vCenter."""

    daemon: Daemon
    gateway: str
    """Address of this machine in the network of the containers."""
    simulator: Simulator

    def restart_engine(self) -> "subprocess.Popen[bytes]":
        self.daemon.disconnect()
        self.daemon.process = self.daemon.launch()
        return self.daemon.process

    def list_containers(self) -> list[str]:
        """Returns the id of the agent of each container."""
        found = self.daemon.client.containers(all=True, filters={"label": LABEL})
        return [container["Labels"][LABEL] for container in found]


@contextlib.contextmanager
def running_machine_hosts() -> Iterator[MachineHosts | None]:
    """Starts an engine and a simulator; yields None if a program for that is missing, unless TESTHIDE_REAL is set."""
    missing = [name for name in ("dockerd", "go") if shutil.which(name) is None]
    missing += [] if GOVMOMI.is_dir() else [str(GOVMOMI)]
    if missing or os.geteuid() != 0:
        assert not os.environ.get("TESTHIDE_REAL"), f"machines on demand need root and {', '.join(missing)}"
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="testhide-faults-machines-"))
    daemon = Daemon(folder / "docker")
    daemon.folder.mkdir()
    simulator: Simulator | None = None
    try:
        make_certificates(folder)
        simulator = start_simulator(build_simulator(folder), folder)
        daemon.start()
        daemon.import_image()
        yield MachineHosts(daemon, daemon.make_network(), simulator)
    finally:
        if simulator is not None:
            simulator.stop()
        if daemon.process is not None:
            if daemon.process.poll() is not None:
                daemon.start()
            daemon.remove()
        shutil.rmtree(folder, ignore_errors=True)


async def connect_machine_hosts(stack: Stack, hosts: MachineHosts, ports: list[int], rng: random.Random) -> None:
    """Puts proxies before the engine and the vCenter, and another one before the API, which listens on `ports`, for the
    containers. Sets what the server has to know about them.
    """
    socket = stack.folder / "docker.sock"
    await stack.add_proxy("docker", [hosts.daemon.folder / "docker.sock"], rng, listen=socket)
    await stack.add_proxy("vcenter", [int(hosts.simulator.host.rpartition(":")[2])], rng)
    port = await stack.add_proxy("api of containers", ports, rng, listen=hosts.gateway)
    stack.settings = msgspec.structs.replace(
        stack.settings,
        docker_hosts=f"{HOST}=unix://{socket}",
        docker_images="testhide/agent:*",
        docker_network=NETWORK,
        docker_server_url=f"http://{hosts.gateway}:{port}",
        vcenter_ca=str(hosts.simulator.ca),
    )
    log = hosts.daemon.folder / "log"
    stack.units["docker"] = Unit(
        "docker", hosts.restart_engine, log, hosts.daemon.process, is_ready=hosts.daemon.is_ready
    )
    # The simulator forgets its machines when it ends. So it is paused, and its proxy refuses, but it is never killed.
    stack.units["vcenter"] = Unit("vcenter", _cannot_restart, log, hosts.simulator.process)


def _cannot_restart() -> "subprocess.Popen[bytes]":
    raise OSError("the simulator has forgotten its machines")


@dataclass
class MachineLoad:
    """Users who have builds run on machines on demand, and what must be true of the machines."""

    client: RetryingClient
    stack: Stack
    hosts: MachineHosts
    counts: Counter[str] = field(default_factory=Counter)
    _pool: int = 0
    _job: int = 0
    _scaled_job: int = 0
    _vcenter: str = ""
    _template: str = ""
    _ends: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Token -> status and reason of its build, for builds that have ended."""

    async def begin(self) -> None:
        """Creates a pool for machines that users ask for, another one that is scaled, and a vCenter integration."""
        project = await self._create("/api/v3/projects", name="Machines")
        self._pool = await self._create("/api/v3/node-pools", name="containers", project_id=project)
        scaled = await self._create("/api/v3/node-pools", name="scaled", project_id=project)
        self._job = await self._create_job(project, self._pool)
        self._scaled_job = await self._create_job(project, scaled)
        setting = {"maximum": MAXIMUM, "idle_seconds": IDLE_S, "docker": {"host": HOST, "image": IMAGE}}
        answer = await self.client.call("PUT", f"/api/v3/node-pools/{scaled}/autoscaling", setting)
        assert answer.status == 200, answer
        host = f"127.0.0.1:{self.stack.proxies['vcenter'].port}"
        account = {"username": USER, "password": PASSWORD, "datacenter": "DC0"}
        self._vcenter = f"/api/v3/vcenter/{await self._create('/api/v3/vcenter', name='Lab', host=host, **account)}"
        synced = await self.client.call("POST", f"{self._vcenter}/sync")
        assert synced.status == 200, synced
        self._template = (await self._fetch(f"{self._vcenter}/vms"))[0]["vm_id"]

    async def carry_out(self, rng: random.Random, token: str) -> None:
        kind = rng.choice(("spawned containers", "scaled pools", "cloned machines"))
        self.counts[kind] += 1
        if kind == "spawned containers":
            await self._use_container(token)
        elif kind == "scaled pools":
            builds = [f"{token}.{number}" for number in range(MAXIMUM + 1)]
            numbers = [await self._start(self._scaled_job, branch) for branch in builds]
            for branch, build in zip(builds, numbers, strict=True):
                await self._wait_until_ended(branch, build)
        else:
            await self._use_virtual_machine(rng)

    async def check(self, *, is_last: bool = False) -> list[str]:
        """Waits until the engine and the vCenter have just the machines that the server knows of; with `is_last`, until
        they have none. Returns the broken rules.
        """
        deadline = time.monotonic() + END_TIMEOUT_S
        while (broken := await self._find_broken(is_last=is_last)) and time.monotonic() < deadline:
            await asyncio.sleep(RETRY_DELAY_S)
        broken += [
            f"build {token} on a machine ended as {end}"
            for token, end in self._ends.items()
            if end[0] != "passed" and end[1] not in LOST
        ]
        self.counts["builds"] += len(self._ends)
        self.counts["builds that lost their machine too often"] += sum(
            end[0] != "passed" for end in self._ends.values()
        )
        self._ends.clear()
        return broken

    async def _find_broken(self, *, is_last: bool) -> list[str]:
        containers = await asyncio.to_thread(self.hosts.list_containers)
        agents = {agent["id"]: agent for agent in await self._fetch("/api/v3/docker-agents?limit=200")}
        broken = [f"{agent_id} has two containers" for agent_id, count in Counter(containers).items() if count > 1]
        broken += [f"the container of {agent_id} is left over" for agent_id in containers if agent_id not in agents]
        broken += [
            f"{agent_id} has no container"
            for agent_id, agent in agents.items()
            if agent["status"] == "running" and agent_id not in containers
        ]
        broken += [f"{key} still waits for {agent['pending']}" for key, agent in agents.items() if agent["pending"]]
        if (scaled := sum(agent["pool_id"] != self._pool for agent in agents.values())) > MAXIMUM:
            broken.append(f"{scaled} machines are in the pool that is scaled")
        broken += [f"the virtual machine {name} is left over" for name in await self._list_clones()]
        if is_last and (containers or agents):
            broken.append(f"nobody needs the containers {containers} of the agents {list(agents)}")
        return broken

    async def _use_container(self, token: str) -> None:
        """Spawns a container for a build, starts it again when it has ended too early, and destroys it."""
        build = await self._start(self._job, token)
        body = {"host": HOST, "image": IMAGE, "pool_id": self._pool}
        answer = await self.client.call("POST", "/api/v3/docker-agents/spawn", body)
        agent_id = answer.body["id"] if answer.status == 201 else await self._find_agent(answer)
        path = f"/api/v3/docker-agents/{agent_id}"
        while not await self._has_ended(token, build):
            agent = await self._fetch(path)
            if agent["status"] in ("stopped", "error") and agent["pending"] is None:
                self.counts["containers started again"] += 1
                await self.client.call("POST", f"{path}/start")
            await asyncio.sleep(RETRY_DELAY_S)
        destroyed = await self.client.call("DELETE", path)
        assert destroyed.status in (204, 404), destroyed

    async def _find_agent(self, answer: Answer) -> str:
        """Returns the id of the agent if the answer to its spawn was lost."""
        assert answer.carried_out, answer
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                for agent in await self._fetch("/api/v3/docker-agents?limit=200"):
                    if agent["pool_id"] == self._pool:
                        return str(agent["id"])
                await asyncio.sleep(RETRY_DELAY_S)

    async def _use_virtual_machine(self, rng: random.Random) -> None:
        """Clones a machine, changes its power state, reverts it perhaps, and deletes it. A request that got no answer
        may have been carried out, so more than one machine may be cloned.
        """
        answer = await self.client.call("POST", f"{self._vcenter}/vms", {"template_id": self._template})
        assert answer.status == 201 or answer.carried_out, answer
        for vm in await self._wait_for_clones():
            action = rng.choice(("power_off", "reboot", "suspend"))
            await self.client.call("POST", f"{self._vcenter}/vm/power", {"vm_id": vm, "action": action})
            if rng.random() < 0.5:
                await self.client.call("POST", f"{self._vcenter}/vms/{vm}/revert")
            deleted = await self.client.call("DELETE", f"{self._vcenter}/vms/{vm}")
            assert deleted.status in (204, 404), deleted

    async def _wait_for_clones(self) -> list[str]:
        """Waits until all operations have ended. Returns the ids of the machines that were cloned. Each operation that
        has cloned one has cloned just one, and none that has failed.
        """
        async with asyncio.timeout(2 * ANSWER_TIMEOUT_S):
            while any(one["status"] == "running" for one in await self._list_operations()):
                await asyncio.sleep(RETRY_DELAY_S)
        done = {
            one["id"]
            for one in await self._list_operations()
            if one["kind"] == "clone" and one["status"] == "completed"
        }
        names = await self._list_clones()
        made_by = [find_operation_id(name) for name in names]
        assert len(set(made_by)) == len(made_by), f"made twice: {names}"
        assert done.issuperset(made_by), f"left over by operations that have failed: {names}, {done}"
        self.counts["virtual machines"] += len(names)
        inventory = {vm["name"]: vm["vm_id"] for vm in await self._fetch(f"{self._vcenter}/vms?limit=200")}
        assert inventory.keys() >= set(names), (inventory, names)
        return [inventory[name] for name in names]

    async def _list_operations(self) -> list[Any]:
        found: list[Any] = []
        while page := await self._fetch(f"{self._vcenter}/operations?limit=200&page={len(found) // 200 + 1}"):
            found += page
            if len(page) < 200:
                break
        return found

    async def _list_clones(self) -> list[str]:
        names = await asyncio.to_thread(self.hosts.simulator.list_names)
        return [name for name in names if name.startswith(VM_NAME_PREFIX)]

    async def _start(self, job: int, branch: str) -> int:
        answer = await self.client.call("POST", "/api/v3/builds/start", {"job_id": job, "branch": branch})
        if answer.status == 201:
            return int(answer.body["id"])
        assert answer.carried_out, answer
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not (found := await self._fetch(f"/api/v3/builds?branch={branch}"))["results"]:
                await asyncio.sleep(RETRY_DELAY_S)
        return int(found["results"][0]["id"])

    async def _wait_until_ended(self, token: str, build: int) -> None:
        while not await self._has_ended(token, build):
            await asyncio.sleep(RETRY_DELAY_S)

    async def _has_ended(self, token: str, build: int) -> bool:
        shown = await self._fetch(f"/api/v3/builds/{build}")
        if shown["status"] in ("queued", "running"):
            return False
        self._ends[token] = shown["status"], shown["reason"]
        return True

    async def _fetch(self, path: str) -> Any:
        answer = await self.client.call("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def _create_job(self, project: int, pool: int) -> int:
        limits = {"max_parallel": 20, "node_pool_id": pool}
        job = await self._create("/api/v3/jobs", name=f"Machines {pool}", project_id=project, **limits)
        configuration = {"command": COMMAND, "setup": [], "env": {}, "artifacts": []}
        await self.client.call("PUT", f"/api/v3/jobs/{job}/configuration", configuration)
        return job

    async def _create(self, path: str, **body: Any) -> int:
        answer = await self.client.call("POST", path, body)
        assert answer.status in (200, 201), answer
        return int(answer.body["id"])
