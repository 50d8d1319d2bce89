"""Node pools."""

import uuid
from typing import Any

import pytest

from tests.support.server import Server


def test_create_and_list(server: Server, project: int) -> None:
    body = {"name": "linux-large", "project_id": project, "labels": {"arch": "amd64"}, "max_parallel": 10}
    answer = server.admin.post("/api/v3/node-pools", json=body)
    assert answer.status_code == 201
    assert answer.json().items() >= (body | {"node_count": 0}).items()
    assert server.admin.get("/api/v3/node-pools", params={"project_id": project}).json() == [answer.json()]


def test_names_are_unique_in_a_project(server: Server, project: int) -> None:
    body = {"name": "linux", "project_id": project}
    assert server.admin.post("/api/v3/node-pools", json=body).status_code == 201
    again = server.admin.post("/api/v3/node-pools", json=body)
    assert again.status_code == 409
    assert "linux" in again.json()["detail"]
    other = int(server.admin.post("/api/v3/projects", json={"name": "Pools"}).json()["id"])
    assert server.admin.post("/api/v3/node-pools", json=body | {"project_id": other}).status_code == 201


def test_who_creates(server: Server, project: int) -> None:
    body = {"name": uuid.uuid4().hex, "project_id": project}
    assert server.make_user("developer", {}).post("/api/v3/node-pools", json=body).status_code == 404
    assert server.make_user("developer", {project: "write"}).post("/api/v3/node-pools", json=body).status_code == 403
    admin = server.make_user("developer", {project: "admin"})
    assert admin.post("/api/v3/node-pools", json=body | {"shared": True}).status_code == 403
    assert admin.post("/api/v3/node-pools", json=body).status_code == 201


def test_only_admins_let_strangers_into_a_pool(server: Server, project: int) -> None:
    admin = server.make_user("developer", {project: "admin"})
    body = {"name": uuid.uuid4().hex, "project_id": project}
    assert admin.post("/api/v3/node-pools", json=body | {"untrusted": True}).status_code == 403
    path = f"/api/v3/node-pools/{new_pool(server, project, untrusted=True)}"
    assert admin.put(path, json={"untrusted": False}).status_code == 403
    assert admin.put(path, json={"untrusted": True, "max_parallel": 1}).json()["untrusted"] is True
    assert server.admin.put(path, json={"untrusted": False}).json()["untrusted"] is False


def test_only_admins_move_nodes_into_a_pool_for_strangers_or_out_of_it(server: Server, project: int) -> None:
    pools = {untrusted: new_pool(server, project, untrusted=untrusted) for untrusted in (False, True)}
    manager = server.make_user("developer", {project: "admin"})
    server.admin.when("PUT", f"/users/{manager.fetch('/me')['id']}", json={"can_manage_nodes": True}).then(200)
    refused = manager.when("POST", "/nodes", json={"name": uuid.uuid4().hex, "pool_id": pools[True]})
    assert "only admins add nodes" in refused.then(403)["detail"]
    for untrusted, other in ((False, pools[True]), (True, pools[False]), (True, None)):
        node = server.admin.create("/nodes", name=uuid.uuid4().hex, pool_id=pools[untrusted])["id"]
        manager.when("PUT", f"/nodes/{node}", json={"pool_id": other}).then(403)
        changes = {"pool_id": pools[untrusted], "max_parallel": 2}
        assert manager.when("PUT", f"/nodes/{node}", json=changes).then(200)["pool_id"] == pools[untrusted]
        assert server.admin.when("PUT", f"/nodes/{node}", json={"pool_id": other}).then(200)["pool_id"] == other
    manager.when("DELETE", f"/node-pools/{pools[True]}").then(403)
    server.admin.when("DELETE", f"/node-pools/{pools[True]}").then(204)
    manager.when("DELETE", f"/node-pools/{pools[False]}").then(204)


def test_unknown_projects(server: Server) -> None:
    assert server.admin.post("/api/v3/node-pools", json={"name": "x", "project_id": 2**53}).status_code == 404


def test_who_sees(server: Server, project: int) -> None:
    ids = [
        server.admin.post("/api/v3/node-pools", json={"name": name, "project_id": project, "shared": shared}).json()[
            "id"
        ]
        for name, shared in (("own", False), ("shared", True))
    ]
    filtered = {"project_id": project}
    member = server.make_user("developer", {project: "read"}).get("/api/v3/node-pools", params=filtered).json()
    stranger = server.make_user("developer", {}).get("/api/v3/node-pools", params=filtered).json()
    assert [pool["id"] for pool in member] == ids
    assert [pool["id"] for pool in stranger] == ids[1:]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": None},
        {"labels": {"a": 1}},
        {"labels": {str(number): "x" for number in range(101)}},
        {"labels": {"a": "\0"}},
        {"max_parallel": 0},
        {"max_parallel": 2**70},
        {"shared": "x"},
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any]) -> None:
    body = {"name": "x", "project_id": project} | changes
    assert server.admin.post("/api/v3/node-pools", json=body).status_code == 422


