"""Node pools that are scaled on a real engine."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.docker.daemon import HOST, IMAGE
from tests.real.docker.yard import PATIENCE_S, DockerYard, wait_for
from tests.support.builders import given_job, given_pool

pytestmark = pytest.mark.real("dockerd")


class ScaledPool:
    """A node pool of its own that is scaled, and a job whose builds run only there."""

    def __init__(self, yard: DockerYard) -> None:
        self.yard = yard
        self.pool = given_pool(yard.server, yard.project)
        self.job = given_job(yard.server, yard.project, node_pool_id=self.pool, max_parallel=100)
        self.path = f"/api/v3/node-pools/{self.pool}/autoscaling"
        self.command("true")

    def command(self, line: str) -> None:
        configuration = {"command": line, "setup": [], "env": {}, "artifacts": []}
        self.yard.server.admin.put(f"/api/v3/jobs/{self.job}/configuration", json=configuration).then(200)

    def scale(self, image: str = IMAGE, **setting: Any) -> None:
        body = {"idle_seconds": 5, "docker": {"host": HOST, "image": image, "memory_mb": 128}, **setting}
        self.yard.server.admin.put(self.path, json=body).then(200)

    def show(self) -> Any:
        return self.yard.server.admin.get(self.path).then(200)

    def decisions(self, kind: str) -> list[Any]:
        """Returns the decisions of a kind, the first one first."""
        return [one for one in reversed(self.show()["decisions"]) if one["kind"] == kind]

    def machines(self) -> list[str]:
        """Returns the ids of the machines that have a container."""
        ours = {machine["id"] for machine in self.show()["machines"]}
        return [agent_id for agent_id in self.yard.containers() if agent_id in ours]

    def wait_machines(self, number: int) -> Any:
        return wait_for(self.show, {}, lambda shown: len(shown["machines"]) == number)


@pytest.fixture(name="scaled")
def _scaled(yard: DockerYard) -> Iterator[ScaledPool]:
    scaled = ScaledPool(yard)
    yield scaled
    if yard.server.admin.delete(scaled.path).status_code == 204:
        agents = {"project_id": yard.project}
        wait_for(
            lambda: {"left": yard.server.admin.get("/api/v3/docker-agents", params=agents).then(200)},
            {},
            lambda shown: all(agent["pool_id"] != scaled.pool for agent in shown["left"]),
        )


def test_an_empty_pool_drains_a_queue_and_goes_to_its_minimum(yard: DockerYard, scaled: ScaledPool) -> None:
    builds = [yard.build(scaled.job) for _ in range(30)]
    scaled.scale(minimum=1, maximum=4)
    most, deadline = 0, time.monotonic() + 3 * PATIENCE_S
    left = set(builds)
    while left:
        assert time.monotonic() < deadline, f"{len(left)} builds are left: {scaled.show()}"
        most = max(most, len(scaled.machines()))
        shown = (yard.server.admin.get(f"/api/v3/builds/{build}").then(200) for build in sorted(left)[:5])
        left -= {build["id"] for build in shown if build["status"] == "passed"}
    assert most == 4
    first, *_ = scaled.decisions("scaled_up")
    assert (first["waiting"], first["reason"]) == (30, "30 builds wait for a free node")
    assert scaled.decisions("scaling_failed") == []
    (kept,) = scaled.wait_machines(1)["machines"]
    assert not kept["leaving"]
    assert scaled.machines() == [kept["id"]]
    downs = scaled.decisions("scaled_down")
    assert len(downs) == 3
    assert all(down["idle_since"] and "had no build for" in down["reason"] for down in downs)


def test_each_build_gets_a_machine_of_its_own(yard: DockerYard, scaled: ScaledPool) -> None:
    builds = [yard.build(scaled.job) for _ in range(4)]
    scaled.scale(maximum=2, single_use=True)
    nodes = {yard.wait_build(build, status="passed")["node_id"] for build in builds}
    assert len(nodes) == 4
    scaled.wait_machines(0)
    assert {down["reason"] for down in scaled.decisions("scaled_down")} == {"it has had its only build"}


def test_a_machine_that_is_killed_is_replaced_and_its_build_runs_again(yard: DockerYard, scaled: ScaledPool) -> None:
    scaled.command("sleep 600")
    build = yard.build(scaled.job)
    scaled.scale(maximum=1)
    node_id = yard.wait_build(build, status="running")["node_id"]
    (machine,) = scaled.machines()
    yard.daemon.client.kill(yard.containers()[machine]["Id"])
    wait_for(
        lambda: yard.server.admin.get(f"/api/v3/builds/{build}").then(200),
        {"status": "running"},
        lambda shown: shown["node_id"] != node_id,
    )
    (failed,) = scaled.decisions("scaling_failed")
    assert failed["machine_ids"] == [machine]
    assert "exit code 137" in failed["reason"]
    assert failed["retry_at"] > failed["at"]
    assert machine not in yard.containers()
    yard.server.admin.post(f"/api/v3/builds/{build}/stop").then(200)


def test_a_dispatcher_and_a_worker_that_are_killed_leave_no_machine(yard: DockerYard, scaled: ScaledPool) -> None:
    builds = [yard.build(scaled.job) for _ in range(10)]
    scaled.scale(maximum=3)
    for process in ("dispatch", "work", "dispatch"):
        wait_for(scaled.show, {}, lambda shown: len(shown["machines"]) > 0)
        yard.server.kill(process)
        assert len(scaled.machines()) <= 3
        yard.server.start(process)
    for build in builds:
        yard.wait_build(build, status="passed")
        assert len(scaled.machines()) <= 3
    scaled.wait_machines(0)
    ours = {machine for up in scaled.decisions("scaled_up") for machine in up["machine_ids"]}
    assert ours.isdisjoint(yard.containers())


def test_an_image_that_is_not_there_makes_the_pool_pause(yard: DockerYard, scaled: ScaledPool) -> None:
    build = yard.build(scaled.job)
    scaled.scale(image="testhide/agent:missing", maximum=3)
    shown = wait_for(scaled.show, {}, lambda shown: shown["failures"] == 2)
    first, second = scaled.decisions("scaling_failed")
    assert "testhide/agent:missing" in first["reason"]
    assert second["at"] >= first["retry_at"] < second["retry_at"] == shown["retry_at"]
    # Once it is set right, the build does not wait for the end of the pause.
    scaled.scale(maximum=3)
    yard.wait_build(build, status="passed")
