"""Checkpoints, proofs and exports over HTTP: what they prove, and who may have them."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest
import requests

from api.audit_proofs import SEAL_TIMEOUT_S
from commands.handler import Handler
from projections.audit_trail import TrailRow
from store.audit.export_lines import ExportHeader, ExportLine
from store.audit.merkle import BadProof, leaf_hash
from store.audit.recheck_progress import request_checkpoint
from store.audit.signed_notes import Checkpoint, VerifierKey, open_note
from store.audit.verifier import HeldCheckpoint, Verifier, checkpoint_of
from store.clock import utcnow
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, SEALS, Listener
from testhide.processes import core
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.proofs import verify_consistency, verify_inclusion
from tests.support.server import Server
from workers.sealer import Sealer

REPORT = b'<testsuite name="s"><testcase classname="t.test_x" name="test_a"/></testsuite>'


def seal(server: Server) -> dict[str, Any]:
    """What `testhide work` does every ten seconds; the newest checkpoint."""

    async def sealed() -> None:
        async with core(server.settings, pool_size=2) as parts:
            handler = Handler(parts.log, utcnow)
            sealer = Sealer(parts.conninfo, parts.pool, parts.log, handler, parts.secrets, utcnow)
            async with sealer.hold_lock() as connection:
                await sealer.seal(connection)

    asyncio.run(sealed())
    server.wait_until_projected()
    newest: dict[str, Any] = checkpoints(server)["checkpoints"][0]
    return newest


@contextlib.contextmanager
def sealing(server: Server) -> Iterator[None]:
    """Seals the log as `testhide work` does, but only when somebody asks for it."""
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        async with core(server.settings, pool_size=2) as parts:
            listener = Listener(parts.conninfo, EVENTS, SEALS)
            await listener.start()
            handler = Handler(parts.log, utcnow)
            sealer = Sealer(parts.conninfo, parts.pool, parts.log, handler, parts.secrets, utcnow, interval_s=600)
            sealing = asyncio.create_task(sealer.run(listener))
            while not await request_checkpoint(parts.pool):
                await asyncio.sleep(0.02)  # until it leads, which nothing tells
            stop = asyncio.Event()
            running.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
            await cancel_and_wait(sealing)
            await listener.close()

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(asyncio.run, run())
        loop, stop = running.result(20)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            done.result(20)


def checkpoints(server: Server, **params: Any) -> Any:
    answer = server.admin.get("/api/v3/audit/checkpoints", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(name="build")
def _build(server: Server, project: int) -> int:
    build = given_build(server, given_job(server, project))
    assert upload(server.admin, build, REPORT).ok
    return build


def export(client: Any, **params: Any) -> bytes:
    answer = client.get("/api/v3/audit/export", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    content: bytes = answer.content
    return content


def verified(content: bytes, key: str, *notes: str) -> Verifier:
    held = [HeldCheckpoint(f"checkpoint {number}", note, checkpoint_of(note)) for number, note in enumerate(notes)]
    verifier = Verifier(VerifierKey.parse(key), held)
    verifier.verify(content.splitlines(keepends=True))
    return verifier


def position_of(server: Server, stream: str) -> int:
    position: int = server.admin.get(f"/api/v3/audit/streams/{stream}").json()[0]["position"]
    return position


def test_checkpoints_are_signed_and_listed_newest_first(server: Server, build: int) -> None:
    earlier = seal(server)
    server.admin.post("/api/v3/projects", json={"name": "Later"})
    later = seal(server)
    shown = checkpoints(server, limit=2)
    assert shown["checkpoints"] == [later, earlier]
    assert earlier["size"] < later["size"]
    keys = [VerifierKey.parse(key) for key in shown["keys"]]  # several when another test has rotated them
    text = Checkpoint.parse(open_note(later["note"], keys))
    assert (text.size, text.origin) == (later["size"], keys[0].name)
    answer = server.admin.get("/api/v3/audit/checkpoints", params={"limit": 1})
    following = server.admin.get(answer.links["next"]["url"]).json()
    assert following["checkpoints"] == [earlier]


def test_an_event_is_proved_to_be_in_a_checkpoint(server: Server, build: int) -> None:
    earlier = seal(server)
    server.admin.post("/api/v3/projects", json={"name": "Later"})
    later = seal(server)
    position = position_of(server, f"build-{build}")
    for checkpoint, params in ((later, {}), (earlier, {"size": earlier["size"]})):
        proof = server.admin.get(f"/api/v3/audit/proof/{position}", params=params).json()
        assert (proof["position"], proof["size"], proof["checkpoint"]) == (
            position,
            checkpoint["size"],
            checkpoint["note"],
        )
        leaf, root = bytes.fromhex(proof["leaf"]), bytes.fromhex(proof["root"])
        hashes = [bytes.fromhex(item) for item in proof["hashes"]]
        assert root == checkpoint_of(proof["checkpoint"]).root
        assert leaf_hash(proof["leaf_data"].encode()) == leaf
        assert f'"build-{build}"' in proof["leaf_data"]
        verify_inclusion(proof["index"], proof["size"], leaf, hashes, root)
        with pytest.raises(BadProof):
            verify_inclusion(proof["index"] - 1, proof["size"], leaf, hashes, root)


def test_a_later_log_begins_with_the_earlier_one(server: Server, build: int) -> None:
    earlier = seal(server)
    server.admin.post("/api/v3/projects", json={"name": "Later"})
    later = seal(server)
    params = {"first": earlier["size"], "second": later["size"]}
    proof = server.admin.get("/api/v3/audit/consistency", params=params).json()
    verify_consistency(
        earlier["size"],
        later["size"],
        checkpoint_of(earlier["note"]).root,
        checkpoint_of(later["note"]).root,
        [bytes.fromhex(item) for item in proof["hashes"]],
    )
    assert bytes.fromhex(proof["first_root"]) == checkpoint_of(earlier["note"]).root
    assert bytes.fromhex(proof["second_root"]) == checkpoint_of(later["note"]).root


def test_the_whole_log_verifies_offline(server: Server, build: int) -> None:
    note, key = seal(server)["note"], checkpoints(server)["keys"][0]
    found = verified(export(server.admin), key, note)
    assert found.findings == []
    assert found.left_out == 0


def header_of(content: bytes) -> ExportHeader:
    header = msgspec.json.decode(content.partition(b"\n")[0], type=ExportLine).export
    assert header is not None
    return header


def test_an_export_has_everything_until_it_was_asked_for(server: Server, build: int) -> None:
    note, key = seal(server)["note"], checkpoints(server)["keys"][0]
    with sealing(server):
        for _ in range(2):
            made = server.admin.when("POST", "/projects", json={"name": f"P {uuid.uuid4()}"})
            content = export(server.admin)
            header = header_of(content)
            assert f'"project-{made.json()["id"]}"'.encode() in content
            assert header.size >= header.head >= int(made.headers["Testhide-Position"])
            assert header.asked_at is not None
            assert abs(utcnow() - header.asked_at) < timedelta(seconds=60)
            assert verified(content, key, note).findings == []


def test_an_export_says_what_is_not_sealed(server: Server, build: int) -> None:
    """Nobody seals here, or the sealer refuses to: an auditor needs the export all the more."""
    size = seal(server)["size"]
    made = server.admin.when("POST", "/projects", json={"name": f"P {uuid.uuid4()}"})
    begun = time.monotonic()
    header = header_of(export(server.admin))
    assert time.monotonic() - begun < SEAL_TIMEOUT_S, "it does not wait for nobody"
    assert header.size == size < int(made.headers["Testhide-Position"]) <= header.head


def test_a_project_admin_exports_the_project(server: Server, project: int, build: int) -> None:
    note, key = seal(server)["note"], checkpoints(server)["keys"][0]
    admin = server.make_user("developer", {project: "admin"})
    content = export(admin, project_id=project)
    found = verified(content, key, note)
    assert found.findings == []
    assert found.left_out > 0
    assert f'"build-{build}"'.encode() in content
    assert b'"user.registered"' not in content
    content = export(admin, stream=f"build-{build}")
    found = verified(content, key, note)
    assert found.findings == []
    story = server.admin.get(f"/api/v3/audit/streams/build-{build}").json()
    assert found.events == len(story) + len(checkpoints(server)["keys"])


def test_an_export_goes_on_where_it_was_cut_off(server: Server, build: int) -> None:
    checkpoint = seal(server)
    whole = export(server.admin).splitlines(keepends=True)
    rest = export(server.admin, after=20, size=checkpoint["size"]).splitlines(keepends=True)
    assert whole[:21] + rest[1:] == whole
    found = verified(b"".join(whole[:21] + rest), checkpoints(server)["keys"][0], checkpoint["note"])
    assert found.findings == []


def test_an_export_is_noted(server: Server, project: int, build: int) -> None:
    seal(server)
    admin = server.make_user("developer", {project: "admin"})
    refused = admin.get("/api/v3/audit/export", params={"project_id": project, "token": "not to be kept"})
    assert refused.status_code == 422
    export(admin, project_id=project, held=[1, 2])
    assert admin.head("/api/v3/audit/export", params={"project_id": project}).status_code == 200
    server.wait_until_projected()
    (noted,) = server.admin.get("/api/v3/audit/events", params={"type": "audit.read", "project_id": project}).json()
    assert noted["actor"].startswith("user:")
    assert f"(project_id {project}, held [1, 2])" in noted["summary"]
    assert "not to be kept" not in server.admin.get("/api/v3/audit/events").text


def test_a_log_that_is_not_sealed_any_more_is_said(server: Server, build: int) -> None:
    sealed = seal(server)["size"]
    later = server.admin.post("/api/v3/projects", json={"name": "Later"}).json()["id"]
    ready = server.client().get("/api/v3/readyz").json()
    assert "sealed" not in ready["status"]
    assert ready["sealed"] == sealed
    assert 0 <= ready["sealed_age_s"] < 60
    last = position_of(server, f"project-{later}")
    move = f"UPDATE {TrailRow.table} SET at_us = at_us + %s WHERE position > %s AND position <= %s".encode()
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(move, (-301_000_000, sealed, last))
        answer = server.client().get("/api/v3/readyz")
        connection.execute(move, (301_000_000, sealed, last))  # others look at this table too
    assert answer.status_code == 200
    assert answer.json()["status"].startswith("degraded: ")
    assert "the log is not sealed any more" in answer.json()["status"]
    seal(server)
    assert "sealed" not in server.client().get("/api/v3/readyz").json()["status"]


def test_who_may(server: Server, project: int, build: int) -> None:
    seal(server)
    position, elsewhere = position_of(server, f"build-{build}"), position_of(server, "user-1")
    other = given_project(server)

    def status(client: Any, path: str, **params: Any) -> int:
        answer: requests.Response = client.get(f"/api/v3/audit/{path}", params=params)
        return answer.status_code

    admin, reader = (server.make_user("developer", {project: level}) for level in ("admin", "read"))
    stranger = server.make_user("developer", {})
    for path, params in (
        (f"proof/{position}", {}),
        ("export", {"project_id": project}),
        ("export", {"stream": f"build-{build}"}),
    ):
        assert [status(who, path, **params) for who in (admin, reader, stranger)] == [200, 403, 404]
    for path, params in (
        (f"proof/{elsewhere}", {}),
        ("export", {"project_id": other}),
        ("export", {"stream": "user-1"}),
        ("export", {"stream": "build-999999999"}),
    ):
        assert [status(who, path, **params) for who in (admin, reader, stranger)] == [404, 404, 404]
    assert status(server.admin, "export", stream="build-999999999") == 404
    assert status(server.admin, "export", stream=f"build-{build}", project_id=other) == 404
    assert [status(who, "export") for who in (admin, reader, stranger)] == [422, 422, 422]
    assert [status(who, "checkpoints") for who in (admin, reader, stranger)] == [200, 403, 403]
    assert [status(who, "consistency", first=1, second=1) for who in (reader, stranger)] == [403, 403]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("proof/999999999", 404, "not covered"),
        ("proof/1?size=999999999", 404, "no checkpoint of size 999999999"),
        ("proof/0", 404, ""),
        ("consistency?first=3", 422, "second"),
        ("consistency?first=3&second=2", 422, "must not be smaller"),
        ("consistency?first=999999998&second=999999999", 404, "no checkpoint of size"),
        ("export?after=999999999", 422, "after"),
        ("export?size=999999999", 404, "no checkpoint of size"),
        ("export?project_id=999999999", 404, "no project"),
        ("export?held=x", 422, "held"),
        ("checkpoints?limit=0", 422, "limit"),
    ],
)
def test_what_there_is_not(server: Server, build: int, path: str, status: int, says: str) -> None:
    seal(server)
    answer = server.admin.get(f"/api/v3/audit/{path}")
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
