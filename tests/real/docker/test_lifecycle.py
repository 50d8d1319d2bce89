"""Docker agents on a real engine: spawned, built in, stopped, started and destroyed."""

import pytest

from tests.real.docker.yard import DockerYard

pytestmark = pytest.mark.real("dockerd")


def test_spawn_build_destroy(yard: DockerYard) -> None:
    build = yard.build(yard.job("echo hello from $(id -u)"))
    agent_id = yard.spawn(memory_mb=256, cpus=1.5, env={"GREETING": "hi"})
    finished = yard.wait_build(build, status="passed")
    assert "hello from 10001" in yard.log(build)
    shown = yard.wait(agent_id, status="running")  # a quick build may end before the worker looks
    assert (shown["status"], shown["error"], shown["pending"]) == ("running", None, None)
    assert (shown["memory_mb"], shown["cpus"], shown["pool_id"]) == (256, 1.5, yard.pool)
    assert finished["node_id"] == shown["node_id"]
    node = yard.server.admin.get(f"/api/v3/nodes/{shown['node_id']}").then(200)
    assert (node["name"], node["pool_id"], node["max_parallel"]) == (agent_id, yard.pool, 1)
    assert yard.server.admin.delete(f"/api/v3/docker-agents/{agent_id}").status_code == 204
    assert agent_id not in yard.containers()
    assert yard.daemon.client.volumes()["Volumes"] in (None, [])
    for gone in (f"docker-agents/{agent_id}", f"nodes/{shown['node_id']}"):
        assert yard.server.admin.get(f"/api/v3/{gone}").status_code == 404
