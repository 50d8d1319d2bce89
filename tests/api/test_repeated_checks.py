"""A request that takes long has the access that its caller has now, not that of its beginning."""

import asyncio
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import requests

from api import build_logs
from api.http import repeated_checks
from store.audit import export
from store.postgres.caller_turns import CallerTurns
from tests.api.test_audit_proofs import seal
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import Server

TIMEOUT_S = 10.0
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
FIELD = b'--b\r\nContent-Disposition: form-data; name="build_id"\r\n\r\n%d\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="junit.xml"\r\n\r\n%b\r\n--b--\r\n'
REPORT = b'<testsuite name="s"><testcase name="a"/></testsuite>'
LINE = "x" * 60_000
LINES = 300


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_checks, "RECHECK_AFTER_S", 0.0)
        patch.setattr(repeated_checks, "RECHECK_INTERVAL_S", 0.0)
        patch.setattr(build_logs, "RAW_LINES", 10)
        patch.setattr(export, "CHUNK", 1, raising=False)
        with serve_in_process(server) as began:
            yield began


@contextmanager
def begun(inside: InProcessServer, client: Client, path: str, head: bytes, body: bytes) -> Iterator[socket.socket]:
    """A POST whose body is awaited: the server has checked the caller before it says that it reads on."""
    address = urlsplit(inside.url)
    head = (
        f"POST /api/v3{path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {client.token}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n"
    ).encode() + head
    with socket.create_connection((address.hostname or "", address.port or 0), TIMEOUT_S) as connection:
        connection.sendall(head + b"\r\n")
        assert connection.recv(1_000).startswith(b"HTTP/1.1 100")
        connection.sendall(body[:-1])
        yield connection


def end(connection: socket.socket, body: bytes) -> int:
    connection.sendall(body[-1:])
    return int(connection.recv(1_000).split()[1])


def delete(server: Server, user: Client) -> None:
    server.admin.when("DELETE", f"/users/{user.fetch('/me')['id']}").then(204)


def test_a_body_that_ends_after_its_sender_was_deleted_is_refused(server: Server, inside: InProcessServer) -> None:
    user, body = server.make_user("admin"), b'{"email": "accomplice@example.com", "role": "admin"}'
    with begun(inside, user, "/users", b"Content-Type: application/json\r\n", body) as connection:
        delete(server, user)
        assert end(connection, body) == 401
    assert server.admin.fetch("/users", search="accomplice")["total"] == 0


def test_a_body_that_ends_after_its_sender_lost_their_role_is_refused(server: Server, inside: InProcessServer) -> None:
    user, body = server.make_user("admin"), b'{"email": "successor@example.com", "role": "admin"}'
    with begun(inside, user, "/users", b"Content-Type: application/json\r\n", body) as connection:
        server.admin.when("PUT", f"/users/{user.fetch('/me')['id']}", json={"role": "viewer"}).then(200)
        assert end(connection, body) == 403


def test_a_slow_body_of_a_caller_who_may_go_on_is_accepted(server: Server, inside: InProcessServer) -> None:
    body = b'{"name": "Slowly"}'
    user = server.make_user("developer")
    with begun(inside, user, "/projects", b"Content-Type: application/json\r\n", body) as connection:
        assert end(connection, body) == 201


def test_an_upload_that_ends_after_its_sender_was_removed_is_refused(server: Server, inside: InProcessServer) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    user = server.make_user("developer", {project: "write"})
    body = FIELD % build + FILE % REPORT
    with begun(inside, user, "/artifacts/upload", FORM, body) as connection:
        server.admin.when("DELETE", f"/projects/{project}/members/{user.fetch('/me')['id']}").then(204)
        assert end(connection, body) == 404
    assert server.admin.fetch("/artifacts", build_id=build) == []


def wait_until(inside: InProcessServer, count: Callable[[], int], request: Future[requests.Response]) -> None:
    """Waits until the request waits in the server, which `count` shows."""
    deadline = time.monotonic() + TIMEOUT_S
    while not inside.call(count):
        assert not request.done()
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks


def test_who_was_removed_while_waiting_for_a_position_gets_nothing(server: Server, inside: InProcessServer) -> None:
    project = given_project(server)
    user = server.make_user("developer", {project: "admin"})
    url, headers = f"{inside.url}/api/v3/projects/{project}/rotate-webhook-secret", dict(user.headers)
    waiter = inside.services.waiter
    with ThreadPoolExecutor() as threads:
        headers["Testhide-Min-Position"] = str(10**15)
        request = threads.submit(requests.post, url, headers=headers, timeout=TIMEOUT_S)
        wait_until(inside, lambda: waiter.waiter_count, request)
        server.admin.when("DELETE", f"/projects/{project}/members/{user.fetch('/me')['id']}").then(204)
        assert request.result().status_code == 404


ANALYSES = [
    "/ai/tests/health?project_id={project}",
    "/ai/tests/{case}/health",
    "/ai/emerging/latest?project_id={project}",
    "/test-cases?project_id={project}",
    "/test-cases?job_id={job}",
    "/ai/insights?project_id={project}",
    "/ai/summary/{build}",
]


