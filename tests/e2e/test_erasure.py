"""What a delete promises: nothing that the server stores, nor a new backup of it, says what was erased."""

import asyncio
import contextlib
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from psycopg import sql

from domain.registry import EVENTS, UPCASTERS
from projections.engine.read_your_writes import ProjectionWaiter
from projections.registry import PROJECTIONS
from store.log.codec import COMPRESSED, EventMapper
from store.postgres.notifications import Listener
from testhide.engines.binaries import find_postgres
from testhide.processes import core
from tests.api.test_build_deletion import wait
from tests.support.builders import Shop, upload
from tests.support.fake_agent import FakeAgent
from tests.support.http import Client
from tests.support.server import Server
from workers.reactions.registry import REACTIONS
from workers.read_models import ReadModelCheck

ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
Forms = tuple[bytes, bytes]
LONG = 60
"""Texts are repeated so often that they are compressed where that pays."""


@pytest.fixture(scope="module")
def working(server: Server) -> Iterator[Server]:
    """With somebody who reacts."""
    server.start("work")
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        count = "SELECT count(*) >= %s FROM reaction_positions"
        deadline = time.monotonic() + 30
        while connection.execute(count, (len(REACTIONS),)).fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # between two looks at what no notification tells
    yield server
    server.kill("work")


@dataclass
class Marks:
    """A text for each thing that can be deleted, in all that it brings."""

    build: str
    job: str
    project: str


@pytest.fixture
def marks() -> Marks:
    return Marks(*(f"{what}{uuid.uuid4().hex[:12]}" for what in ("bu", "jo", "pr")))


@pytest.fixture
def shop(working: Server) -> Shop:
    return Shop(working)


def filled(shop: Shop, marks: Marks, author: Client) -> tuple[int, int]:
    """A job of the shop's project, and a build of it: with all that can be said of the three."""
    admin, project = shop.admin, marks.project
    admin.put(f"/api/v3/projects/{shop.project}", json={"name": project, "description": project}).then(200)
    admin.put(f"/api/v3/node-pools/{shop.pool}", json={"name": project, "labels": {"os": project}}).then(200)
    issue = {"project_id": shop.project, "title": project, "classification": "infra", "pattern": project}
    defect = {"defect_key": project, "defect_url": f"https://example.com/{project}"}
    admin.post("/api/v3/known-issues", json=issue | defect).then(201)
    hook = {"project_id": shop.project, "url": f"https://example.com/{project}", "events": ["node.offline"]}
    admin.post("/api/v3/webhooks", json=hook | {"secret": project}).then(201)
    channel = {"project_id": shop.project, "name": project, "webhook_url": f"https://example.com/{project}"}
    mention = f"{project}@example.com"
    admin.post("/api/v3/ms-teams", json=channel | {"events": ["node.offline"], "mention_on_fail": mention}).then(201)
    endpoint = {"project_id": shop.project, "type": "github", "name": project, "repo": f"{project}/x", "token": project}
    admin.post("/api/v3/scm", json=endpoint | {"host": f"https://{project}.example.com"}).then(201)
    mark = marks.job
    job = shop.new_job(name=mark, repository=f"https://example.com/{mark}.git", default_branch=mark)
    configuration = {"command": mark * LONG, "setup": [mark], "env": {"A": mark}, "artifacts": [mark]}
    admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration | {"secrets": {"KEY": mark}}).then(200)
    entry = {"job_id": job, "node_id": f"t.py::{mark}", "reason": "flaky", "owner": mark}
    admin.post("/api/v3/quarantine", json=entry).then(201)
    return job, _built(shop, shop.new_agent(), job, marks, author)


