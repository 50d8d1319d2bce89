"""Node pools."""

import uuid
from typing import Any

import pytest


@pytest.fixture(name="project")
def _project(server: Any) -> int:
    return int(server.admin.post("/api/v3/projects", json={"name": "Pools"}).json()["id"])


def test_create_and_list(server: Any, project: int) -> None:
    body = {"name": "linux-large", "project_id": project, "labels": {"arch": "amd64"}, "max_parallel": 10}
    answer = server.admin.post("/api/v3/node-pools", json=body)
    assert answer.status_code == 201
    assert answer.json().items() >= (body | {"node_count": 0}).items()
    assert server.admin.get("/api/v3/node-pools", params={"project_id": project}).json() == [answer.json()]


def test_names_are_unique_in_a_project(server: Any, project: int) -> None:
    body = {"name": "linux", "project_id": project}
    assert server.admin.post("/api/v3/node-pools", json=body).status_code == 201
    again = server.admin.post("/api/v3/node-pools", json=body)
    assert again.status_code == 409
    assert "linux" in again.json()["detail"]
    other = int(server.admin.post("/api/v3/projects", json={"name": "Pools"}).json()["id"])
    assert server.admin.post("/api/v3/node-pools", json=body | {"project_id": other}).status_code == 201


def test_who_creates(server: Any, project: int) -> None:
    body = {"name": uuid.uuid4().hex, "project_id": project}
    assert server.make_user("developer", {}).post("/api/v3/node-pools", json=body).status_code == 404
    assert server.make_user("developer", {project: "write"}).post("/api/v3/node-pools", json=body).status_code == 403
    admin = server.make_user("developer", {project: "admin"})
    assert admin.post("/api/v3/node-pools", json=body | {"shared": True}).status_code == 403
    assert admin.post("/api/v3/node-pools", json=body).status_code == 201


def test_unknown_projects(server: Any) -> None:
    assert server.admin.post("/api/v3/node-pools", json={"name": "x", "project_id": 2**53}).status_code == 404


def test_who_sees(server: Any, project: int) -> None:
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
def test_fields_are_checked(server: Any, project: int, changes: dict[str, Any]) -> None:
    body = {"name": "x", "project_id": project} | changes
    assert server.admin.post("/api/v3/node-pools", json=body).status_code == 422
