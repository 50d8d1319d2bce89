"""Signing in and out, tokens, and what everybody may ask."""

import base64
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import psycopg
import pytest
import requests

from api.auth import MAX_FAILED_SIGN_INS
from api.http.authentication import SESSION_KEY_LIFETIME, SESSION_LIFETIME, session_token, session_week
from tests.support.http import Answer, Client
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
    assert config["mail"] == {"enabled": False}


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


def limited(client: Client, server: Server, **limits: Any) -> Client:
    """A client with an API token of this client's user."""
    return server.client().authorize(client.create("/api-tokens", name="bot", **limits)["secret"])


def test_a_token_of_few_scopes_does_nothing_else(server: Server) -> None:
    project = server.admin.create("/projects", name="Scopes")["id"]
    ann = server.make_user("developer", {project: "admin"})
    job = ann.create("/jobs", name="Tests", project_id=project)["id"]
    ann.when("PUT", f"/jobs/{job}/configuration", json={"command": "true", "setup": [], "env": {}, "artifacts": []})
    build = ann.create("/builds/start", job_id=job, external=True)["id"]
    asked: dict[str, Callable[[Client], Answer]] = {
        "read": lambda client: client.when("GET", f"/jobs/{job}"),
        "build": lambda client: client.when("POST", "/builds/start", json={"job_id": job}),
        "report": lambda client: client.when("POST", f"/builds/{build}/finish", json={"status": "passed"}),
        "admin": lambda client: client.when("PUT", f"/jobs/{job}", json={"name": "Tests"}),
    }
    for scopes in (None, ["read"], ["build"], ["report"], ["read", "report"], ["admin"]):
        client = limited(ann, server, scopes=scopes)
        assert client.fetch("/me")["permissions"]["can_start_builds"] == (
            not scopes or "admin" in scopes or "build" in scopes
        )
        assert client.fetch("/me")["email"] == ann.fetch("/me")["email"]
        for scope, ask in asked.items():
            answer = ask(client)
            if not scopes or {scope, "admin"} & set(scopes):
                assert answer.ok, (scopes, scope, answer.text)
            else:
                detail = f"This API token has no scope `{scope}`, which this needs."
                assert answer.then(403)["detail"] == detail


def test_a_token_of_some_projects_sees_no_other(server: Server) -> None:
    one, other = (server.admin.create("/projects", name=name)["id"] for name in ("One", "Other"))
    bot = limited(server.admin, server, project_ids=[one])
    assert bot.fetch("/me")["projects"] == [one]
    assert bot.fetch("/me")["permissions"]["is_admin"] is False
    assert [project["id"] for project in bot.fetch("/projects")] == [one]
    bot.when("GET", f"/projects/{other}").then(404)
    bot.when("PUT", f"/projects/{one}", json={"description": "by a bot"}).then(200)
    me = server.admin.fetch("/me")["id"]
    asked = (("GET", "/users"), ("POST", "/nodes"), ("POST", "/projects"), ("POST", f"/users/{me}/sign-out"))
    for method, path in asked:
        body = {"name": "n", "pool_id": 1} if path == "/nodes" else {"name": "n"} if path == "/projects" else None
        assert bot.when(method, path, json=body).status_code in (403, 422), path
    ann = server.make_user("developer", {one: "read", other: "write"})
    bot = limited(ann, server, project_ids=[other])
    assert bot.fetch("/me")["permissions"]["projects"] == {str(other): "write"}
    bot.when("GET", f"/projects/{one}").then(404)
    for user in (ann, server.admin):
        refused = user.when("POST", "/api-tokens", json={"name": "x", "project_ids": [one, 10**9]}).then(422)
        assert refused["errors"] == [{"field": "project_ids", "message": f"there is no project {10**9}"}]


def test_a_limited_token_makes_no_token(server: Server) -> None:
    for limits in ({"scopes": ["admin"]}, {"project_ids": [server.admin.create("/projects", name="P")["id"]]}):
        problem = limited(server.admin, server, **limits).when("POST", "/api-tokens", json={"name": "more"}).then(403)
        assert (
            problem["detail"] == "A limited API token cannot do this: sign in, or use one without scopes and projects."
        )


