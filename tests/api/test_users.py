"""Inviting, changing and deleting users. That nothing is left of deleted ones: tests/e2e/test_erasure.py."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import sql

from commands.handler import CommandContext, Handler
from commands.users import register_user
from store.clock import utcnow
from testhide.processes import core
from tests.support.http import Answer, Client
from tests.support.server import ADMIN, Server

PASSWORD = "a good long password"


def id_of(client: Client) -> int:
    return int(client.get("/api/v3/me").json()["id"])


def invite(server: Server, **more: Any) -> dict[str, Any]:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "role": "developer", **more}
    invited: dict[str, Any] = server.admin.post("/api/v3/users", json=body).then(201)
    return invited


def token_of(invited: dict[str, Any]) -> str:
    return str(invited["invitation_url"].partition("#")[2])


def accept(server: Server, token: str, password: str = PASSWORD) -> Answer:
    return server.client().post("/api/v3/reset-password/confirm", json={"token": token, "new_password": password})


def new_project(server: Server) -> int:
    return int(server.admin.post("/api/v3/projects", json={"name": "Theirs"}).then(201)["id"])


def test_somebody_is_invited_and_signs_in(server: Server) -> None:
    one, other = new_project(server), new_project(server)
    invited = invite(server, first_name="Ada", project_ids=[other, one])
    assert invited["project_ids"] == [one, other]
    assert invited["invited_at"] < invited["expires_at"]
    url = f"/api/v3/users/{invited['id']}"
    assert server.admin.get(url).then(200).items() >= {"invited_at": invited["invited_at"], "last_login": None}.items()
    credentials = {"username": invited["email"], "password": PASSWORD}
    assert server.client().post("/api/v3/authenticate", json=credentials).status_code == 401
    assert accept(server, token_of(invited)).then(200) == {"detail": "Password updated successfully."}
    ada = server.client(invited["email"], PASSWORD)
    shown = ada.get(url).then(200)
    assert (shown["first_name"], shown["active"], shown["invited_at"]) == ("Ada", True, None)
    assert shown["last_login"] is not None
    assert shown["memberships"] == [{"project_id": number, "access": "write"} for number in (one, other)]
    assert ada.get("/api/v3/me").then(200)["projects"] == [one, other]


def test_a_link_is_refused_where_it_was_not_made_or_was_used(server: Server) -> None:
    first = invite(server)
    second = server.admin.post(f"/api/v3/users/{first['id']}/invite").then(201)
    assert token_of(first) != token_of(second)
    user_id, link_id, proof = token_of(second).split(".")
    forged = (
        token_of(first),
        f"{int(user_id) + 1}.{link_id}.{proof}",
        f"{user_id}.{link_id}.{'0' * len(proof)}",
        f"{user_id}.{link_id}",
        f"0{user_id}.{link_id}.{proof}",
        "٣.x.y",
        "x",
    )
    for token in forged:
        problem = accept(server, token).then(422)
        assert problem["errors"] == [{"field": "token", "message": "is not valid (any more): ask for a new link"}]
    assert accept(server, token_of(second), "password1").then(422)["errors"][0]["field"] == "new_password"
    accept(server, token_of(second)).then(200)
    accept(server, token_of(second)).then(422)
    server.admin.post(f"/api/v3/users/{first['id']}/invite").then(409)


def test_the_token_of_a_link_is_stored_nowhere(server: Server) -> None:
    proof = token_of(invite(server)).rpartition(".")[2]
    with psycopg.connect(server.settings.database_url) as connection:
        tables = connection.execute("SELECT schemaname, tablename FROM pg_tables").fetchall()
        for schema, table in tables:
            if schema not in ("pg_catalog", "information_schema"):
                query = sql.SQL("SELECT 1 FROM {} t WHERE t::text LIKE %s").format(sql.Identifier(schema, table))
                assert connection.execute(query, (f"%{proof}%",)).fetchone() is None, table


def test_an_address_is_invited_once(server: Server) -> None:
    invited = invite(server)
    body = {"email": invited["email"].upper(), "role": "viewer"}
    assert server.admin.post("/api/v3/users", json=body).then(409)["detail"].startswith("There already is a user")
    body = {"email": "nobody", "role": "owner", "project_ids": ["x"]}
    fields = [error["field"] for error in server.admin.post("/api/v3/users", json=body).then(422)["errors"]]
    assert fields == ["email", "role", "project_ids[0]"]
    both = {"email": "a@example.com", "role": "viewer", "project_ids": [], "memberships": []}
    assert server.admin.post("/api/v3/users", json=both).then(422)["errors"][0]["field"] == "memberships"


def test_the_list_is_searched_and_paged(server: Server) -> None:
    mark = secrets.token_hex(4)
    users = [invite(server, first_name=name, last_name=f"O'{mark}%") for name in ("Ann", "Bea", "Cay")]
    ids = [user["id"] for user in users]

    def listed(**query: Any) -> tuple[int, list[int]]:
        page = server.admin.get("/api/v3/users", params=query).then(200)
        return page["total"], [user["id"] for user in page["results"]]

    assert listed(search=f"o'{mark.upper()}%") == (3, ids)
    assert listed(search=f"bea O'{mark}") == (1, ids[1:2])
    assert listed(search=users[2]["email"][1:]) == (1, ids[2:])
    assert listed(search=mark, limit=2) == (3, ids[:2])
    assert listed(search=mark, limit=2, page=2) == (3, ids[2:])
    answer = server.admin.get("/api/v3/users", params={"search": mark, "limit": 2})
    following = server.admin.get(answer.links["next"]["url"]).then(200)
    assert [user["id"] for user in following["results"]] == ids[2:]


def test_only_admins_see_and_change_users(server: Server) -> None:
    ann = server.make_user("developer")
    for path, method in (("", "GET"), ("", "POST"), ("/1", "GET"), ("/1", "PUT"), ("/1/invite", "POST")):
        body = {"email": "a@example.com", "role": "admin"} if path == "" and method == "POST" else None
        answer = ann.request(method, f"/api/v3/users{path}", json={} if method == "PUT" else body)
        assert answer.status_code == 403, (method, path)
    assert ann.get(f"/api/v3/users/{id_of(ann)}").then(200)["role"] == "developer"
    assert ann.put(f"/api/v3/users/{id_of(ann)}", json={"role": "admin"}).status_code == 403


def test_memberships_are_replaced_and_roles_count_at_once(server: Server) -> None:
    one, two, three = (new_project(server) for _ in range(3))
    ann = server.make_user("developer", {one: "admin", two: "read"})
    url = f"/api/v3/users/{id_of(ann)}"
    changed = server.admin.put(url, json={"project_ids": [three, one]}).then(200)
    assert changed["project_ids"] == changed["projects"] == [one, three]
    access = {item["project_id"]: item["access"] for item in changed["memberships"]}
    assert access == {one: "admin", three: "write"}
    assert ann.get(f"/api/v3/projects/{two}").status_code == 404
    memberships = [{"project_id": two, "access": "write"}]
    assert server.admin.put(url, json={"memberships": memberships, "role": "viewer"}).then(200)["projects"] == [two]
    assert ann.get(f"{url}/permissions").then(200)["projects"] == {str(two): "read"}
    assert ann.post("/api/v3/jobs", json={"name": "x", "project_id": two}).status_code == 403
    assert server.admin.put(url, json={"last_name": "L"}).then(200)["projects"] == [two]
    assert server.admin.put(url, json={"project_ids": []}).then(200)["projects"] == []
    twice = {"memberships": memberships * 2}
    assert server.admin.put(url, json=twice).then(422)["errors"][0]["message"] == "name a project twice"
    assert server.admin.put(url, json={"project_ids": [10**12]}).then(404)["detail"] == f"There is no project {10**12}."


def test_who_is_made_inactive_is_out_at_once_and_for_good(server: Server) -> None:
    ann = server.make_user("developer")
    me = ann.get("/api/v3/me").json()
    token = ann.post("/api/v3/api-tokens", json={"name": "bot"}).then(201)["secret"]
    bot = server.client()
    bot.headers["Authorization"] = f"Bearer {token}"
    assert bot.get("/api/v3/me").status_code == 200
    url = f"/api/v3/users/{me['id']}"
    assert server.admin.put(url, json={"active": False}).then(200)["active"] is False
    credentials = {"username": me["email"], "password": "a password of theirs"}
    assert server.client().post("/api/v3/authenticate", json=credentials).status_code == 401
    assert (ann.get("/api/v3/me").status_code, bot.get("/api/v3/me").status_code) == (401, 401)
    nothing = {"can_start_builds": False, "can_manage_nodes": False, "is_admin": False, "projects": {}}
    assert server.admin.get(f"{url}/permissions").then(200) == {**nothing, "user_id": me["id"]}
    server.admin.put(url, json={"active": True}).then(200)
    assert (ann.get("/api/v3/me").status_code, bot.get("/api/v3/me").status_code) == (401, 401)
    assert server.client(me["email"], "a password of theirs").get("/api/v3/me").status_code == 200


def test_of_two_admins_who_demote_each_other_one_stays(server: Server) -> None:
    for _ in range(5):
        pair = [server.make_user("admin"), server.make_user("admin")]
        paths = [f"/api/v3/users/{id_of(client)}" for client in pair]
        with ThreadPoolExecutor(2) as threads:
            demote = {"role": "viewer"}
            answers = [
                threads.submit(client.put, path, json=demote)
                for client, path in zip(pair, reversed(paths), strict=True)
            ]
        assert sorted(answer.result().status_code for answer in answers) == [200, 403]
        assert sorted(client.get("/api/v3/me").json()["role"] for client in pair) == ["admin", "viewer"]
    problem = server.admin.put(f"/api/v3/users/{id_of(server.admin)}", json={"role": "viewer"}).then(409)
    assert problem["detail"] == "You cannot take your own admin role or account away; another admin can."


def test_permissions_of_the_past_know_roles_and_removals(server: Server) -> None:
    project = new_project(server)
    ann = server.make_user("developer", {project: "write"})
    url = f"/api/v3/users/{id_of(ann)}"
    before = server.admin.get(f"{url}/permissions").headers["Testhide-Position"]
    server.admin.put(url, json={"role": "admin", "project_ids": []}).then(200)
    after = server.admin.get(f"{url}/permissions", params={"as_of": before}).then(200)
    assert (after["is_admin"], after["projects"]) == (False, {str(project): "write"})
    assert server.admin.get(f"{url}/permissions").then(200)["is_admin"] is True


def test_only_admins_delete_users(server: Server) -> None:
    ann, bob = server.make_user("developer"), server.make_user("viewer")
    for client in (ann, bob):
        assert client.delete(f"/api/v3/users/{id_of(bob)}").status_code == 403
    assert server.client().delete("/api/v3/users/1").status_code == 401
    answer = server.admin.delete(f"/api/v3/users/{id_of(bob)}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer.headers["Testhide-Position"]) > 0
    assert bob.get("/api/v3/me").status_code == 401


def test_who_is_not_there_is_not_deleted(server: Server) -> None:
    ann = server.make_user("developer")
    number = id_of(ann)
    assert server.admin.delete(f"/api/v3/users/{number}").status_code == 204
    for missing in (number, 10**15):
        answer = server.admin.delete(f"/api/v3/users/{missing}")
        assert (answer.status_code, answer.json()["detail"]) == (404, f"There is no user {missing}.")


def test_nobody_deletes_himself(server: Server) -> None:
    answer = server.admin.delete(f"/api/v3/users/{id_of(server.admin)}")
    assert (answer.status_code, answer.json()["detail"]) == (409, "You cannot delete yourself; another admin can.")


def test_of_two_admins_who_delete_each_other_one_stays(server: Server) -> None:
    for _ in range(5):
        pair = [server.make_user("admin"), server.make_user("admin")]
        paths = [f"/api/v3/users/{id_of(client)}" for client in pair]
        with ThreadPoolExecutor(2) as threads:
            answers = [threads.submit(client.delete, path) for client, path in zip(pair, reversed(paths), strict=True)]
        statuses = sorted(answer.result().status_code for answer in answers)
        assert statuses[0] == 204
        assert statuses[1] in (401, 403), "the other one is no admin any more"
        assert sorted(client.get("/api/v3/me").status_code for client in pair) == [200, 401]


def test_the_address_is_free_again_and_what_was_given_is_not(server: Server) -> None:
    project = server.admin.post("/api/v3/projects", json={"name": "Theirs"}).json()["id"]
    ann = server.make_user("developer", {project: "write"})
    me = ann.get("/api/v3/me").json()
    assert server.admin.delete(f"/api/v3/users/{me['id']}").status_code == 204
    credentials = {"username": me["email"], "password": "a password of theirs"}
    assert server.client().post("/api/v3/authenticate", json=credentials).status_code == 401

    async def again() -> int:
        async with core(server.settings, pool_size=1) as parts:
            handler, caller = Handler(parts.log, utcnow), CommandContext("system:tests")
            email, password = me["email"], ADMIN[1]
            return await register_user(
                handler, parts.ids, parts.secrets, caller, email=email, password=password, role="developer"
            )

    number = asyncio.run(again())
    server.wait_until_projected()
    namesake: Any = server.client(me["email"], ADMIN[1])
    assert namesake.get("/api/v3/me").json().items() >= {"id": number, "projects": []}.items()
    assert number != me["id"]
