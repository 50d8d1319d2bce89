"""Signing in and out, tokens, and what everybody may ask."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import requests

from tests.support.server import Server


def login(server: Server, username: str, password: str) -> requests.Response:
    body = {"username": username, "password": password}
    return requests.post(f"{server.url}/api/v3/authenticate", json=body, timeout=10)


def bearer(server: Server, token: str, path: str = "/api/v3/me") -> requests.Response:
    return requests.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=10)


def test_a_session_lasts_until_logout(server: Server) -> None:
    me = server.make_user("developer", {})
    assert me.get("/api/v3/me").status_code == 200
    answer = me.post("/api/v3/logout")
    assert (answer.status_code, answer.content) == (204, b"")
    refused = me.get("/api/v3/me")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_me_says_who_and_where(server: Server) -> None:
    project = server.admin.post("/api/v3/projects", json={"name": "Mine"}).json()["id"]
    me = server.make_user("developer", {project: "write"}).get("/api/v3/me").json()
    assert {"id", "email", "role", "projects", "permissions"} <= me.keys()
    assert (me["role"], me["projects"]) == ("developer", [project])
    assert me["permissions"]["projects"] == {str(project): "write"}
    assert me["permissions"]["can_start_builds"]
    assert not me["permissions"]["can_manage_nodes"]


def test_an_admin_sees_every_project(server: Server) -> None:
    project = server.make_user("developer", {}).post("/api/v3/projects", json={"name": "Theirs"}).json()["id"]
    assert project in server.admin.get("/api/v3/me").json()["projects"]


def test_the_answer_of_authenticate(server: Server) -> None:
    api = server.make_user("viewer", {})
    me = api.get("/api/v3/me").json()
    answer = login(server, me["email"].upper(), "wrong")
    assert answer.status_code == 401
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    token = api.token
    assert bearer(server, token).json()["id"] == me["id"]


@pytest.mark.parametrize(
    ("username", "password"), [("nobody@example.com", "x"), ("", "x"), ("a", "x" * 1001), ("\0", "x")]
)
def test_bad_logins_are_refused(server: Server, username: str, password: str) -> None:
    assert login(server, username, password).status_code in (401, 422)


def test_both_fields_are_required(server: Server) -> None:
    answer = requests.post(f"{server.url}/api/v3/authenticate", json={"username": "a"}, timeout=10)
    assert answer.status_code == 422
    assert "password" in answer.json()["detail"]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "th_live_unknown", "agt_unknown", "ü"])
def test_made_up_tokens_are_refused(server: Server, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    answer = requests.get(f"{server.url}/api/v3/me", headers=headers, timeout=10)
    assert answer.status_code == 401


def test_config(server: Server) -> None:
    config = server.make_user("viewer", {}).get("/api/v3/config").json()
    assert isinstance(config["version"], str)
    assert config["global_options"]["ai_assist"] == {"enabled": False}
    assert isinstance(config["global_options"]["max_parallel_builds"], int)


def test_an_api_token_works_until_it_is_revoked(server: Server) -> None:
    me = server.make_user("developer", {})
    created = me.post("/api/v3/api-tokens", json={"name": "CI Bot"})
    assert created.status_code == 201
    token = created.json()
    assert token["secret"].startswith("th_live_")
    assert datetime.fromisoformat(token["created_at"]) > datetime.now(UTC) - timedelta(minutes=5)
    listed = me.get("/api/v3/api-tokens").json()
    assert [(item["id"], item["name"], "secret" in item) for item in listed] == [(token["id"], "CI Bot", False)]
    assert bearer(server, token["secret"]).json()["id"] == me.get("/api/v3/me").json()["id"]
    assert me.delete(f"/api/v3/api-tokens/{token['id']}").status_code == 204
    assert bearer(server, token["secret"]).status_code == 401
    assert me.get("/api/v3/api-tokens").json() == []
    assert me.delete(f"/api/v3/api-tokens/{token['id']}").status_code == 404


def test_the_use_of_a_token_is_shown(server: Server) -> None:
    me = server.make_user("developer", {})
    token = me.post("/api/v3/api-tokens", json={"name": uuid.uuid4().hex}).json()
    assert me.get("/api/v3/api-tokens").json()[0]["last_used"] is None
    bearer(server, token["secret"])
    assert datetime.fromisoformat(me.get("/api/v3/api-tokens").json()[0]["last_used"])


def test_a_token_cannot_log_out(server: Server) -> None:
    token = server.admin.post("/api/v3/api-tokens", json={"name": "bot"}).json()
    headers = {"Authorization": f"Bearer {token['secret']}"}
    answer = requests.post(f"{server.url}/api/v3/logout", headers=headers, timeout=10)
    assert answer.status_code == 409
    assert "api-tokens" in answer.json()["detail"]


def test_tokens_of_others_do_not_exist(server: Server) -> None:
    token = server.admin.post("/api/v3/api-tokens", json={"name": "admin's"}).json()
    other = server.make_user("developer", {})
    assert other.delete(f"/api/v3/api-tokens/{token['id']}").status_code == 404
    assert bearer(server, token["secret"]).status_code == 200


@pytest.mark.parametrize("name", ["", " ", "x" * 201, None, 5, "nul\0"])
def test_labels_are_checked(server: Server, name: object) -> None:
    assert server.admin.post("/api/v3/api-tokens", json={"name": name}).status_code == 422


def test_tokens_have_pages(server: Server) -> None:
    me = server.make_user("developer", {})
    ids = [me.post("/api/v3/api-tokens", json={"name": str(n)}).json()["id"] for n in range(3)]
    first = me.get("/api/v3/api-tokens", params={"limit": 2})
    assert [item["id"] for item in first.json()] == ids[:2]
    assert [item["id"] for item in me.get(first.links["next"]["url"]).json()] == ids[2:]
    assert [item["id"] for item in me.get("/api/v3/api-tokens", params={"limit": 2, "page": 2}).json()] == ids[2:]