def new_pool(server: Server, project: int, **more: Any) -> int:
    body = {"name": uuid.uuid4().hex, "project_id": project, **more}
    return int(server.admin.post("/api/v3/node-pools", json=body).json()["id"])


def test_update(server: Server, project: int) -> None:
    pool = new_pool(server, project, name="small", max_parallel=10, labels={"arch": "amd64"})
    path = f"/api/v3/node-pools/{pool}"
    changes = {"max_parallel": 20, "labels": {"size": "xlarge"}, "name": "linux-large", "shared": True}
    answer = server.admin.put(path, json=changes)
    assert (answer.status_code, answer.json().items() >= changes.items()) == (200, True)
    assert server.admin.get(path).json() == answer.json()
    assert server.admin.put(path, json={"max_parallel": None}).json()["max_parallel"] is None
    assert server.admin.put(path, json={}).json()["name"] == "linux-large"


def test_the_old_name_is_free_again(server: Server, project: int) -> None:
    first, second = new_pool(server, project, name="one"), new_pool(server, project, name="two")
    taken = server.admin.put(f"/api/v3/node-pools/{first}", json={"name": "two"})
    assert (taken.status_code, "'two'" in taken.json()["detail"]) == (409, True)
    assert server.admin.put(f"/api/v3/node-pools/{first}", json={"name": "ONE"}).json()["name"] == "ONE"
    assert server.admin.put(f"/api/v3/node-pools/{first}", json={"name": "three"}).status_code == 200
    assert server.admin.put(f"/api/v3/node-pools/{second}", json={"name": "one"}).status_code == 200


def test_the_nodes_of_a_deleted_pool_are_unassigned(server: Server, project: int) -> None:
    pool = new_pool(server, project, name="gone")
    node = server.admin.post("/api/v3/nodes", json={"name": uuid.uuid4().hex, "pool_id": pool}).json()["id"]
    path = f"/api/v3/node-pools/{pool}"
    assert server.admin.get(path).json()["node_count"] == 1
    assert server.admin.delete(path).status_code == 204
    shown = server.admin.get(f"/api/v3/nodes/{node}").json()
    assert (shown["pool_id"], shown["status"]) == (None, "quarantined")
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.delete(path)):
        assert answer.status_code == 404
    assert new_pool(server, project, name="gone") > pool


def test_a_pool_with_active_builds_stays(server: Server, project: int) -> None:
    pool = new_pool(server, project)
    job = server.admin.post("/api/v3/jobs", json={"name": "J", "project_id": project, "node_pool_id": pool}).json()[
        "id"
    ]
    configuration = {"setup": [], "command": "x", "env": {}, "artifacts": []}
    server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration)
    build = server.admin.post("/api/v3/builds/start", json={"job_id": job}).json()["id"]
    refused = server.admin.delete(f"/api/v3/node-pools/{pool}")
    assert (refused.status_code, "1 build is" in refused.json()["detail"]) == (409, True)
    server.admin.post(f"/api/v3/builds/{build}/stop")
    assert server.admin.delete(f"/api/v3/node-pools/{pool}").status_code == 204
    never = server.admin.post("/api/v3/builds/start", json={"job_id": job})
    assert (never.status_code, f"pool {pool}" in never.json()["detail"]) == (409, True)


def test_who_changes(server: Server, project: int) -> None:
    of_project, shared = (f"/api/v3/node-pools/{new_pool(server, project, shared=shared)}" for shared in (False, True))
    stranger, writer = server.make_user("developer", {}), server.make_user("developer", {project: "write"})
    admin = server.make_user("developer", {project: "admin"})
    assert [stranger.get(path).status_code for path in (of_project, shared)] == [404, 200]
    assert [stranger.put(path, json={}).status_code for path in (of_project, shared)] == [404, 403]
    assert [stranger.delete(path).status_code for path in (of_project, shared)] == [404, 403]
    assert (writer.put(of_project, json={}).status_code, writer.delete(of_project).status_code) == (403, 403)
    assert admin.put(of_project, json={"shared": False, "max_parallel": 1}).status_code == 200
    assert admin.put(of_project, json={"shared": True}).status_code == 403
    assert admin.delete(of_project).status_code == 204


@pytest.mark.parametrize("changes", [{"name": ""}, {"name": None}, {"labels": {"a": 1}}, {"max_parallel": 0}])
def test_changes_are_checked(server: Server, project: int, changes: dict[str, Any]) -> None:
    assert server.admin.put(f"/api/v3/node-pools/{new_pool(server, project)}", json=changes).status_code == 422
