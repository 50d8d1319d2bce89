"""Docker agents over HTTP, as far as no Docker engine is needed: tests/real/docker has the rest."""

import asyncio
import secrets
from datetime import timedelta
from typing import Any

import pytest

from commands.docker_agents import SpawnDockerAgent
from commands.handler import CommandContext, Handler
from projections.docker_agents import NOT_REGISTERED
from store.clock import utcnow
from testhide.processes import core
from tests.support.builders import given_pool
from tests.support.containers import ENDED, RUNNING, observe_containers
from tests.support.server import Server

AT = "/api/v3/docker-agents"
SPAWN = {"host": "build-host-01", "image": "testhide/agent:3.14"}


def test_spawn_and_show(server: Server, project: int) -> None:
    pool = given_pool(server, project)
    body = SPAWN | {"pool_id": pool, "cpus": 0.5, "memory_mb": 512, "env": {"TOKEN": "planted-value"}}
    spawned = server.admin.post(f"{AT}/spawn", json=body).then(201)
    assert spawned == SPAWN | {
        "id": spawned["id"],
        "status": "starting",
        "pool_id": pool,
        "cpus": 0.5,
        "memory_mb": 512,
    }
    shown = server.admin.get(f"{AT}/{spawned['id']}").then(200)
    assert shown.items() >= spawned.items()
    assert (shown["pending"], shown["started_at"], shown["build_id"]) == ("spawn", None, None)
    assert "planted-value" not in str(shown)
    member = server.make_user("developer", {project: "read"})
    assert member.get(AT, params={"project_id": project}).then(200) == [shown]
    assert member.get(AT, params={"project_id": project, "status": "running"}).then(200) == []
    assert member.post(f"{AT}/spawn", json=SPAWN).status_code == 403


def test_pages(server: Server, project: int) -> None:
    pool = given_pool(server, project)
    ids = [server.admin.post(f"{AT}/spawn", json=SPAWN | {"pool_id": pool}).then(201)["id"] for _ in range(3)]
    first = server.admin.get(AT, params={"project_id": project, "limit": 2})
    assert [agent["id"] for agent in first.then(200)] == ids[:2]
    following = server.admin.get(first.headers["Link"].partition(">")[0].removeprefix("<"))
    assert [agent["id"] for agent in following.then(200)] == ids[2:]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"host": "unix:///run/docker.sock"}, "host"),
        ({"host": "127.0.0.1"}, "host"),
        ({"image": "evil/agent:1"}, "image"),
        ({"image": "--privileged"}, "image"),
        ({"image": "testhide/agent"}, "image"),
        ({"pool_id": 10**9}, "pool_id"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": "x\0y"}}, "env.A"),
        ({"image": "testhide/agent:3.14@sha256:" + "0" * 64}, "image"),
        ({"memory_mb": 6}, "memory_mb"),
        ({"cpus": 0}, "cpus"),
        ({"privileged": True}, "privileged"),
    ],
)
def test_fields_are_checked(server: Server, changes: dict[str, Any], field: str) -> None:
    answer = server.admin.post(f"{AT}/spawn", json=SPAWN | changes).then(422)
    assert [error["field"] for error in answer["errors"]] == [field]


def test_what_is_so_already_needs_no_worker(server: Server) -> None:
    running, stopped = (server.admin.post(f"{AT}/spawn", json=SPAWN).then(201)["id"] for _ in range(2))
    observe_containers(server, {running: RUNNING, stopped: ENDED})
    assert server.admin.post(f"{AT}/{running}/start").then(200) == {"id": running, "status": "running"}
    assert server.admin.post(f"{AT}/{stopped}/stop").then(200) == {"id": stopped, "status": "stopped"}
    for answer in (server.admin.delete(f"{AT}/da-0"), server.admin.get(f"{AT}/da-0/logs")):
        assert answer.status_code == 404


def test_a_starting_agent_is_not_stopped(server: Server) -> None:
    agent_id = server.admin.post(f"{AT}/spawn", json=SPAWN).then(201)["id"]
    assert "being started" in server.admin.post(f"{AT}/{agent_id}/stop").then(409)["detail"]


def test_an_agent_that_does_not_register_in_time_shows_this(server: Server) -> None:
    in_time = server.admin.post(f"{AT}/spawn", json=SPAWN).then(201)["id"]
    late = f"da-{secrets.token_hex(8)}"
    command = SpawnDockerAgent(late, SPAWN["host"], SPAWN["image"], "r", utcnow() - timedelta(seconds=1))

    async def spawn() -> None:
        async with core(server.settings, pool_size=1) as parts:
            await Handler(parts.log, utcnow).execute(command, CommandContext("user:1"))

    asyncio.run(spawn())
    observe_containers(server, {in_time: RUNNING, late: RUNNING})
    shown = [server.admin.get(f"{AT}/{agent_id}").then(200) for agent_id in (in_time, late)]
    assert [(agent["status"], agent["error"]) for agent in shown] == [("running", None), ("running", NOT_REGISTERED)]


def test_the_log_of_a_host_that_is_away(server: Server) -> None:
    agent_id = server.admin.post(f"{AT}/spawn", json=SPAWN).then(201)["id"]
    answer = server.admin.get(f"{AT}/{agent_id}/logs").then(502)
    assert "Docker host build-host-01 cannot be reached: No such file or directory" in answer["detail"]


def test_nobody_registers_without_a_token(server: Server) -> None:
    agent_token = "agt_" + "x" * 32
    for token in ("x", "da-0.r.0", "da-0." + "0" * 32 + "." + "0" * 32):
        body = {"registration_token": token, "agent_token": agent_token}
        assert server.client().post("/api/v3/agent/register", json=body).status_code == 401
    weak = {"registration_token": "x", "agent_token": "agt_short"}
    refused = server.client().post("/api/v3/agent/register", json=weak).then(422)
    assert refused["errors"][0]["field"] == "agent_token"
