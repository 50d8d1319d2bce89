"""Rebuild and switch under a whole server that is in use, and processes that are killed at any moment."""

import asyncio
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from domain.builds import BuildAssigned, BuildFinished, BuildQueued, BuildStarted
from domain.core.events import Event, EventMetadata
from domain.jobs import Configuration, JobCreated
from domain.projects import ProjectCreated
from projections.engine.schemas import STAGING, find_held_locks, lock_name
from projections.jobs import JobRow
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.log.event_log import Write
from testhide.engines import Engines
from testhide.processes import core
from tests.support.forked_process import ForkedProcess
from tests.support.http import Client
from tests.support.server import ADMIN, Server, server_on_new_database

HISTORY = 1_000
"""Builds, of four events each."""
KILLS = 3
"""One of each kind of victims."""


def history() -> list[list[Event]]:
    """A log that takes a build of the read models about half a second."""
    ids: dict[str, Any] = {"job_id": 900_000, "project_id": 900_000}
    streams: list[list[Event]] = [
        [ProjectCreated(project_id=900_000, title="Old", slug="old", sealed_webhook_secret=b"")],
        [JobCreated(**ids, title="Old")],
    ]
    for build_id in range(900_000, 900_000 + HISTORY):
        attempt: dict[str, Any] = {**ids, "build_id": build_id, "node_id": 1, "attempt": 1}
        queued = BuildQueued(**ids, build_id=build_id, configuration=Configuration(command="pytest"), branch="main")
        finished = BuildFinished(**ids, build_id=build_id, status="passed")
        streams.append([queued, BuildAssigned(**attempt), BuildStarted(**attempt, commit_sha=""), finished])
    return streams


async def remember(server: Server) -> None:
    async with core(server.settings, pool_size=2) as parts:
        stamp = EventMetadata(utcnow(), "system:tests")

        async def append(events: list[Event]) -> None:
            await parts.log.append([Write(number, event) for number, event in enumerate(events, 1)], stamp)

        project, job, *builds = history()
        await append(project)
        await append(job)
        await asyncio.gather(*map(append, builds))


