"""Deleting a build for good: every read, every table and the log itself no longer say what it was."""

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from domain.builds import BuildCommented, BuildDeleted, BuildQueued
from domain.results import ResultsRecorded
from projections.rebuild.rebuild import build_staging
from projections.registry import PROJECTIONS
from testhide.processes import core
from tests.support.builders import Shop, upload
from tests.support.fake_agent import FakeAgent
from tests.support.server import ADMIN, Server

MARK = "Zweizehnhundert"
"""In every text that the build brings but its tests' names, which are the project's."""
REPORT = f"""<testsuite name="suite">
<testcase classname="t.test_x" name="test_good"><system-out>{MARK} out</system-out></testcase>
<testcase classname="t.test_x" name="test_bad"><properties><property name="p" value="{MARK}"/></properties>
<failure message="{MARK}: expected 1">{MARK} trace</failure><system-err>{MARK} err</system-err></testcase>
<testcase classname="t.test_x" name="test_wavers"><failure message="{MARK} once"/></testcase>
<testcase classname="t.test_x" name="test_wavers"/>
</testsuite>""".encode()


@pytest.fixture
def shop(server: Server) -> Shop:
    return Shop(server)


@pytest.fixture
def agent(shop: Shop) -> FakeAgent:
    return shop.new_agent()


def ran(shop: Shop, agent: FakeAgent, mark: str = MARK) -> int:
    """A build with everything that a build can have."""
    number = shop.start(branch=f"{mark}/branch", env={"A": mark}, secrets={"KEY": mark})
    build = agent.take_up()
    assert build["id"] == number
    agent.log(build, 0, [f"{mark} line"]).raise_for_status()
    report = REPORT.replace(MARK.encode(), mark.encode())
    agent.report(build, report, f"{mark}.xml").raise_for_status()
    agent.report(build, report.replace(b"test_good", b"test_new"), f"{mark}-2.xml").raise_for_status()
    for client in (shop.admin, agent.http):
        assert upload(client, number, f"{mark} content".encode(), f"{mark}.log").status_code == 201
    agent.finished(build, exit_code=1, detail=f"{mark} detail", log_lines=1).raise_for_status()
    shop.admin.post(f"/api/v3/builds/{number}/comment", json={"text": f"{mark} remark"}).raise_for_status()
    return number


def reads(shop: Shop, build: int) -> dict[str, Any]:
    """What each read of the build answers, by path."""
    admin, params = shop.admin, {"build_id": build}
    alone = [f"/api/v3/builds/{build}{more}" for more in ("", "/pipeline_logs", "/stream")]
    alone.append(f"/api/v3/report/{build}")
    listing = ["/api/v3/tests", "/api/v3/artifacts", "/api/v3/artifacts/tree"]
    answers = {path: admin.get(path) for path in alone} | {path: admin.get(path, params=params) for path in listing}
    return {path: answer.text if answer.ok else answer.status_code for path, answer in answers.items()}


def test_every_read_forgets_it(shop: Shop, agent: FakeAgent) -> None:
    build, kept = ran(shop, agent), ran(shop, agent)
    results = shop.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    artifacts = shop.admin.get("/api/v3/artifacts", params={"build_id": build}).json()
    assert len(results) == 6  # three tests in each of two reports
    before, of_kept = reads(shop, build), reads(shop, kept)
    assert [path for path, text in before.items() if not isinstance(text, str)] == []
    listed = {"job_id": shop.job, "limit": 200}
    assert build in [item["id"] for item in shop.admin.get("/api/v3/builds", params=listed).json()["results"]]

    answer = shop.admin.delete(f"/api/v3/builds/{build}")
    assert (answer.status_code, answer.content) == (204, b"")

    assert set(reads(shop, build).values()) == {404}
    assert reads(shop, kept) == of_kept
    found = shop.admin.get("/api/v3/builds", params=listed).json()
    assert [item["id"] for item in found["results"] if item["id"] in (build, kept)] == [kept]
    for result in results:
        assert shop.admin.get(f"/api/v3/tests/{result['id']}").status_code == 404
    for artifact in artifacts:
        assert shop.admin.get(f"/api/v3/artifacts/{artifact['id']}/download").status_code == 404
    history = shop.admin.get(f"/api/v3/tests/{_first(shop, kept)}/history").json()["history"]
    assert {item["build_id"] for item in history} == {kept}
    assert shop.admin.delete(f"/api/v3/builds/{build}").status_code == 404
    assert upload(shop.admin, build, b"late").status_code == 404


