"""Deleting users. That nothing is left of them: tests/e2e/test_erasure.py."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from commands.handler import CommandContext, Handler
from commands.users import register_user
from store.clock import utcnow
from testhide.processes import core
from tests.support.http import Client
from tests.support.server import ADMIN, Server


def id_of(client: Client) -> int:
    return int(client.get("/api/v3/me").json()["id"])


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
