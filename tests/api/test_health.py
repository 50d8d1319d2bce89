"""Readiness names what cannot be used, what lags and what is wrong."""

import asyncio
import socket
import time
from collections.abc import Iterator

import psycopg
import pytest
import requests

from api.health import describe_idle
from projections.auth import UserRow
from projections.engine.schemas import LIVE, lock_name
from projections.registry import PROJECTIONS
from projections.teams import ChannelRow
from store.postgres.leader_lock import SCHEDULES_LOCK, Leader, fetch_leaders
from store.tables.alarms import set_alarm
from testhide.processes import core
from testhide.rebuild import rebuild
from testhide.repair import repair
from tests.support.http import Answer
from tests.support.server import ADMIN, READY_S, Server


def readiness(server: Server) -> requests.Response:
    return server.client().get("/api/v3/readyz")


def execute(server: Server, statement: str) -> None:
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_a_broken_read_model_is_named_and_others_answer(server: Server, build: int) -> None:
    execute(server, f"DROP TABLE {ChannelRow.table}")
    answer = readiness(server)
    assert (answer.status_code, answer.json()["status"]) == (
        503,
        f"read models are broken (teams_channels: the table {ChannelRow.table} is lost):"
        " run `testhide projections rebuild teams_channels --switch`",
    )
    listed = server.admin.get("/api/v3/projections").json()
    (model,) = [item for item in listed if item["name"] == "teams_channels" and item["state"] in ("serving", "broken")]
    assert (model["state"], model["defect"]) == ("broken", f"the table {ChannelRow.table} is lost")
    refused = server.admin.get("/api/v3/ms-teams")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:testhide:problem:unavailable")
    assert "missing or broken; GET /api/v3/readyz says which" in refused.json()["detail"]
    written = server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "go on"})
    assert written.status_code == 201
    assert server.admin.get(f"/api/v3/builds/{build}").status_code == 200
    assert server.client().get("/api/v3/healthz").status_code == 200

    asyncio.run(rebuild(server.settings, ["teams_channels"], from_scratch=False, then_switch=True))
    server.wait_until_projected()
    assert server.admin.get("/api/v3/ms-teams").status_code == 200


@pytest.fixture(name="without_dispatcher")
def _without_dispatcher(server: Server) -> Iterator[None]:
    """Stops the dispatcher, which would end when it looks for the log of a lost build in a table that is lost."""
    server.kill("dispatch")
    yield
    server.start("dispatch")
    deadline = time.monotonic() + READY_S
    while "testhide dispatch" in readiness(server).json()["status"]:
        assert time.monotonic() < deadline, "the dispatcher does not lead again"


@pytest.mark.usefixtures("without_dispatcher")
def test_lost_tables_are_named_until_they_are_made_again(server: Server, build: int) -> None:
    execute(server, "CREATE TABLE kept_chunks AS TABLE build_log_chunks")
    execute(server, "DROP TABLE alarms, build_log_chunks")
    answer = readiness(server)
    assert (answer.status_code, answer.json()["status"]) == (
        503,
        "lost from the database: alarms, build_log_chunks; run `testhide repair`, which makes them again, empty",
    )
    refused = server.admin.get(f"/api/v3/builds/{build}/pipeline_logs")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:testhide:problem:unavailable")
    assert "readyz says which" in refused.json()["detail"]
    assert [table.name for table in asyncio.run(repair(server.settings)).lost] == ["alarms", "build_log_chunks"]
    # Other tests of this server compare the logs with what events say of them.
    execute(server, "INSERT INTO build_log_chunks SELECT * FROM kept_chunks")
    execute(server, "DROP TABLE kept_chunks")
    server.wait_until_projected()
    assert server.admin.get(f"/api/v3/builds/{build}/pipeline_logs").status_code == 200


def test_nobody_is_turned_away_as_unknown_while_accounts_are_lost(server: Server) -> None:
    token = server.admin.post("/api/v3/api-tokens", json={"name": "laptop"}).json()["secret"]
    by_token = server.client()
    by_token.headers["Authorization"] = f"Bearer {token}"
    assert by_token.get("/api/v3/me").status_code == 200
    execute(server, f"ALTER TABLE {UserRow.table} DROP COLUMN role")
    for client in (server.admin, by_token):
        refused = client.get("/api/v3/builds")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:testhide:problem:unavailable")
    asyncio.run(rebuild(server.settings, [], from_scratch=False, then_switch=True))
    server.wait_until_projected()
    assert by_token.get("/api/v3/builds").status_code == 200


def test_a_lagging_read_model_is_named(server: Server, build: int) -> None:
    with psycopg.connect(server.settings.database_url) as connection:
        connection.execute("LOCK TABLE projection_positions IN SHARE ROW EXCLUSIVE MODE")  # holds the projector
        written = server.admin.post(
            f"/api/v3/builds/{build}/comment", json={"text": "later"}, headers={"Prefer": "respond-async"}
        )
        head = int(written.headers["Testhide-Position"])
        answer = readiness(server)
    assert answer.status_code == 503
    assert f"builds at {head - 1} of {head}" in answer.json()["status"]
    assert {"name": "builds", "position": head - 1, "lag": 1} in answer.json()["lagging"]
    server.wait_until_projected()
    assert readiness(server).json()["lagging"] == []


