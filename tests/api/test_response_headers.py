"""Headers that all answers have."""

from collections.abc import Iterator

import pytest
import requests

from tests.support.http import Client
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

PAGE = "https://dash.example.com"
PROTECTED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    with serve_in_process(server, cors_origins=f"{PAGE},http://127.0.0.1:3000") as began:
        yield began


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v3/me", 200),
        ("HEAD", "/api/v3/me", 200),
        ("OPTIONS", "/api/v3/me", 204),
        ("GET", "/api/v3/healthz", 200),
        ("GET", "/api/v3/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/v3/me", 405),
        ("GET", "/api/v3/builds?limit=x", 422),
        ("HEAD", "/api/v3/events/stream", 200),
    ],
)
def test_every_answer_is_protected(server: Server, method: str, path: str, status: int) -> None:
    answer = server.admin.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in PROTECTED} == PROTECTED
    assert len(answer.headers["X-Request-ID"]) == 32
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_stranger_gets_the_same(server: Server) -> None:
    answer = requests.get(f"{server.url}/api/v3/me", timeout=10)
    assert answer.status_code == 401
    assert {name: answer.headers.get(name) for name in PROTECTED} == PROTECTED


def test_a_page_has_its_own_policy_only(server: Server) -> None:
    headers = requests.get(f"{server.url}/set-password", timeout=10).headers
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].count("default-src") == 1


def test_a_browser_is_kept_to_https_where_it_used_it(server: Server) -> None:
    url = f"{server.url}/api/v3/healthz"
    assert "Strict-Transport-Security" not in requests.get(url, timeout=10).headers
    proxied = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert requests.get(url, headers=proxied, timeout=10).headers["Strict-Transport-Security"] == "max-age=31536000"


def test_the_request_id_of_the_caller_is_that_of_its_events(server: Server, project: int) -> None:
    body = {"name": "Traced", "project_id": project}
    job = server.admin.post("/api/v3/jobs", json=body, headers={"X-Request-ID": "trace/4711:a"})
    assert job.headers["X-Request-ID"] == "trace/4711:a"
    (created,) = server.admin.get(f"/api/v3/audit/streams/job-{job.json()['id']}").json()
    assert created["correlation_id"] == "trace/4711:a"


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "a\tb", "<script>"])
def test_what_is_no_request_id_is_replaced(server: Server, given: str) -> None:
    answer = server.admin.get("/api/v3/me", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"].isalnum()
    assert len(answer.headers["X-Request-ID"]) == 32


def test_pages_of_other_origins_get_nothing_by_default(server: Server) -> None:
    answer = server.admin.get("/api/v3/me", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", ["/api/v3/me", "/api/v3/jobs/999999", "/nowhere"])
def test_pages_of_a_known_origin_may_read_answers(inside: InProcessServer, path: str) -> None:
    admin: Client = inside.client(*ADMIN)
    answer = admin.get(path, headers={"Origin": PAGE})
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Testhide-Position" in answer.headers["Access-Control-Expose-Headers"]
    for origin in ("https://evil.example.com", "null", f"{PAGE}.evil.example.com"):
        refused = admin.get(path, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in refused.headers
        assert refused.headers["Vary"] == "Origin"


def test_a_browser_may_ask_first(inside: InProcessServer) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
    answer = requests.options(f"{inside.url}/api/v3/jobs/1", headers={"Origin": PAGE, **asked}, timeout=10)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    refused = requests.options(
        f"{inside.url}/api/v3/jobs/1", headers={"Origin": "https://x.example", **asked}, timeout=10
    )
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_a_stream_is_protected_too(server: Server) -> None:
    with server.admin.get("/api/v3/events/stream", stream=True) as answer:
        assert {name: answer.headers.get(name) for name in PROTECTED} == PROTECTED


@pytest.mark.parametrize("path", ["/api/v3/reset-password", "/api/v3/authenticate"])
def test_a_stranger_does_not_see_the_end_of_the_log(server: Server, path: str) -> None:
    """Which would show whether a link was issued, and so whether there is an account."""
    body = {"email": "nobody@example.com"} if "reset" in path else {"username": "nobody", "password": "x"}
    late = {"Testhide-Min-Position": "999999999"}
    answer = requests.post(f"{server.url}{path}", json=body, headers=late, timeout=1.5)
    assert not [name for name in answer.headers if name.lower().startswith("testhide")]
    for public in ("/healthz", "/openapi.json", "/sso"):
        answer = requests.get(f"{server.url}/api/v3{public}", headers=late, timeout=1.5)
        assert not [name for name in answer.headers if name.lower().startswith("testhide")]
