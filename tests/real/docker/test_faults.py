"""Docker agents when something fails: containers killed by others, restarts of the engine, killed workers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.real.docker.daemon import HOST, IMAGE
from tests.real.docker.yard import LABEL, DockerYard, wait_for

pytestmark = pytest.mark.real("dockerd")
INSTALLATION = "io.testhide.installation"


def test_killed_by_others(yard: DockerYard) -> None:
    build = yard.build(yard.job("test -e ~/again && exit; touch ~/again; sleep 600"))
    agent_id = yard.spawn()
    node_id = yard.wait(agent_id, build_id=build)["node_id"]
    yard.daemon.client.kill(yard.containers()[agent_id]["Id"])
    failed = yard.wait(agent_id, status="error", build_id=None)
    assert failed["error"] == "the container ended with exit code 137 (killed)"
    assert yard.server.admin.get(f"/api/v3/nodes/{node_id}").then(200)["status"] == "offline"
    yard.wait_build(build, status="queued")
    assert yard.server.admin.post(f"/api/v3/docker-agents/{agent_id}/start").then(200)["status"] == "running"
    assert yard.wait_build(build, status="running")["node_id"] == node_id
    yard.server.admin.post(f"/api/v3/builds/{build}/stop").then(200)
    yard.destroy(agent_id)


def test_removed_by_others(yard: DockerYard) -> None:
    agent_id = yard.spawn()
    yard.wait_online(agent_id)
    yard.daemon.client.remove_container(yard.containers()[agent_id]["Id"], force=True, v=True)
    # First it is killed, which is an error, too.
    wait_for(lambda: yard.show(agent_id), {"status": "error"}, lambda shown: "no such container" in shown["error"])
    refused = yard.server.admin.post(f"/api/v3/docker-agents/{agent_id}/stop")
    assert (refused.status_code, "no such container" in refused.json()["detail"]) == (502, True)
    yard.destroy(agent_id)


def test_a_restart_of_the_engine(yard: DockerYard) -> None:
    first, second = yard.spawn(), yard.spawn()
    for agent_id in (first, second):
        yard.wait_online(agent_id)
    yard.daemon.stop()
    refused = yard.server.admin.post(f"/api/v3/docker-agents/{first}/stop")
    assert (refused.status_code, f"Docker host {HOST}" in refused.json()["detail"]) == (502, True)
    yard.daemon.start()
    yard.wait(first, status="stopped", pending=None)
    wait_for(lambda: yard.show(second), {}, lambda shown: shown["status"] in ("stopped", "error"))
    assert yard.server.admin.post(f"/api/v3/docker-agents/{second}/start").then(200)["status"] == "running"
    yard.wait_build(yard.build(yard.job("true")), status="passed")
    yard.destroy(first, second)


def test_a_killed_worker_leaves_nothing_and_makes_nothing_twice(yard: DockerYard) -> None:
    known = set(yard.containers())
    labels = {INSTALLATION: "installation-of-another-server", LABEL: "da-0"}
    foreign = yard.daemon.client.create_container(IMAGE, labels=labels)["Id"]
    with ThreadPoolExecutor(4) as threads:
        agents = list(threads.map(lambda _: yard.spawn(), range(4)))
    yard.server.kill("work")
    ours = {INSTALLATION: yard.installation, LABEL: "da-00"}
    leftover = yard.daemon.client.create_container(IMAGE, labels=ours)["Id"]
    yard.server.start("work")
    for agent_id in agents:
        yard.wait_online(agent_id)
    listed = yard.daemon.client.containers(all=True, filters={"label": LABEL})
    found = [container["Labels"][LABEL] for container in listed if container["Id"] != foreign]
    assert sorted(found) == sorted({*agents, *known})
    assert foreign in [container["Id"] for container in listed]
    assert leftover not in [container["Id"] for container in listed]
    yard.daemon.client.remove_container(foreign)
    yard.destroy(*agents)


def test_twenty_at_once(yard: DockerYard) -> None:
    job = yard.job("true")
    builds = [yard.build(job) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        agents = list(threads.map(lambda _: yard.spawn(memory_mb=256), range(20)))
        for agent_id in agents:
            yard.wait_online(agent_id)
        for build in builds:
            yard.wait_build(build, status="passed")
        list(threads.map(yard.destroy, agents))
    assert not set(agents) & set(yard.containers())