def _built(shop: Shop, agent: FakeAgent, job: int, marks: Marks, author: Client) -> int:
    mark = marks.build
    number = shop.start(
        job, branch=f"{mark}/branch", commit_sha=mark.encode().hex(), env={"A": mark}, secrets={"S": mark}
    )
    build = agent.take_up()
    assert build["id"] == number
    agent.log(build, 0, [f"{mark} line {line}" for line in range(LONG)]).raise_for_status()
    # What a test is called is the project's: its list of tests.
    report = f"""<testsuite name="{marks.project}"><testcase classname="t.{marks.project}" name="test_bad">
        <properties><property name="p" value="{mark}"/></properties>
        <failure message="{mark} expected">{mark * LONG}</failure><system-out>{mark * LONG}</system-out>
        <system-err>{mark}</system-err></testcase></testsuite>"""
    agent.report(build, report.encode(), f"{mark}.xml").raise_for_status()
    agent.send_cache(build, "deps", f"{marks.job} cached".encode()).raise_for_status()
    for client in (author, agent.http):
        upload(client, number, f"{mark} content".encode(), f"{mark}.log").then(201)
    agent.finished(build, exit_code=1, detail=f"{mark} detail", log_lines=LONG).raise_for_status()
    author.post(f"/api/v3/builds/{number}/comment", json={"text": f"{mark} remark" * LONG}).then(201)
    (result,) = author.get("/api/v3/tests", params={"build_id": number}).json()["results"]
    writes = {
        "classification": {"classification": "product_bug"},
        "defect": {"defect_key": mark, "defect_url": f"https://example.com/{mark}"},
        "resolution": {"resolution": mark},
    }
    for what, body in writes.items():
        author.post(f"/api/v3/tests/{result['id']}/{what}", json=body).then(200)
    wait(lambda: shop.build(number)["failure_excerpts"])
    author.post("/api/v3/ai/diagnose", json={"build_id": number}).then(200)
    for question in ({"message": f"Why {mark}?", "build_id": number}, {"message": f"How is {marks.project} doing?"}):
        author.post("/api/v3/ai/chat", json=question).then(200)
    return number


def test_of_a_deleted_build_nothing_is_left(shop: Shop, marks: Marks) -> None:
    _, build = filled(shop, marks, shop.admin)
    found = said_in(shop.server, marks.build)
    assert found >= {
        *("builds", "build_comments", "result_texts", "result_outputs", "reports", "artifacts"),
        *("triage", "build_explanations", "build_log_chunks", "the events", "the files"),
    }
    assert shop.admin.delete(f"/api/v3/builds/{build}").status_code == 204
    is_forgotten(shop.server, marks.build)
    assert said_in(shop.server, marks.job), "what is the job's stays"


def test_of_a_deleted_job_nothing_is_left(shop: Shop, marks: Marks) -> None:
    job, _ = filled(shop, marks, shop.admin)
    assert said_in(shop.server, marks.job) >= {"jobs", "job_configurations", "quarantine", "the events", "the files"}
    assert shop.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
    for mark in (marks.job, marks.build):
        is_forgotten(shop.server, mark)
    assert said_in(shop.server, marks.project), "what is the project's stays"


def test_of_a_deleted_project_nothing_is_left(shop: Shop, marks: Marks) -> None:
    """Not even of what waits or runs at that moment."""
    admin = shop.admin
    job, build = filled(shop, marks, admin)
    node = admin.get("/api/v3/nodes", params={"pool_id": shop.pool}).json()
    waiting = shop.start(job, branch=marks.build)
    assert said_in(shop.server, marks.project) >= {
        *("projects", "node_pools", "known_issues", "test_cases", "webhooks"),
        *("teams_channels", "the events"),
    }
    assert admin.delete(f"/api/v3/projects/{shop.project}").status_code == 204
    gone = (
        f"projects/{shop.project}",
        f"jobs/{job}",
        f"builds/{build}",
        f"builds/{waiting}",
        f"node-pools/{shop.pool}",
    )
    assert {admin.get(f"/api/v3/{path}").status_code for path in gone} == {404}
    assert admin.delete(f"/api/v3/projects/{shop.project}").status_code == 404
    for mark in (marks.project, marks.job, marks.build):
        is_forgotten(shop.server, mark)
    assert node, "its nodes stay, without a pool"