def _first(shop: Shop, build: int) -> int:
    return int(shop.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"][0]["id"])


@pytest.mark.parametrize("run", range(3))
def test_whoever_comes_too_late_hears_that_it_is_gone(shop: Shop, run: int) -> None:
    build = shop.start(external=True)
    shop.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).raise_for_status()
    path = f"/api/v3/builds/{build}"
    clients = [shop.server.client(*ADMIN) for _ in range(9)]
    with ThreadPoolExecutor(9) as threads:
        deletions = [threads.submit(client.delete, path) for client in clients[:2]]
        uploads = [
            threads.submit(upload, client, build, f"{number}".encode(), f"{number}.log")
            for number, client in enumerate(clients[2:6])
        ]
        comments = [threads.submit(client.post, f"{path}/comment", json={"text": "x"}) for client in clients[6:8]]
        restarted = threads.submit(clients[8].post, f"{path}/restart")
    assert sorted(answer.result().status_code for answer in deletions) == [204, 404]
    for answer in (*uploads, *comments, restarted):
        assert answer.result().status_code in (201, 404), answer.result().text
    assert shop.admin.get(path).status_code == 404
    blobs = Path(shop.server.settings.data_dir, "blobs")
    stored = [answer for answer in uploads if answer.result().ok]
    assert len([file for file in blobs.rglob(f"builds/{build}/artifacts/*") if file.is_file()]) == len(stored)


def test_nothing_of_it_is_left_in_the_database_or_on_the_disk(shop: Shop, agent: FakeAgent) -> None:
    server = shop.server
    mark = "Dreizehnhundert"
    builds = [ran(shop, agent, mark), ran(shop, agent, mark)]
    assert said_in(server, mark) >= {"builds", "result_texts", "result_outputs", "artifacts", "the blobs"}
    server.start("work")
    try:
        with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
            wait(lambda: connection.execute("SELECT count(*) >= 3 FROM reaction_positions").fetchone() == (True,))
            for build in builds:
                shop.admin.delete(f"/api/v3/builds/{build}").raise_for_status()
            logs = "SELECT count(*) FROM build_log_chunks WHERE job_id = %s"
            wait(lambda: connection.execute(logs, (shop.job,)).fetchone() == (0,))
            wait(lambda: said_in(server, mark) == set())
    finally:
        server.kill("work")


def wait(done: Any) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks at what no notification tells


def said_in(server: Server, mark: str) -> set[str]:
    """Tables, and other places, that say the mark."""
    found = set()
    with psycopg.connect(server.settings.database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in tables:
            query = f"SELECT count(*) FROM {name} t WHERE t::text LIKE %s OR t::text LIKE %s"
            count = connection.execute(query.encode(), (f"%{mark}%", f"%{mark.encode().hex()}%")).fetchone()
            found |= {re.sub(r"_v\d+$", "", name)} if count != (0,) else set()
    blobs = Path(server.settings.data_dir, "blobs")
    if any(mark.encode() in path.read_bytes() for path in blobs.rglob("*") if path.is_file()):
        found.add("the blobs")
    return found


def test_the_log_no_longer_says_what_it_was_and_the_tables_follow_from_it(shop: Shop, agent: FakeAgent) -> None:
    server = shop.server
    gone, kept = ran(shop, agent), ran(shop, agent)
    shop.admin.delete(f"/api/v3/builds/{gone}").raise_for_status()
    server.kill("dispatch")  # it may write that the agent is offline, after the projector has ended
    server.wait_until_projected()
    server.kill("project")
    try:
        asyncio.run(_look(server, gone, kept))
    finally:
        server.start("project")
        server.start("dispatch")
        server.wait_until_projected()


async def _look(server: Server, gone: int, kept: int) -> None:
    """As another process."""
    async with core(server.settings, pool_size=2) as parts:
        streams = {number: [f"build-{number}", f"results-{number}"] for number in (gone, kept)}
        loaded = await parts.log.load([name for names in streams.values() for name in names])
        events = {number: [item.event for name in streams[number] for item in loaded[name]] for number in streams}
        for number, is_gone in ((gone, True), (kept, False)):
            texts = [
                value
                for event in events[number]
                for name in event.sealed
                if isinstance(event, BuildQueued | BuildCommented | ResultsRecorded)
                if MARK in repr(value := getattr(event, name))
            ]
            assert (texts == []) == is_gone
            assert any(isinstance(event, BuildDeleted) for event in events[number]) == is_gone
        assert all(item.erased for item in loaded[f"build-{gone}"] if isinstance(item.event, BuildCommented))
        keys = {number: events[number][0].data_key for number in events}
        async with parts.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT name, wrapped IS NULL, destroyed_at IS NULL FROM stored_events_keys WHERE name = ANY (%s)",
                (list(keys.values()),),
            )
            assert set(await cursor.fetchall()) == {(keys[gone], True, False), (keys[kept], False, True)}
            live = await _tables(connection)
            await build_staging(parts.conninfo, parts.log, PROJECTIONS, from_scratch=True)
            again = await _tables(connection, "beside")
    for table, rows in live.items():
        assert again[table] == rows, table
    assert live["parked_events"] == []


async def _tables(connection: psycopg.AsyncConnection[Any], schema: str = "public") -> dict[str, list[Any]]:
    names = [*(str(row.table) for projection in PROJECTIONS for row in projection.rows), "parked_events"]
    content = {}
    for name in names:
        query = f"SELECT t::text FROM {schema}.{name} t ORDER BY 1"
        content[name] = await (await connection.execute(query.encode())).fetchall()
    return content
