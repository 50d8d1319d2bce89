"""Nodes, and the agent's download."""

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.server import Server


@pytest.fixture(name="pool")
def _pool(server: Server) -> int:
    project = server.admin.post("/api/v3/projects", json={"name": "Nodes"}).json()["id"]
    return int(server.admin.post("/api/v3/node-pools", json={"name": "linux", "project_id": project}).json()["id"])


@pytest.fixture(name="node")
def _node(server: Server, pool: int) -> dict[str, Any]:
    body = {"name": uuid.uuid4().hex, "pool_id": pool, "tags": ["linux", "docker", "linux"], "max_parallel": 2}
    answer = server.admin.post("/api/v3/nodes", json=body)
    assert answer.status_code == 201
    registered: dict[str, Any] = answer.json()
    return registered


def test_register(server: Server, pool: int, node: dict[str, Any]) -> None:
    assert node["agent_token"].startswith("agt_")
    assert node["pool_id"] == pool
    shown = server.make_user("viewer", {}).get(f"/api/v3/nodes/{node['id']}").json()
    expected = {
        "id": node["id"],
        "name": node["name"],
        "status": "offline",
        "pool_id": pool,
        "cpu_cores": 0,
        "ram_gb": 0,
        "uptime_s": 0,
        "running_builds": 0,
        "failed_builds": 0,
        "tags": ["linux", "docker"],
        "max_parallel": 2,
    }
    assert shown.items() >= expected.items()
    assert not {"agent_token", "token_hash", "session"} & shown.keys()
    assert server.admin.get("/api/v3/node-pools").json()[-1]["node_count"] == 1


def test_names_are_unique(server: Server, pool: int, node: dict[str, Any]) -> None:
    body = {"name": node["name"].upper(), "pool_id": pool}
    assert server.admin.post("/api/v3/nodes", json=body).status_code == 409
    assert server.admin.delete(f"/api/v3/nodes/{node['id']}").status_code == 204
    assert server.admin.post("/api/v3/nodes", json=body).status_code == 201


def test_one_of_many_at_once_gets_the_name(server: Server, pool: int) -> None:
    name = uuid.uuid4().hex

    def register(_: int) -> int:
        answer = requests.post(
            f"{server.url}/api/v3/nodes",
            json={"name": name, "pool_id": pool},
            headers={"Authorization": server.admin.headers["Authorization"]},
            timeout=30,
        )
        return answer.status_code

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(register, range(8))) == [201] + [409] * 7


def test_find(server: Server, node: dict[str, Any]) -> None:
    found = server.admin.get("/api/v3/nodes/find", params={"name": node["name"]})
    assert (found.status_code, found.json()["id"]) == (200, node["id"])
    assert server.admin.get("/api/v3/nodes/find", params={"name": node["name"].upper()}).status_code == 404
    assert server.admin.get("/api/v3/nodes/find").status_code == 422


def test_list_filters(server: Server, pool: int, node: dict[str, Any]) -> None:
    listed = server.admin.get("/api/v3/nodes", params={"pool_id": pool, "status": "offline"}).json()
    assert [item["id"] for item in listed] == [node["id"]]
    assert {"id", "name", "status", "pool_id", "running_builds", "cpu_pct"} <= listed[0].keys()
    assert server.admin.get("/api/v3/nodes", params={"pool_id": pool, "status": "online"}).json() == []
    assert server.admin.get("/api/v3/nodes", params={"status": "quarantined"}).status_code == 200
    assert server.admin.get("/api/v3/nodes", params={"status": "asleep"}).status_code == 422


def test_health_without_a_heartbeat(server: Server, node: dict[str, Any]) -> None:
    health = server.admin.get(f"/api/v3/nodes/{node['id']}/health").json()
    nothing = {"node_id": node["id"], "cpu_pct": 0, "ram_pct": 0, "disk_free_gb": 0, "last_heartbeat_s": -1}
    assert health.items() >= nothing.items()


def test_health_of_a_connected_agent(server: Server, node: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {node['agent_token']}"}
    hello = {
        "session": "session-1",
        "version": "1",
        "platform": "linux",
        "hostname": "h",
        "cpu_cores": 8,
        "ram_gb": 16.0,
    }
    connected = requests.post(
        f"{server.url}/api/v3/agent/connect", json=hello | {"running": []}, headers=headers, timeout=10
    )
    assert connected.status_code == 200, connected.text
    beat = {
        "session": "session-1",
        "cpu_pct": 62.1,
        "ram_pct": 48.0,
        "disk_free_gb": 120.5,
        "uptime_s": 86_400,
        "running": [],
    }
    requests.post(f"{server.url}/api/v3/agent/heartbeat", json=beat, headers=headers, timeout=10).raise_for_status()
    health = server.admin.get(f"/api/v3/nodes/{node['id']}/health").json()
    assert (health["cpu_pct"], health["ram_pct"], health["disk_free_gb"]) == (62, 48, 121)
    assert 0 <= health["last_heartbeat_s"] < 60
    shown = server.admin.get(f"/api/v3/nodes/{node['id']}").json()
    assert (shown["status"], shown["cpu_cores"], shown["ram_gb"], shown["uptime_s"]) == ("online", 8, 16, 86_400)


def test_delete(server: Server, node: dict[str, Any]) -> None:
    path = f"/api/v3/nodes/{node['id']}"
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.delete(path), server.admin.get(f"{path}/health")):
        assert answer.status_code == 404