@pytest.fixture(scope="module")
def live(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a database of its own, with a history."""
    with server_on_new_database(engines, tmp_path_factory.mktemp("live"), "serve", "project") as started:
        asyncio.run(remember(started))
        started.wait_until_projected()
        yield started


class Operation:
    """`testhide projections` with these arguments, in a process of its own."""

    def __init__(self, server: Server, *arguments: str) -> None:
        data = Path(server.settings.data_dir)
        self._log = data / f"{uuid4().hex}.log"
        self.process = ForkedProcess(["projections", *arguments], data / "settings.json", self._log)
        self.process.start()

    def done(self) -> str:
        """Waits until it has succeeded, and returns its output."""
        code, output = self.process.wait(120), self._log.read_text()
        assert code == 0, output
        return output


class Writer(threading.Thread):
    """A client that reads what it has just written, all the time."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._name = name
        self.ended = threading.Event()
        self.wrong: list[str] = []
        self.writes = 0

    def run(self) -> None:
        project = self._client.post("/api/v3/projects", json={"name": self._name}).json()["id"]
        while not self.ended.is_set():
            self.writes += 1
            name = f"job {self.writes}"
            made = self._client.post("/api/v3/jobs", json={"name": name, "project_id": project})
            if made.status_code != 201 or "Testhide-Projected" in made.headers:
                self.wrong.append(f"{made.status_code} {dict(made.headers)} {made.text}")
                continue
            seen = self._client.get(f"/api/v3/jobs/{made.json()['id']}")
            jobs = self._client.get("/api/v3/projects").json()
            counts = [item["jobs_count"] for item in jobs if item["id"] == project]
            if seen.status_code != 200 or seen.json()["name"] != name or counts != [self.writes]:
                self.wrong.append(f"{seen.status_code} {seen.text} {counts}")


def test_readers_and_writers_do_not_notice_a_rebuild_and_a_switch(live: Server) -> None:
    writers = [Writer(live.client(*ADMIN), f"writer {number}") for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            before = [writer.writes for writer in writers]
            output = Operation(live, "rebuild", "--from-scratch", "--switch").done()
            assert re.search(r"switched auth, identity_providers, .*; writes waited [\d.]+ s at most", output), output
            assert all(writer.writes > count for writer, count in zip(writers, before, strict=True))
    finally:
        for writer in writers:
            writer.ended.set()
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive(), f"{writer.name} waits for an answer"
    assert [writer.wrong for writer in writers] == [[], []]


async def wait_until_building(server: Server, building: bool) -> None:
    """Returns once a process holds staging tables, or none does."""
    names = [lock_name(STAGING, item.name, item.version) for item in PROJECTIONS]
    async with await AsyncConnection.connect(server.settings.database_url, autocommit=True) as connection:
        async with asyncio.timeout(30):
            while bool(await find_held_locks(connection, names)) != building:
                await asyncio.sleep(0.005)  # between two looks


def test_killed_at_any_moment_the_tables_are_correct_in_the_end(live: Server) -> None:
    """The projector, the process that rebuilds and switches, or both: at moments from the first lock of a build until
    its end, which the first round measures.
    """
    chance = random.Random(4)
    project = live.admin.post("/api/v3/projects", json={"name": "Killing"}).json()["id"]
    takes_s = 0.0
    for number in range(KILLS + 1):
        asyncio.run(wait_until_building(live, False))
        rebuilding = Operation(
            live, "rebuild", *(chance.choice([[], ["--from-scratch"]]) if number else []), "--switch"
        )
        asyncio.run(wait_until_building(live, True))
        begun = time.monotonic()
        if number == 0:
            rebuilding.done()
            takes_s = time.monotonic() - begun
            continue
        time.sleep(chance.uniform(0, takes_s))  # the moment
        made = live.admin.post("/api/v3/jobs", json={"name": f"job {number}", "project_id": project})
        assert made.status_code == 201
        victims = ("rebuilder", "projector", "both")[number % 3]
        if victims != "projector":
            rebuilding.process.kill()
        if victims != "rebuilder":
            live.kill("project")
            live.start("project")
        rebuilding.process.wait(120)
    live.wait_until_projected()
    names = [projection.name for projection in PROJECTIONS]
    Operation(live, "rebuild", "--from-scratch", *names).done()
    output = Operation(live, "diff").done()
    assert all(f"{name}: live version " in output for name in names)
    assert f"{HISTORY:,} rows live, {HISTORY:,} staging: equal" in output
    assert len(live.admin.get("/api/v3/jobs", params={"project_id": project, "limit": 100}).json()) == KILLS


def test_without_a_read_model_it_is_not_ready(live: Server) -> None:
    with psycopg.connect(live.settings.database_url) as connection:
        for (table,) in connection.execute(
            "SELECT unnest(tables) FROM projection_positions WHERE name = 'known_issues'"
        ).fetchall():
            connection.execute(f"DROP TABLE {table}".encode())
        connection.execute("DELETE FROM projection_positions WHERE name = 'known_issues'")
    refused = live.admin.get("/api/v3/known-issues", params={"project_id": 900_000})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    answer = live.client().get("/api/v3/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == (
        "read models are not built yet: run `testhide projections rebuild known_issues --switch`"
    )
    Operation(live, "rebuild", "known_issues", "--switch").done()
    live.wait_until_projected()
    assert live.admin.get("/api/v3/known-issues", params={"project_id": 900_000}).status_code == 200


def test_what_is_parked_is_seen_and_applied_again(live: Server) -> None:
    project = live.admin.post("/api/v3/projects", json={"name": "Parking"}).json()["id"]
    with psycopg.connect(live.settings.database_url) as connection:
        connection.execute(f"ALTER TABLE {JobRow.table} ADD CONSTRAINT no_poison CHECK (name <> 'poison')".encode())
    made = live.admin.post("/api/v3/jobs", json={"name": "poison", "project_id": project})
    assert made.headers["Testhide-Projected"] == "false"
    others = live.admin.post("/api/v3/jobs", json={"name": "others", "project_id": project})
    assert "Testhide-Projected" not in others.headers
    assert live.client().get("/api/v3/healthz").json()["status"] == "degraded"
    ready = live.client().get("/api/v3/readyz")
    assert (ready.status_code, ready.json()["status"].partition(":")[0]) == (200, "degraded")
    for client, shown in ((live.admin, 1), (live.make_user("viewer"), 0)):
        found = client.get("/api/v3/projections").json()
        (jobs,) = [item for item in found if (item["name"], item["state"]) == ("jobs", "serving")]
        assert jobs["parked"] >= 1
        assert len([error for error in jobs["errors"] if "no_poison" in error]) == shown
    with psycopg.connect(live.settings.database_url) as connection:
        connection.execute(f"ALTER TABLE {JobRow.table} DROP CONSTRAINT no_poison".encode())
    Operation(live, "retry", "jobs").done()
    jobs = live.admin.get("/api/v3/jobs", params={"project_id": project}).json()
    assert {job["name"] for job in jobs} == {"poison", "others"}
    live.wait_until_projected()
    assert live.client().get("/api/v3/healthz").json()["status"] == "ok"
