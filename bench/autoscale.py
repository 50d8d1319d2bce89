"""Measures machines on demand on a real Docker engine: `./dev bench autoscale`. Needs `dockerd`, and root to run it.

Two things are measured. How soon a machine is of use: the time from the request to spawn a Docker agent to the first
output of a build that waits for it, shown next to `docker run` of the same image. And how long builds wait in the queue
if many come at once: in a pool with one machine, and in an empty pool that is scaled.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from tests.real.docker.daemon import HOST, IMAGE, NETWORK, Daemon
from tests.real.docker.yard import DockerYard, wait_for
from tests.support.builders import given_job, given_pool
from tests.support.engines import temporary_engines
from tests.support.server import server_on_new_database

from bench.support.report import Report, percentile
from store.log.codec import Envelope

PRINT_TIME = "python3 -c 'import time; print(f\"at={time.time()}\")'"
"""Command that prints the time. The image has no `date`."""
PRINTED_TIME = re.compile(r"^(?:\[.*\] )?at=([0-9.]+)$", re.MULTILINE)
MEMORY_MB = 256
STEPS = {
    "docker_agent.requested": "its request",
    "docker_agent.registered": "the registration of its agent",
    "docker_agent.started": "the record that its container runs",
    "node.connected": "the connection of its agent",
    "build.assigned": "the assignment of the build",
    "build.started": "the start of the build",
}
"""Event name -> step of a spawn."""


@contextmanager
def running_yard() -> Iterator[DockerYard]:
    """Runs a Docker engine, and a server whose workers spawn agents on it."""
    with tempfile.TemporaryDirectory(prefix="testhide-bench-") as name, temporary_engines() as engines:
        folder = Path(name)
        daemon = Daemon(folder / "docker")
        daemon.folder.mkdir()
        daemon.start()
        try:
            daemon.import_image()
            gateway = daemon.make_network()
            settings = {
                "docker_hosts": f"{HOST}={daemon.url}",
                "docker_images": "testhide/agent:*",
                "docker_network": NETWORK,
            }
            processes = ("serve", "project", "dispatch", "work")
            with server_on_new_database(engines, folder, *processes, host=gateway, logs=folder, **settings) as server:
                yield DockerYard(server, daemon)
        finally:
            daemon.remove()


class Pool:
    """A node pool, and a job whose builds run only there."""

    def __init__(self, yard: DockerYard, command: str) -> None:
        self.yard, self.admin = yard, yard.server.admin
        self.pool_id = given_pool(yard.server, yard.project)
        self.job_id = given_job(yard.server, yard.project, node_pool_id=self.pool_id, max_parallel=1_000)
        configuration = {"command": command, "setup": [], "env": {}, "artifacts": []}
        self.admin.put(f"/api/v3/jobs/{self.job_id}/configuration", json=configuration).then(200)

    def spawn(self) -> str:
        return self.yard.spawn(pool_id=self.pool_id, memory_mb=MEMORY_MB)

    def scale(self, **setting: Any) -> None:
        body = {"docker": {"host": HOST, "image": IMAGE, "memory_mb": MEMORY_MB}, **setting}
        self.admin.put(f"/api/v3/node-pools/{self.pool_id}/autoscaling", json=body).then(200)

    def unscale(self) -> None:
        """Ends the scaling, and waits until the machines are gone."""
        self.admin.delete(f"/api/v3/node-pools/{self.pool_id}/autoscaling").then(204)
        wait_for(
            lambda: {"agents": self.admin.get("/api/v3/docker-agents").then(200)},
            {},
            lambda shown: all(agent["pool_id"] != self.pool_id for agent in shown["agents"]),
        )


def measure_spawns(yard: DockerYard, number: int, report: Report) -> None:
    pool = Pool(yard, PRINT_TIME)
    spawned, run = [], []
    steps: dict[str, list[float]] = defaultdict(list)
    for _ in range(number + 1):
        build = yard.build(pool.job_id)
        asked = time.time()
        agent_id = pool.spawn()
        yard.wait_build(build, status="passed")
        spawned.append(_read_time(yard.log(build)) - asked)
        streams = [f"docker-agent-{agent_id}", f"node-{yard.show(agent_id)['node_id']}", f"build-{build}"]
        for _, name, at in _fetch_times(yard, streams, STEPS):
            steps[name].append(at - asked)
        yard.destroy(agent_id)
        run.append(_run_container(yard))
    # The first ones warm up the engine and connections.
    report.add("asking for a machine to first output of its build, p50", percentile(spawned[1:], 50), "s", at_most=3)
    report.add("asking for a machine to first output of its build, max", max(spawned[1:]), "s")
    for name, meaning in STEPS.items():
        report.add(f"asking for a machine to {meaning}, p50", percentile(steps[name][1:], 50), "s")
    report.add("docker run of the same image to its first output, p50", percentile(run[1:], 50), "s")


def _run_container(yard: DockerYard) -> float:
    """Returns the seconds from `docker run` to the first output of a container."""
    command = ["docker", f"--host={yard.daemon.url}", "run", "--rm", f"--network={NETWORK}", f"--memory={MEMORY_MB}m"]
    asked = time.time()
    shell = [*command, "--entrypoint=/bin/sh", IMAGE, "-c", PRINT_TIME]
    return _read_time(subprocess.run(shell, check=True, capture_output=True, text=True).stdout) - asked


def _read_time(output: str) -> float:
    found = PRINTED_TIME.search(output)
    assert found is not None, output
    return float(found[1])


def measure_queue(yard: DockerYard, builds: int, machines: int, seconds: float, report: Report) -> None:
    for is_scaled in (False, True):
        pool = Pool(yard, f"sleep {seconds}")
        agent_id = ""
        if not is_scaled:
            agent_id = pool.spawn()
            yard.wait_online(agent_id)
        else:
            pool.scale(maximum=machines, idle_seconds=5)
        began = time.time()
        started = [yard.build(pool.job_id) for _ in range(builds)]
        for build in started:
            yard.wait_build(build, status="passed")
        waits = _fetch_waits(yard, started)
        name = f"empty pool, scaled up to {machines} machines" if is_scaled else "pool with one machine"
        report.add(f"{name}: wait in the queue, p50", percentile(waits, 50), "s")
        report.add(f"{name}: wait in the queue, max", max(waits), "s")
        report.add(f"{name}: all {builds} builds", time.time() - began, "s")
        if is_scaled:
            pool.unscale()
        else:
            yard.destroy(agent_id)


def _fetch_waits(yard: DockerYard, builds: list[int]) -> list[float]:
    """Returns for each build the seconds from `build.queued` to the first `build.assigned`."""
    queued: dict[str, float] = {}
    waits: dict[str, float] = {}
    for stream, name, at in _fetch_times(
        yard, [f"build-{build}" for build in builds], ("build.queued", "build.assigned")
    ):
        if name == "build.queued":
            queued[stream] = at
        else:
            waits.setdefault(stream, at - queued[stream])
    return list(waits.values())


def _fetch_times(yard: DockerYard, streams: Sequence[str], names: Iterable[str]) -> list[tuple[str, str, float]]:
    """Returns (stream, event name, time) for each event with one of these names in these streams, in order."""
    decoder = msgspec.msgpack.Decoder(Envelope)
    with psycopg.connect(yard.server.settings.database_url) as connection:
        rows = connection.execute(
            "SELECT originator_id, topic, state FROM stored_events"
            " WHERE originator_id = ANY (%s) AND topic = ANY (%s) ORDER BY notification_id",
            (list(streams), list(names)),
        ).fetchall()
    return [(stream, name, decoder.decode(state).at.timestamp()) for stream, name, state in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure machines on demand on a real Docker engine.")
    parser.add_argument("--spawns", type=int, default=10)
    parser.add_argument("--builds", type=int, default=30)
    parser.add_argument("--machines", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each build of the queue takes")
    options = parser.parse_args()
    report = Report("autoscale")
    with running_yard() as yard:
        measure_spawns(yard, options.spawns, report)
        measure_queue(yard, options.builds, options.machines, options.seconds, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