@pytest.fixture(scope="module")
def analysed(server: Server) -> dict[str, int]:
    project = given_project(server)
    job = given_job(server, project)
    build = given_build(server, job)
    upload(server.admin, build, REPORT).then(201)
    (result,) = server.admin.fetch("/tests", build_id=build)["results"]
    return {"project": project, "job": job, "build": build, "case": result["test_case_id"]}


@contextmanager
def held_turn(inside: InProcessServer, turns: CallerTurns, client: Client) -> Iterator[None]:
    """Holds the turn of a user until the block ends."""
    number, done = client.fetch("/me")["id"], Future[asyncio.Event]()

    async def hold() -> None:
        async with turns.take(f"user:{number}"):
            event = asyncio.Event()
            done.set_result(event)
            await event.wait()

    holding = asyncio.run_coroutine_threadsafe(hold(), inside.loop)
    event = done.result(TIMEOUT_S)
    try:
        yield
    finally:
        inside.call(event.set)
        holding.result(TIMEOUT_S)


@pytest.mark.parametrize("path", ["/audit/events", "/builds?as_of=1", *ANALYSES])
def test_who_was_removed_while_waiting_for_a_turn_reads_nothing(
    server: Server, inside: InProcessServer, analysed: dict[str, int], path: str
) -> None:
    user, services = server.make_user("admin"), inside.services
    turns = services.audit_turns if path.startswith("/audit") else services.past.turns
    if path in ANALYSES:
        turns = services.analysis_turns
    url = f"{inside.url}/api/v3{path.format(**analysed)}"
    with ThreadPoolExecutor() as threads:
        with held_turn(inside, turns, user):
            request = threads.submit(requests.get, url, headers=dict(user.headers), timeout=TIMEOUT_S)
            wait_until(inside, lambda: len(turns) - 1, request)
            delete(server, user)
        assert request.result().status_code == 401


@pytest.mark.parametrize("path", ANALYSES)
def test_who_sees_nothing_waits_for_no_turn(
    server: Server, inside: InProcessServer, analysed: dict[str, int], path: str
) -> None:
    stranger = server.make_user("developer")
    with held_turn(inside, inside.services.analysis_turns, stranger):
        url = f"{inside.url}/api/v3{path.format(**analysed)}"
        assert requests.get(url, headers=dict(stranger.headers), timeout=TIMEOUT_S).status_code == 404


def test_who_was_removed_while_waiting_for_the_model_finds_nothing(server: Server, inside: InProcessServer) -> None:
    project = given_project(server)
    user = server.make_user("developer", {project: "read"})
    waiting: Future[None] = Future()
    removed = asyncio.Event()

    class SlowModel:
        model = "slow"

        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            waiting.set_result(None)
            await removed.wait()
            return [[1.0] * 256 for _ in texts]

        def close(self) -> None:
            pass

    app = inside.app
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as threads:
        patch.setattr(app.state, "services", dataclasses.replace(inside.services, embeddings=SlowModel()))
        url = f"{inside.url}/api/v3/ai/search?q=secret&project_id={project}"
        request = threads.submit(requests.get, url, headers=dict(user.headers), timeout=TIMEOUT_S)
        waiting.result(TIMEOUT_S)
        server.admin.when("DELETE", f"/projects/{project}/members/{user.fetch('/me')['id']}").then(204)
        inside.call(removed.set)
        assert request.result().status_code == 404


def read_after_deletion(server: Server, inside: InProcessServer, user: Client, path: str) -> None:
    """Begins a download, deletes its user, and reads to the end, which must not come."""
    url = f"{inside.url}/api/v3{path}"
    with requests.get(url, headers=dict(user.headers), stream=True, timeout=TIMEOUT_S) as answer:
        assert answer.status_code == 200
        delete(server, user)
        with pytest.raises(requests.RequestException):
            for _ in answer.iter_content(1_000_000):
                pass


def test_a_log_is_not_sent_on_to_a_user_who_was_deleted(server: Server, inside: InProcessServer) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    for offset in range(0, LINES, 15):
        text = f"{LINE}\n" * 15
        server.admin.when("POST", f"/builds/{build}/log", json={"offset": offset, "text": text}).then(200)
    user = server.make_user("developer", {project: "read"})
    read_after_deletion(server, inside, user, f"/builds/{build}/pipeline_logs/raw")


def test_an_export_is_not_sent_on_to_a_user_who_was_deleted(server: Server, inside: InProcessServer) -> None:
    project = given_project(server)
    job = given_job(server, project)
    for _ in range(10):
        env = {f"V{number}": os.urandom(30_000).hex() for number in range(12)}
        configuration = {"setup": [], "command": "true", "env": env, "artifacts": []}
        server.admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
    user = server.make_user("developer", {project: "admin"})
    seal(server)
    read_after_deletion(server, inside, user, f"/audit/export?project_id={project}")