def test_a_token_makes_none_that_outlives_it(server: Server) -> None:
    ends, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, 2))
    bot = limited(server.make_user("viewer", {}), server, expires_at=ends.isoformat())
    for limits in ({}, {"expires_at": None}, {"expires_at": later.isoformat()}):
        (error,) = bot.when("POST", "/api-tokens", json={"name": "more"} | limits).then(422)["errors"]
        assert error["field"] == "expires_at"
    second = limited(bot, server, expires_at=ends.isoformat())
    second.when("POST", "/api-tokens", json={"name": "more"}).then(422)


def test_a_token_ends_when_it_was_said(server: Server) -> None:
    past = {"name": "x", "expires_at": "2020-01-01"}
    assert server.admin.when("POST", "/api-tokens", json=past).then(422)["errors"][0]["field"] == "expires_at"
    ends = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    bot = limited(server.admin, server, expires_at=ends, scopes=["read"])
    item = next(item for item in server.admin.fetch("/api-tokens", limit=500)[::-1] if item["expires_at"])
    assert (datetime.fromisoformat(item["expires_at"]), item["scopes"]) == (datetime.fromisoformat(ends), ["read"])
    bot.when("GET", "/me").then(200)
    while bot.when("GET", "/me").status_code == 200:
        assert datetime.now(UTC) < datetime.fromisoformat(ends) + timedelta(seconds=5)
    assert datetime.now(UTC) >= datetime.fromisoformat(ends)
    bot.when("GET", "/me").then(401)


def test_who_may_manage_nodes_is_no_admin(server: Server) -> None:
    project = server.admin.create("/projects", name="Nodes")["id"]
    pool = server.admin.create("/node-pools", name="P", project_id=project)["id"]
    ann = server.make_user("developer", {project: "read"})
    body = {"name": f"node-{uuid.uuid4()}", "pool_id": pool}
    ann.when("POST", "/nodes", json=body).then(403)
    server.admin.when("PUT", f"/users/{ann.fetch('/me')['id']}", json={"can_manage_nodes": True}).then(200)
    assert ann.fetch("/me")["permissions"]["can_manage_nodes"] is True
    node = ann.create("/nodes", **body)["id"]
    ann.when("POST", f"/nodes/{node}/execute", json={"command": "id"}).then(403)
    limited(ann, server, scopes=["admin"]).when("DELETE", f"/nodes/{node}").then(403)
    ann.when("DELETE", f"/nodes/{node}").then(204)


def test_all_sessions_of_a_user_end_at_once(server: Server) -> None:
    ann = server.make_user("developer")
    me = ann.fetch("/me")
    other, bot = server.client(me["email"], "a password of theirs"), limited(ann, server)
    server.make_user("developer").when("POST", f"/users/{me['id']}/sign-out").then(403)
    other.when("POST", f"/users/{me['id']}/sign-out").then(204)
    assert [client.when("GET", "/me").status_code for client in (ann, other, bot)] == [401, 401, 200]
    server.admin.when("POST", f"/users/{me['id']}/sign-out").then(204)
    server.admin.when("POST", f"/users/{10**9}/sign-out").then(404)


def test_a_password_is_changed_by_who_knows_the_current_one(server: Server) -> None:
    ann = server.make_user("developer")
    other = server.client(ann.fetch("/me")["email"], "a password of theirs")
    bot = limited(ann, server, scopes=["admin"])
    change = {"current_password": "a password of theirs", "new_password": "a longer one of theirs"}
    bot.when("POST", "/me/password", json=change).then(403)
    wrong = ann.when("POST", "/me/password", json=change | {"current_password": "guessed"}).then(422)
    assert [error["field"] for error in wrong["errors"]] == ["current_password"]
    weak = ann.when("POST", "/me/password", json=change | {"new_password": "password"}).then(422)
    assert [error["field"] for error in weak["errors"]] == ["new_password"]
    email = other.fetch("/me")["email"]
    ann.when("POST", "/me/password", json=change).then(200)
    assert [client.when("GET", "/me").status_code for client in (ann, other)] == [401, 401]
    assert login(server, email, change["current_password"]).status_code == 401
    assert login(server, email, change["new_password"]).status_code == 200


def test_a_session_that_guesses_the_password_is_held_up(server: Server) -> None:
    ann = server.make_user("viewer")
    guess = {"current_password": "guessed", "new_password": "a longer one of theirs"}
    statuses = [ann.when("POST", "/me/password", json=guess).status_code for _ in range(MAX_FAILED_SIGN_INS + 1)]
    assert statuses == [422] * MAX_FAILED_SIGN_INS + [429]


