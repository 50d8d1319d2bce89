"""Autoscaling of node pools over HTTP."""

from typing import Any

import pytest

from tests.support.builders import given_pool, given_project
from tests.support.server import Server

DOCKER = {"host": "build-host-01", "image": "testhide/agent:1", "memory_mb": 512, "cpus": None}
SETTING = {"minimum": 0, "maximum": 4, "idle_seconds": 60, "docker": DOCKER, "vcenter": None, "single_use": False}
VCENTER = {"name": "Lab", "host": "vcenter.example.com", "username": "svc", "password": "p", "datacenter": "DC0"}


@pytest.fixture(name="pool")
def _pool(server: Server) -> int:
    return given_pool(server, given_project(server))


def at(pool: int) -> str:
    return f"/api/v3/node-pools/{pool}/autoscaling"


def test_set_show_and_remove(server: Server, pool: int) -> None:
    assert server.admin.get(at(pool)).status_code == 404
    shown = server.admin.put(at(pool), json=SETTING).then(200)
    assert shown == SETTING | {"pool_id": pool, "machines": [], "failures": 0, "retry_at": None, "decisions": []}
    assert server.admin.get(at(pool)).then(200) == shown
    assert server.admin.put(at(pool), json=SETTING).then(200) == shown
    defaults = server.admin.put(at(pool), json={"maximum": 2, "docker": DOCKER}).then(200)
    assert defaults.items() >= {"minimum": 0, "maximum": 2, "idle_seconds": 300, "single_use": False}.items()
    *_, set_again = server.admin.get(f"/api/v3/audit/streams/autoscaling-{pool}").then(200)
    assert set_again["summary"].endswith(f"set that node pool {pool} has 0 to 2 machines.")
    assert server.admin.delete(at(pool)).status_code == 204
    for answer in (server.admin.get(at(pool)), server.admin.delete(at(pool))):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"minimum": 5}, {"minimum": "must not be larger than `maximum`"}),
        ({"maximum": 0}, {"maximum": "must be"}),
        ({"idle_seconds": 1}, {"idle_seconds": "must be"}),
        (
            {"docker": DOCKER | {"host": "elsewhere"}},
            {"docker.host": "is not one of the Docker hosts "},
        ),
        ({"minimum": 5, "docker": DOCKER | {"image": "evil:1"}}, {"minimum": "must", "docker.image": "is not one of"}),
        ({"docker": None}, {"docker": "must be given, or `vcenter` instead"}),
        (
            {"vcenter": {"vcenter_id": 999_999, "template_id": "vm-42"}},
            {"vcenter": "must not be given together with `docker`", "vcenter.vcenter_id": "there is no vCenter 999999"},
        ),
        ({"size": 3}, {"size": "is not known here"}),
    ],
)
def test_what_makes_no_sense_is_refused(
    server: Server, pool: int, changes: dict[str, Any], errors: dict[str, str]
) -> None:
    refused = server.admin.put(at(pool), json=SETTING | changes).then(422)
    found = {error["field"]: error["message"] for error in refused["errors"]}
    assert found.keys() == errors.keys()
    assert all(message in found[field] for field, message in errors.items())


def test_a_pool_must_exist(server: Server, pool: int) -> None:
    server.admin.put(at(pool), json=SETTING).then(200)
    assert server.admin.delete(f"/api/v3/node-pools/{pool}").status_code == 204
    for answer in (server.admin.get(at(pool)), server.admin.put(at(pool), json=SETTING), server.admin.delete(at(pool))):
        assert answer.status_code == 404


def test_who_may(server: Server) -> None:
    project = given_project(server)
    pool = given_pool(server, project)
    admin, reader = server.make_user("developer", {project: "admin"}), server.make_user("developer", {project: "read"})
    refused = admin.put(at(pool), json=SETTING)
    assert refused.status_code == 403, "it spawns machines on hosts of all projects"
    assert reader.put(at(pool), json=SETTING).status_code == 403
    server.admin.put(at(pool), json=SETTING).then(200)
    assert reader.get(at(pool)).then(200)["maximum"] == 4
    assert server.make_user("developer", {}).get(at(pool)).status_code == 404
    assert admin.delete(at(pool)).status_code == 403


def test_machines_of_a_vcenter(server: Server, pool: int) -> None:
    vcenter = server.admin.post("/api/v3/vcenter", json=VCENTER).then(201)["id"]
    source = {"vcenter_id": vcenter, "template_id": "vm-42"}
    shown = server.admin.put(at(pool), json=SETTING | {"docker": None, "vcenter": source}).then(200)
    assert (shown["docker"], shown["vcenter"]) == (None, source)
