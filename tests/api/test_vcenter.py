"""vCenter integrations over HTTP."""

from typing import Any

import pytest
import requests

from commands.registrations import make_registration_token
from domain.vcenter_operations import make_machine_id
from tests.support.builders import Shop
from tests.support.server import Server

AT = "/api/v3/vcenter"
PASSWORD = "s3cr3t-0123456789-planted"
VCENTER = {
    "name": "Prod vCenter",
    "host": "vcenter.example.com",
    "username": "svc-testhide",
    "password": PASSWORD,
    "datacenter": "DC-East",
}


def create(server: Server, **fields: Any) -> dict[str, Any]:
    created: dict[str, Any] = server.admin.post(AT, json=VCENTER | fields).then(201)
    return created


def test_create_and_show(server: Server) -> None:
    created = create(server)
    shown = {"name": "Prod vCenter", "host": "vcenter.example.com", "datacenter": "DC-East", "username": "svc-testhide"}
    assert created.items() >= (shown | {"cluster": None, "insecure": False, "connected": False}).items()
    assert server.admin.get(f"{AT}/{created['id']}").then(200) == created
    assert created in server.admin.get(AT, params={"after": created["id"] - 1}).then(200)
    assert PASSWORD not in str(created)
    assert create(server, cluster="Compute-01", insecure=True).items() >= {"cluster": "Compute-01"}.items()


def test_who_may(server: Server) -> None:
    path = f"{AT}/{create(server)['id']}"
    developer = server.make_user("developer", {})
    assert developer.get(path).then(200)["username"] is None
    for answer in (developer.post(AT, json=VCENTER), developer.put(path, json={}), developer.post(f"{path}/test")):
        assert answer.status_code == 403
    assert developer.delete(path).status_code == 403


def test_update_and_delete(server: Server) -> None:
    path = f"{AT}/{create(server)['id']}"
    changes = {"datacenter": "DC-West", "cluster": "C2", "username": "svc-2", "host": "vcenter.example.com"}
    changed = server.admin.put(path, json=changes).then(200)
    assert changed.items() >= changes.items()
    assert server.admin.put(path, json={"cluster": None}).then(200)["cluster"] is None
    moved = {"host": "10.example.com:8443", "password": "other"}
    assert server.admin.put(path, json={"host": moved["host"]}).then(422)["errors"][0]["field"] == "password"
    assert server.admin.put(path, json=moved).then(200)["host"] == moved["host"]
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.post(f"{path}/test")):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"host": "127.0.0.1"}, "host", "this machine"),
        ({"host": "10.0.0.7"}, "host", "TESTHIDE_OUTGOING_ALLOW"),
        ({"host": "https://vcenter.example.com"}, "host", ":PORT"),
        ({"host": "vcenter.example.com/sdk"}, "host", ":PORT"),
        ({"host": "user@vcenter.example.com"}, "host", ":PORT"),
        ({"host": "vcenter.example.com:x"}, "host", ""),
        ({"host": "two words"}, "host", ""),
        ({"host": ""}, "host", ""),
        ({"password": ""}, "password", ""),
        ({"datacenter": ""}, "datacenter", ""),
    ],
)
def test_fields_are_checked(server: Server, changes: dict[str, Any], field: str, message: str) -> None:
    answer = server.admin.post(AT, json=VCENTER | changes).then(422)
    error = answer["errors"][0]
    assert (error["field"], message in error["message"]) == (field, True), error
    assert PASSWORD not in str(answer)


def test_an_operation_that_nobody_knows(server: Server) -> None:
    path = f"{AT}/{create(server)['id']}/operations"
    assert server.admin.get(path).then(200) == []
    assert server.admin.get(f"{path}/{2**52}").status_code == 404
    assert server.admin.get(f"{AT}/{2**52}/operations").status_code == 404


def test_a_machine_registers_by_a_token_that_works_once(server: Server) -> None:
    vcenter = create(server)["id"]
    pool = Shop(server).pool
    with pytest.raises(requests.ReadTimeout):  # no worker carries the operation out
        server.admin.post(f"{AT}/{vcenter}/vms", json={"template_id": "vm-7", "pool_id": pool}, timeout=1)
    server.wait_until_projected()
    (operation,) = server.admin.get(f"{AT}/{vcenter}/operations").then(200)
    assert (operation["kind"], operation["vm_id"], operation["status"]) == ("clone", "vm-7", "running")
    token = make_registration_token(server.secrets, make_machine_id(operation["id"]), "0")
    body = {"registration_token": token, "agent_token": f"agt_{'x' * 32}"}
    machine = server.client().post("/api/v3/agent/register", json=body).then(200)
    assert machine["name"].startswith(f"testhide-{operation['id']}-")
    assert server.client().post("/api/v3/agent/register", json=body).then(200) == machine
    node = server.admin.get(f"/api/v3/nodes/{machine['node_id']}").then(200)
    assert (node["name"], node["pool_id"]) == (machine["name"], pool)
    other = body | {"agent_token": f"agt_{'y' * 32}"}
    assert server.client().post("/api/v3/agent/register", json=other).status_code == 401