def test_of_a_deleted_user_nothing_is_left(shop: Shop, marks: Marks) -> None:
    server = shop.server
    ann = server.make_user("developer", {shop.project: "write"})
    me = ann.get("/api/v3/me").json()
    mark = str(me["email"])
    token = ann.post("/api/v3/api-tokens", json={"name": f"of {mark}"}).then(201)
    _, build = filled(shop, marks, ann)
    assert shop.build(build)["comments"][0]["author"] == mark
    assert said_in(server, mark) >= {"users", "api_tokens", "the events"}

    assert shop.admin.delete(f"/api/v3/users/{me['id']}").status_code == 204

    with_token = server.client()
    with_token.authorize(token["secret"])
    assert {client.get("/api/v3/me").status_code for client in (ann, with_token)} == {401}
    assert shop.build(build)["comments"][0]["author"] == "deleted user"
    (result,) = shop.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    assert (result["set_by"], result["resolution_by"]) == ("deleted user", "deleted user")
    is_forgotten(server, mark)


def test_what_was_erased_is_no_difference(working: Server) -> None:
    """The read models were made from texts that the log does not have any more."""

    async def compare() -> bool:
        async with core(working.settings, pool_size=3) as parts:
            waiter = ProjectionWaiter(parts.pool, Listener(parts.conninfo), PROJECTIONS)
            return await ReadModelCheck(parts.conninfo, parts.pool, parts.log, waiter).sweep()

    assert not asyncio.run(compare())


def is_forgotten(server: Server, mark: str) -> None:
    """As soon as all reactions have run; and a backup that is taken then does not say it either."""
    deadline = time.monotonic() + 30
    while found := said_in(server, mark):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)  # between two looks, which cost more than what they wait for
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute("VACUUM")
    pg_dump = find_postgres(Path(server.settings.data_dir), None).bin / "pg_dump"
    dump = subprocess.run([pg_dump, "--dbname", server.settings.database_url], capture_output=True, check=True).stdout
    assert b"stored_events" in dump
    assert all(text not in dump for text in _forms(mark))
    assert said_in(server, mark) == set()


def said_in(server: Server, mark: str) -> set[str]:
    """Tables, and other places, that say the mark: in a text, in bytes, or in what these decompress or decrypt to."""
    found = set()
    mapper = EventMapper(EVENTS, UPCASTERS)
    forms = _forms(mark)
    with psycopg.connect(server.settings.database_url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'beside', 'previous')"
        ).fetchall()
        for schema, table in tables:
            rows = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table))).fetchall()
            if any(_says(value, forms) for row in rows for value in row):
                found.add(re.sub(r"_v\d+$", "", table))
        for (state,) in connection.execute("SELECT state FROM stored_events").fetchall():
            envelope = mapper.envelope(state)
            clear = envelope.clear
            if envelope.flags & COMPRESSED:
                clear = zstandard.ZstdDecompressor().decompress(clear)
            if _says(clear, forms):
                found.add("the clear parts of events")
    if asyncio.run(_events_say(server, forms)):
        found.add("the events")
    if any(_says(content, forms) or mark in name for name, content in _files(server.settings.data_dir)):
        found.add("the files")
    return found


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    """All that are still there when they are opened: meanwhile a worker deletes."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield name, Path(parent, name).read_bytes()


async def _events_say(server: Server, forms: Forms) -> bool:
    """As another process, with the keys that there still are."""
    async with core(server.settings, pool_size=1) as parts:
        position = 0
        while events := await parts.log.read(position, 1_000):
            position = events[-1].position
            if any(_says(repr(item.event), forms) for item in events):
                return True
    return False


def _says(value: Any, forms: Forms) -> bool:
    if value is None or isinstance(value, (int, float)):
        return False
    if not isinstance(value, bytes):
        value = str(value).encode()
    elif value.startswith(ZSTD_FRAME):
        value = zstandard.ZstdDecompressor().decompress(value)
    return any(form in value for form in forms)


def _forms(mark: str) -> Forms:
    """As it is, and in hex."""
    return mark.encode(), mark.encode().hex().encode()
