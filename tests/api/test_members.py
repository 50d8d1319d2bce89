"""Members of a project, as its admins name them."""

import pytest

from tests.support.http import Client
from tests.support.server import Server


@pytest.fixture(scope="module")
def project(server: Server) -> int:
    return int(server.admin.post("/api/v3/projects", json={"name": "Members"}).then(201)["id"])


def me(client: Client) -> dict[str, object]:
    return dict(client.get("/api/v3/me").then(200))


def test_an_admin_of_the_project_names_members(server: Server, project: int) -> None:
    owner, ann = server.make_user("developer", {project: "admin"}), server.make_user("viewer")
    url, email, number = f"/api/v3/projects/{project}/members", me(ann)["email"], me(ann)["id"]
    assert ann.get(url).status_code == 404
    member = owner.post(url, json={"email": str(email).upper(), "access": "write"}).then(201)
    assert member.items() >= {"id": number, "email": email, "role": "viewer", "access": "write"}.items()
    assert member in ann.get(url).then(200)
    assert owner.put(f"{url}/{number}", json={"access": "read"}).then(200)["access"] == "read"
    assert owner.get(url, params={"limit": 1}).links["next"]["url"]
    assert owner.delete(f"{url}/{number}").status_code == 204
    assert ann.get(url).status_code == 404
    gone = f"User {number} is no member of project {project}."
    assert owner.delete(f"{url}/{number}").then(404)["detail"] == gone
    assert owner.put(f"{url}/{number}", json={"access": "read"}).then(404)["detail"] == gone


def test_nobody_else_names_members(server: Server, project: int) -> None:
    url = f"/api/v3/projects/{project}/members"
    writer, stranger = server.make_user("developer", {project: "write"}), server.make_user("developer")
    body = {"email": me(writer)["email"], "access": "admin"}
    for client, status in ((writer, 403), (stranger, 404)):
        assert client.post(url, json=body).status_code == status
        assert client.put(f"{url}/{me(writer)['id']}", json={"access": "admin"}).status_code == status
        assert client.delete(f"{url}/{me(writer)['id']}").status_code == status


def test_an_address_without_an_account(server: Server, project: int) -> None:
    body = {"email": "nobody@example.com", "access": "read"}
    problem = server.admin.post(f"/api/v3/projects/{project}/members", json=body).then(404)
    assert (
        problem["detail"] == "No user has the address nobody@example.com; an admin invites them by POST /api/v3/users."
    )