def test_only_who_manages_nodes_changes_them(server: Server, pool: int, node: dict[str, Any]) -> None:
    developer = server.make_user("developer", {})
    assert developer.post("/api/v3/nodes", json={"name": "x", "pool_id": pool}).status_code == 403
    assert developer.delete(f"/api/v3/nodes/{node['id']}").status_code == 403


def test_an_agents_token_is_no_persons(server: Server, node: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {node['agent_token']}"}
    assert requests.get(f"{server.url}/api/v3/nodes", headers=headers, timeout=10).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"pool_id": 2**53},
        {"pool_id": None},
        {"pool_id": 2**70},
        {"name": ""},
        {"name": "a\0"},
        {"tags": ["a b"]},
        {"tags": [""]},
        {"tags": "x"},
        {"max_parallel": 0},
    ],
)
def test_fields_are_checked(server: Server, pool: int, changes: dict[str, Any]) -> None:
    answer = server.admin.post("/api/v3/nodes", json={"name": uuid.uuid4().hex, "pool_id": pool} | changes)
    assert answer.status_code == 422
    assert next(iter(changes)) in answer.json()["errors"][0]["field"]


def test_the_agent_can_be_downloaded(server: Server) -> None:
    latest = server.make_user("viewer", {}).get("/api/v3/nodes/agent/latest").json()
    assert {"version", "linux_amd64", "linux_arm64", "windows_amd64"} <= latest.keys()
    for platform in ("linux_amd64", "linux_arm64", "windows_amd64"):
        path = latest[platform]["url"].split("/agent/")[1]
        agent = requests.get(f"{server.url}/agent/{path}", timeout=10)  # without credentials
        assert agent.status_code == 200
        assert hashlib.sha256(agent.content).hexdigest() == latest[platform]["sha256"]


def test_there_is_no_other_agent(server: Server) -> None:
    version = server.admin.get("/api/v3/nodes/agent/latest").json()["version"]
    assert requests.get(f"{server.url}/agent/{version}/amiga-68k", timeout=10).status_code == 404
    assert requests.get(f"{server.url}/agent/0.0.0/linux-amd64", timeout=10).status_code == 404


def test_update(server: Server, pool: int, node: dict[str, Any]) -> None:
    project = server.admin.get("/api/v3/node-pools", params={"after": pool - 1}).json()[0]["project_id"]
    other = server.admin.post("/api/v3/node-pools", json={"name": "other", "project_id": project}).json()["id"]
    path = f"/api/v3/nodes/{node['id']}"
    changes = {"pool_id": other, "max_parallel": 4, "tags": ["gpu"], "name": uuid.uuid4().hex}
    answer = server.admin.put(path, json=changes | {"tags": ["gpu", "gpu"]})
    assert (answer.status_code, answer.json().items() >= changes.items()) == (200, True)
    assert server.admin.get(path).json() == answer.json()
    assert server.admin.put(path, json={}).json() == answer.json()
    assert server.admin.put(path, json={"pool_id": None}).json()["pool_id"] is None
    assert server.admin.put(path, json={"pool_id": 2**53}).status_code == 422


def test_the_old_name_is_free_again(server: Server, pool: int, node: dict[str, Any]) -> None:
    path = f"/api/v3/nodes/{node['id']}"
    assert server.admin.put(path, json={"name": uuid.uuid4().hex}).status_code == 200
    second = server.admin.post("/api/v3/nodes", json={"name": node["name"], "pool_id": pool})
    assert second.status_code == 201
    assert server.admin.put(path, json={"name": node["name"]}).status_code == 409
    assert server.admin.delete(f"/api/v3/nodes/{second.json()['id']}").status_code == 204
    assert server.admin.put(path, json={"name": node["name"]}).status_code == 200


def test_quarantine(server: Server, pool: int, node: dict[str, Any]) -> None:
    path = f"/api/v3/nodes/{node['id']}"
    for _ in range(2):
        answer = server.admin.post(f"{path}/quarantine")
        assert (answer.status_code, answer.json()) == (200, {"id": node["id"], "status": "quarantined"})
    listed = server.admin.get("/api/v3/nodes", params={"pool_id": pool, "status": "quarantined"}).json()
    assert [item["id"] for item in listed] == [node["id"]]
    for _ in range(2):
        answer = server.admin.delete(f"{path}/quarantine")
        assert (answer.status_code, answer.json()) == (200, {"id": node["id"], "status": "offline"})
    assert server.admin.post("/api/v3/nodes/9007199254740992/quarantine").status_code == 404


def test_only_who_manages_nodes_updates_them(server: Server, node: dict[str, Any]) -> None:
    developer, path = server.make_user("developer", {}), f"/api/v3/nodes/{node['id']}"
    assert developer.put(path, json={}).status_code == 403
    assert developer.post(f"{path}/quarantine").status_code == 403
    assert developer.delete(f"{path}/quarantine").status_code == 403