def test_a_session_that_nobody_uses_ends(server: Server) -> None:
    ann, ben = server.make_user("viewer"), server.make_user("viewer")
    session_id, other_id = (jwt.decode(of.token, options={"verify_signature": False})["jti"] for of in (ann, ben))
    now = datetime.now(UTC)
    idle = timedelta(minutes=server.settings.session_idle_minutes)
    opened_before = session_token(server.secrets, 1, session_id, now - idle - timedelta(minutes=1))
    assert "not used for 60 minutes" in bearer(server, opened_before).json()["detail"], "nobody has used it"
    with psycopg.connect(server.engines.database_url) as connection:
        used = "INSERT INTO session_uses VALUES (%s, %s)"
        connection.execute(used, (session_id, now - idle + timedelta(minutes=1)))
        connection.execute(used, (other_id, now - idle - timedelta(minutes=1)))
    assert bearer(server, opened_before).status_code == 200, "used a short while ago"
    assert [ben.when("GET", "/me").status_code for _ in range(2)] == [401, 401]
    with psycopg.connect(server.engines.database_url) as connection:
        query = "SELECT used_at > %s FROM session_uses WHERE session_id = ANY (%s) ORDER BY used_at"
        assert connection.execute(query, (now, [session_id, other_id])).fetchall() == [(False,), (True,)]


def test_a_session_is_signed_by_the_key_of_its_time(server: Server) -> None:
    client = server.make_user("viewer")
    secrets = server.secrets
    session_id = jwt.decode(client.token, options={"verify_signature": False})["jti"]
    now = datetime.now(UTC)
    weeks = [session_week(at) for at in (now, now - SESSION_LIFETIME)]
    assert jwt.get_unverified_header(client.token)["kid"] in {secrets.session_key(week)[0] for week in weeks}
    ours = session_token(secrets, client.fetch("/me")["id"], session_id, now)
    assert bearer(server, ours).status_code == 200
    later = {"sub": "1", "jti": session_id, "exp": now + SESSION_LIFETIME}
    key_id, key = secrets.session_key(session_week(now))
    assert bearer(server, jwt.encode(later, key, "HS256", headers={"kid": key_id})).status_code == 200
    ended = later | {"jti": "ended"}
    assert bearer(server, jwt.encode(ended, key, "HS256", headers={"kid": key_id})).status_code == 401
    other_weeks = ("1", session_week(now - 3 * SESSION_KEY_LIFETIME), session_week(now + 2 * SESSION_KEY_LIFETIME))
    for kid, its_key in (*map(secrets.session_key, other_weeks), ("9.1", key), (session_week(now), key)):
        forged = jwt.encode(later, its_key, "HS256", headers={"kid": kid})
        assert bearer(server, forged).status_code == 401
    assert bearer(server, jwt.encode(later, key, "HS256")).status_code == 401


def test_a_session_token_that_was_changed_opens_nothing(server: Server) -> None:
    head, claims, signature = server.make_user("viewer").token.split(".")

    def changed(part: str, **changes: Any) -> str:
        decoded = json.loads(base64.urlsafe_b64decode(part + "==")) | changes
        return base64.urlsafe_b64encode(json.dumps(decoded).encode()).rstrip(b"=").decode()

    long_id = f"{'9' * 5_000}.{session_week(datetime.now(UTC))}"  # more digits than Python makes a number of
    for token in (
        f"{changed(head, alg='none')}.{claims}.",
        f"{changed(head, alg='none')}.{claims}.{signature}",
        f"{changed(head, alg='HS512')}.{claims}.{signature}",
        f"{changed(head, kid=[1])}.{claims}.{signature}",
        f"{changed(head, kid='9' * 4_000)}.{claims}.{signature}",
        f"{changed(head, kid=long_id)}.{claims}.{signature}",
        f"{changed(head, crit=['x'])}.{claims}.{signature}",
        f"{changed(head, b64=False)}.{claims}.{signature}",
        f"{head}.{changed(claims, sub='1')}.{signature}",
        f"{head}.{changed(claims, exp=2**53)}.{signature}",
        "...",
        "a" * 60_000,
    ):
        assert bearer(server, token).status_code == 401
