"""Whatever a client sends: what is refused is refused as `application/problem+json`, and nothing ends in a 5xx."""

import contextlib
import json
import socket
from typing import Any

import pytest
import requests
from structlog.testing import capture_logs

from tests.contract.problems import problem_of
from tests.support.http import Client
from tests.support.in_process_server import serve_in_process
from tests.support.server import Server

PROJECTS = "/api/v3/projects"
JSON = {"Content-Type": "application/json"}
MIB = 1024 * 1024


def post(server: Server, body: bytes | str, path: str = PROJECTS) -> requests.Response:
    answer: requests.Response = server.admin.post(path, data=body, headers=JSON)
    return answer


def test_too_large(server: Server) -> None:
    body = json.dumps({"name": "x", "description": "y" * 17 * MIB})
    answer = post(server, body)
    assert "larger" in problem_of(answer, 413)["detail"]
    assert answer.headers["Connection"] == "close"


def test_too_large_without_a_length(server: Server) -> None:
    """Chunked: how much it is shows only while it comes."""
    chunks = (b" " * MIB for _ in range(20))
    problem_of(server.admin.post(PROJECTS, data=chunks, headers=JSON), 413)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"}", b"nonsense", b'{"name": "x"', b"{'name': 'x'}", b'{"name": x}', b"\x00", b"\xff", b"Infinity"],
)
def test_malformed(server: Server, body: bytes) -> None:
    problem = problem_of(post(server, body), 400 if body else 422)
    assert "body" in problem["detail"].lower()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": 5}, "name"),
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": " \t"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": ["x"]}, "name"),
        ({"name": "x", "scm_endpoint_id": "5"}, "scm_endpoint_id"),
        ({"name": "x", "scm_endpoint_id": 1.5}, "scm_endpoint_id"),
        ({"name": "x", "scm_endpoint_id": True}, "scm_endpoint_id"),
        ({"name": "x", "scm_endpoint_id": 2**53 + 1}, "scm_endpoint_id"),
        ({}, "name"),
        ([], "body"),
        (None, "body"),
        ("x", "body"),
        (5, "body"),
    ],
)
def test_wrong_types(server: Server, body: Any, field: str) -> None:
    problem = problem_of(post(server, json.dumps(body)), 422)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_a_nested_field_is_named(server: Server) -> None:
    configuration = {"command": "true", "setup": ["a", 5], "env": {}, "artifacts": []}
    job = server.admin.post(PROJECTS, json={"name": "x"}).json()["id"]
    made = server.admin.post("/api/v3/jobs", json={"name": "x", "project_id": job}).json()["id"]
    answer = server.admin.put(f"/api/v3/jobs/{made}/configuration", json=configuration)
    assert problem_of(answer, 422)["errors"][0]["field"] == "setup[1]"


@pytest.mark.parametrize("name", ["a\0b", "\0"])
def test_nul(server: Server, name: str) -> None:
    assert problem_of(post(server, json.dumps({"name": name})), 422)["errors"][0]["field"] == "name"


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"a\ud83d", r"\ude00\ud83d"])
def test_lone_surrogates(server: Server, escape: str) -> None:
    problem_of(post(server, '{"name": "' + escape + '"}'), 422)
    made = post(server, r'{"name": "\ud83d\ude00"}')
    assert (made.status_code, made.json()["name"]) == (201, "\U0001f600")


@pytest.mark.parametrize("brackets", ["[]", "{}"])
@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_deep_nesting(server: Server, brackets: str, depth: int) -> None:
    opening, closing = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    nested = opening * depth + "1" + closing * depth
    problem_of(post(server, nested), 422)
    problem_of(post(server, '{"name": "x", "more": ' + nested + "}"), 422)


@pytest.mark.parametrize("number", ["9" * 400, "1e400", "-1e400", "9" * 5_000, "2.5e308"])
def test_huge_numbers(server: Server, number: str) -> None:
    problem_of(post(server, '{"name": "x", "scm_endpoint_id": ' + number + "}"), 422)


@pytest.mark.parametrize("number", ["0", "-1", "-0", "9007199254740993", "9" * 19, "9" * 30, "9" * 3_000])
@pytest.mark.parametrize("path", ["projects", "jobs", "builds", "nodes"])
def test_ids_in_paths(server: Server, path: str, number: str) -> None:
    problem_of(server.admin.get(f"/api/v3/{path}/{number}"), 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"name": "first", "name": "second"}', "name"),
        ('{"name": "first", "n\\u0061me": "second"}', "name"),
        ('{"name": "x", "more": [{"a": 1, "b": 2, "a": 1}]}', "a"),
    ],
)
def test_double_keys(server: Server, body: str, field: str) -> None:
    """Which of them counts depends on who reads them."""
    assert problem_of(post(server, body), 422)["errors"] == [{"field": field, "message": "is given twice"}]


def test_a_body_of_a_read(server: Server) -> None:
    problem = problem_of(server.admin.get(PROJECTS, json={"limit": 5}), 422)
    assert [error["field"] for error in problem["errors"]] == ["body"]
    assert server.admin.get(PROJECTS, data=b"{}").status_code == 200