def test_what_a_lagging_read_model_does_not_show_yet_is_not_refused_for_good(
    server: Server, job: int, build: int
) -> None:
    def must_be_retried(answer: Answer) -> None:
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:testhide:problem:unavailable")
        assert "Try again" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) > 0

    at_once = {"Prefer": "respond-async"}
    admin = server.client(*ADMIN)
    admin.max_repeats = 0
    unknown = "/api/v3/builds/999999999/comment"
    with psycopg.connect(server.settings.database_url) as connection:
        connection.execute("LOCK TABLE projection_positions IN SHARE ROW EXCLUSIVE MODE")  # holds the projector
        new_build = {"job_id": job, "external": True}
        started = admin.post("/api/v3/builds/start", json=new_build, headers=at_once)
        created = f"/api/v3/builds/{started.json()['id']}"
        position = {"Testhide-Min-Position": started.headers["Testhide-Position"]}
        must_be_retried(admin.post(f"{created}/comment", json={"text": "early"}, headers=position))
        must_be_retried(admin.post(f"{created}/finish", json={"status": "passed"}))
        must_be_retried(admin.post(unknown, json={"text": "never"}))
        must_be_retried(admin.get("/api/v3/jobs/999999999"))
        new_session = server.client(*ADMIN)
        new_session.max_repeats = 0
        must_be_retried(new_session.get("/api/v3/me"))
        assert admin.get(f"/api/v3/builds/{build}").status_code == 200
        assert server.client().get("/api/v3/me").status_code == 401
    server.wait_until_projected()
    assert admin.post(f"{created}/comment", json={"text": "early"}).status_code == 201
    assert admin.post(f"{created}/finish", json={"status": "passed"}).status_code == 200
    assert admin.post(unknown, json={"text": "never"}).status_code == 404
    assert new_session.get("/api/v3/me").status_code == 200


def test_an_alarm_degrades_until_it_ends(server: Server, build: int) -> None:
    async def ring(message: str | None) -> None:
        async with core(server.settings, pool_size=1) as parts:
            await set_alarm(parts.pool, "tests", message)

    asyncio.run(ring("the roof is on fire"))
    answer = readiness(server)
    asyncio.run(ring(None))
    assert answer.status_code == 200
    assert answer.json()["status"].startswith("degraded: ")
    assert "the roof is on fire" in answer.json()["status"]
    assert "the roof is on fire" not in readiness(server).json()["status"]


def test_a_worker_beyond_the_log_is_named(server: Server) -> None:
    execute(server, "INSERT INTO reaction_positions VALUES ('tests', 70000)")
    try:
        status = readiness(server).json()["status"]
    finally:
        execute(server, "DELETE FROM reaction_positions WHERE reaction = 'tests'")
    assert "tests stands still (its position, 70000, is beyond the end of the log, " in status
    assert "): run `testhide repair`" in status


def test_processes_that_stand_still_are_named(server: Server) -> None:
    """Only `testhide work` does not run here."""
    status = readiness(server).json()["status"]
    assert "no `testhide work` leads: start one, or see what it logs" in status
    assert "testhide dispatch" not in status
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (SCHEDULES_LOCK,))
        assert "testhide work` leads" not in readiness(server).json()["status"]


async def test_a_projector_that_stands_still_is_named(server: Server) -> None:
    locks = [lock_name(LIVE, projection.name, projection.version) for projection in PROJECTIONS]
    async with await psycopg.AsyncConnection.connect(server.settings.database_url) as connection:
        leaders = await fetch_leaders(connection, locks)
    (process,) = {leader.process for leader in leaders.values()}
    assert len(leaders) == len(PROJECTIONS)
    assert process == f"testhide process {server.processes['project'].pid} on {socket.gethostname()}"[:63]
    sentence = "`testhide project` (p 5 on ci-1) applies {} and has done nothing for 31 s: restart it"
    leader, names = Leader(31.4, "p 5 on ci-1"), [projection.name for projection in PROJECTIONS]
    assert describe_idle("testhide project", leader, names) == sentence.format("all events")
    assert describe_idle("testhide project", leader, names[:2]) == sentence.format(f"events to {names[0]}, {names[1]}")
    assert describe_idle("testhide work", leader).endswith("work` (p 5 on ci-1) has done nothing for 31 s: restart it")


OVERDUE_REACTION = "INSERT INTO due_reactions (reaction, position, due_at) VALUES ('tests', 1, now() - interval '{}')"
OVERDUE_DELIVERY = """
    WITH endpoint AS (
        INSERT INTO webhook_endpoints (id, events, active, open_until) VALUES (77, '{{}}', true, now() {})
    )
    INSERT INTO webhook_deliveries
        (delivery_id, webhook_id, position, type, item, replay, state, due_at, since)
    VALUES ('d-tests', 77, 1, 'ping', 0, false, '{}', now() - interval '{}', now())
"""


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        (OVERDUE_REACTION.format("61 s"), "the reaction tests is 61 s overdue"),
        (OVERDUE_REACTION.format("59 s"), None),
        (OVERDUE_DELIVERY.format("- interval '1 s'", "pending", "301 s"), "deliveries are 301 s overdue"),
        (OVERDUE_DELIVERY.format("- interval '1 s'", "pending", "299 s"), None),
        (OVERDUE_DELIVERY.format("- interval '1 s'", "waiting", "400 s"), None),
        (OVERDUE_DELIVERY.format("+ interval '1 h'", "pending", "400 s"), None),
    ],
)
def test_what_is_overdue_is_named(server: Server, statement: str, finding: str | None) -> None:
    execute(server, statement)
    try:
        answer = readiness(server)
    finally:
        for table, column in (("due_reactions", "reaction"), ("webhook_deliveries", "delivery_id")):
            execute(server, f"DELETE FROM {table} WHERE {column} LIKE '%tests'")
        execute(server, "DELETE FROM webhook_endpoints WHERE id = 77")
    assert answer.status_code == 200
    assert finding in answer.json()["status"] if finding else "overdue" not in answer.json()["status"]
