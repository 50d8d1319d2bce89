"""How exports of the log share a process with others; with a look into the process that sends them."""

import asyncio

import pytest

from api.live import stream_clients
from store.audit.checkpoints import AuditTree
from store.audit.export import PIECE_BYTES, Export, of_stream
from tests.api.test_audit_proofs import seal
from tests.api.test_stream_clients import connect, until
from tests.support.builders import given_job, given_project
from tests.support.in_process_server import InProcessServer
from tests.support.server import ADMIN, Server

CONFIGURATIONS = 12
SIZE = 15 * 65_000
"""Bytes of the variables of a configuration. All configurations together are more than what lies in buffers."""


@pytest.fixture(scope="module")
def job(server: Server) -> int:
    """A job with large configurations, which take hardly any room in the database."""
    job = given_job(server, given_project(server))
    for number in range(CONFIGURATIONS):
        env = {f"V{index}": chr(97 + number) * (SIZE // 15) for index in range(15)}
        configuration = {"command": "true", "setup": [], "env": env, "artifacts": []}
        server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    seal(server)
    return job


def path_of(job: int) -> str:
    return f"/api/v3/audit/export?stream=job-{job}"


def test_it_has_one_large_event_in_memory_at_a_time(inside: InProcessServer, job: int) -> None:
    async def sizes() -> list[int]:
        services = inside.services
        checkpoint = await AuditTree(services.pool).checkpoint()
        assert checkpoint is not None
        export = Export(services.pool, services.log, checkpoint, following=of_stream(services.pool, f"job-{job}"))
        return [len(piece) async for piece in export.lines()]

    found = asyncio.run_coroutine_threadsafe(sizes(), inside.loop).result(30)
    assert sum(found) > CONFIGURATIONS * SIZE
    assert max(found) < SIZE + 2 * PIECE_BYTES


def test_a_user_and_a_process_have_so_many(
    server: Server, inside: InProcessServer, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.streams.exports, "_total", 3)
    admin = inside.client(*ADMIN)
    other, third = server.make_user("admin", {}), server.make_user("admin", {})
    open_exports = [connect(inside, client, path_of(job), buffer=4096) for client in (admin, admin, other)]
    until(inside, lambda: len(inside.streams.exports) == 3, "they are not sent")
    for client, status, says in ((admin, 429, "You have 2 exports open"), (third, 503, "3 exports are open")):
        refused = inside.client(*ADMIN) if client is admin else client
        answer = refused.get(inside.url + path_of(job))
        assert (answer.status_code, answer.headers["Retry-After"]) == (status, "10")
        assert says in answer.json()["detail"]
    for connection in open_exports:
        connection.close()
    until(inside, lambda: len(inside.streams.exports) == 0, "they stay")
    assert b'{"end":' in admin.get(path_of(job)).content


def test_one_that_is_not_read_ends(inside: InProcessServer, job: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_clients, "STALL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(stream_clients, "CHECK_INTERVAL_S", 0.1)
    with connect(inside, inside.client(*ADMIN), path_of(job), buffer=4096) as connection:
        until(inside, lambda: len(inside.streams.exports) == 1, "it is not sent")
        until(inside, lambda: len(inside.streams.exports) == 0, "it does not end")
        with connection.makefile("rb") as file:
            answer = file.read()
        assert b'{"end":' not in answer
        assert not answer.endswith(b"0\r\n\r\n"), "the client may take a part for the whole"