def test_a_body_that_would_be_ignored(server: Server) -> None:
    project = server.admin.create("/projects", name="rotated")["id"]
    path = f"{PROJECTS}/{project}/rotate-webhook-secret"
    problem = problem_of(server.admin.post(path, json={"secret": "mine"}), 422)
    assert [error["field"] for error in problem["errors"]] == ["body"]
    for nothing in (b"", b"{}", b" null "):
        assert server.admin.post(path, data=nothing).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"name": "x"', "Expecting ',' delimiter, in line 1, column 13"),
        (b'{\n"name": x}', "Expecting value, in line 2, column 9"),
        (b'{"name": "caf\xe9"}', "not encoded in UTF-8"),
        (b'{"scm_endpoint_id": NaN}', "which has no NaN"),
    ],
)
def test_where_a_body_is_no_json(server: Server, body: bytes, says: str) -> None:
    assert says in problem_of(post(server, body), 400)["detail"]


@pytest.mark.parametrize("path", [PROJECTS, "/api/v3/artifacts/upload"])
def test_a_compressed_body(server: Server, path: str) -> None:
    answer = server.admin.post(path, data=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})
    assert "without `Content-Encoding: gzip`" in problem_of(answer, 415)["detail"]


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "json"])
def test_other_media_types(server: Server, media_type: str) -> None:
    answer = server.admin.post(PROJECTS, data=b'{"name": "x"}', headers={"Content-Type": media_type})
    problem = problem_of(answer, 415)
    assert media_type in problem["detail"]
    assert problem["type"] == "urn:testhide:problem:unsupported-media-type"


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
def test_json_by_other_names(server: Server, media_type: str) -> None:
    answer = server.admin.post(PROJECTS, data=b'{"name": "x"}', headers={"Content-Type": media_type})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v3",
        "/api/v2/me",
        "/api/v3/nothing",
        "/api/v3/projects/1/nothing",
        "/api/v3/openapi",
        "/api/v3/openapi.yaml",
        "/api/v3/openapi.json/nothing",
        "/api/v3/openapi.json/openapi.json",
        "/api/v3/%00",
        "/api/v3/%ff",
        "/api/v3/..%2f..%2fetc",
        "//api//v3//nothing",
        "/agent/0/linux-amd64",
    ],
)
def test_unknown_paths(server: Server, path: str) -> None:
    for client in (server.admin, server.client()):
        problem_of(client.get(f"{server.url}{path}"), 404)


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "TRACE", "BREW"])
def test_wrong_methods(server: Server, method: str) -> None:
    answer = server.admin.request(method, PROJECTS)
    assert method in problem_of(answer, 405)["detail"]
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_options(server: Server) -> None:
    """Says which methods there are, to everyone."""
    paths = {
        PROJECTS: {"GET", "HEAD", "OPTIONS", "POST"},
        f"{PROJECTS}/1": {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"},
        "/api/v3/healthz": {"GET", "HEAD", "OPTIONS"},
        "/api/v3/openapi.json": {"GET", "HEAD", "OPTIONS"},
        "/api/v3/authenticate": {"OPTIONS", "POST"},
    }
    for path, methods in paths.items():
        answer = server.client().options(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert set(answer.headers["Allow"].split(", ")) == methods
    problem_of(server.client().options("/api/v3/nothing"), 404)


def test_head(server: Server) -> None:
    """Refused like GET; and never a body, which a client would take for the next answer."""
    for path, status in (("/api/v3/authenticate", 405), (f"{PROJECTS}/0", 404), ("/api/v3/nothing", 404)):
        answer = server.admin.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert server.admin.get("/api/v3/healthz").status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET /api/v3/me HTTP/9.9\r\n\r\n",
        b"GET /api/v3/me HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /api/v3/projects HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v3/authenticate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"GET /api/v3/builds?limit=%zz&%=&&=5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_hardly_http(server: Server, raw: bytes) -> None:
    """Refused or cut off, and the server goes on."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may hang up before it has heard all
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                answer += chunk
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert server.admin.get("/api/v3/healthz").status_code == 200


@pytest.mark.parametrize("query", ["%00", "a%00b", "%ff", "%ed%a0%80"])
def test_what_no_text_is_in_a_query(server: Server, query: str) -> None:
    problem_of(server.admin.get(f"/api/v3/builds?branch={query}"), 422)


def test_a_refusal_changes_nothing(server: Server) -> None:
    server.wait_until_projected()
    before = server.client().get("/api/v3/readyz").json()["position"]
    for body in ({}, {"name": 5}, {"name": "a\0"}):
        problem_of(post(server, json.dumps(body)), 422)
    assert server.client().get("/api/v3/readyz").json()["position"] == before


def test_refusals_are_logged_without_what_was_sent(server: Server) -> None:
    viewer = server.make_user("viewer")
    with capture_logs() as logged, serve_in_process(server) as process:
        stranger = Client(process.url, "", "")
        login = {"username": "nobody@example.com", "password": "their secret password"}
        stranger.post("/api/v3/authenticate", json=login).then(401)
        stranger.get("/api/v3/projects").then(401)
        stranger.authorize(viewer.token).post("/api/v3/projects", json={"name": "x"}).then(403)
    refusals = [line for line in logged if line["event"] in ("sign-in refused", "not allowed")]
    assert [(line["event"], line["path"]) for line in refusals] == [
        ("sign-in refused", "/api/v3/authenticate"),
        ("not allowed", "/api/v3/projects"),
    ]
    assert refusals[1]["actor"] == f"user:{viewer.fetch('/me')['id']}"
    assert refusals[0]["address"] == "127.0.0.1"
    assert "nobody" not in str(logged)
    assert "secret" not in str(logged)
