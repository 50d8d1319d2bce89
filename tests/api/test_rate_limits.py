"""How many requests a token, and an address without one, may send."""

import hashlib
import hmac
import random
from collections.abc import Iterator

import pytest
import requests
from structlog.testing import capture_logs

from api.http.rate_limits import SIGNED_FACTOR
from tests.support.builders import Shop, given_project
from tests.support.fake_agent import FakeAgent
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

PER_TOKEN, PER_ADDRESS = 20, 10
REFILLED = 5
"""Requests that a bucket may get back while a test runs."""


@pytest.fixture(scope="module")
def limited(server: Server) -> Iterator[InProcessServer]:
    limits = {"requests_per_token": PER_TOKEN, "requests_per_address": PER_ADDRESS}
    with serve_in_process(server, **limits, trusted_proxies="127.0.0.0/8") as began:
        yield began


@pytest.fixture(scope="module")
def other(server: Server, limited: InProcessServer) -> Iterator[InProcessServer]:
    """Another process with the same limits, as it were."""
    limits = {"requests_per_token": PER_TOKEN, "requests_per_address": PER_ADDRESS}
    with serve_in_process(server, **limits, trusted_proxies="127.0.0.0/8") as began:
        yield began


def ask(url: str, path: str, address: str, token: str = "") -> requests.Response:
    headers = {"X-Forwarded-For": address} | ({"Authorization": f"Bearer {token}"} if token else {})
    return requests.get(f"{url}/api/v3{path}", headers=headers, timeout=10)


def new_network() -> str:
    return f"2001:db8:{random.randrange(2**16):x}:{random.randrange(2**16):x}"


def test_a_token_that_asks_too_often_has_to_wait(
    server: Server, limited: InProcessServer, other: InProcessServer
) -> None:
    token, second = (server.make_user("viewer", {}).token for _ in range(2))
    first = ask(limited.url, "/me", "192.0.2.1", token)
    assert {name: first.headers[f"RateLimit-{name}"] for name in ("Policy", "Limit", "Remaining", "Reset")} == {
        "Policy": "20;w=60",
        "Limit": "20",
        "Remaining": "19",
        "Reset": "3",
    }
    answers = [ask(one.url, "/me", "192.0.2.1", token) for _ in range(PER_TOKEN) for one in (limited, other)]
    passed = sum(answer.status_code == 200 for answer in answers)
    assert PER_TOKEN - 1 <= passed <= PER_TOKEN + REFILLED, "all processes count together"
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "3"
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert refused.json()["detail"] == "More than 20 requests a minute, which is the limit of a token."
    assert ask(limited.url, "/me", "192.0.2.1", second).status_code == 200, "another token from the same address"


def test_an_address_without_credentials_that_asks_too_often_has_to_wait(
    server: Server, limited: InProcessServer
) -> None:
    network = new_network()
    statuses = [ask(limited.url, "/sso", f"{network}::{number:x}").status_code for number in range(2 * PER_ADDRESS)]
    assert statuses[:PER_ADDRESS] == [200] * PER_ADDRESS
    assert statuses[-1] == 429
    assert ask(limited.url, "/me", f"{network}::1", "th_live_no-such-token").status_code == 429, "it has no credentials"
    assert ask(limited.url, "/healthz", f"{network}::1").status_code == 200
    user = server.make_user("viewer", {}).token
    assert ask(limited.url, "/me", f"{network}::1", user).status_code == 200
    assert ask(limited.url, "/sso", f"{new_network()}::1").status_code == 200


def send_hook(url: str, project: int, address: str, secret: str) -> requests.Response:
    digest = hmac.new(secret.encode(), b"{}", hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "ping", "X-Hub-Signature-256": f"sha256={digest}", "X-Forwarded-For": address}
    headers["Content-Type"] = "application/json"
    return requests.post(f"{url}/webhook/proj/{project}", b"{}", headers=headers, timeout=10)


def test_hooks_count_for_their_project_and_not_for_the_address_of_the_host(
    server: Server, limited: InProcessServer
) -> None:
    address = f"{new_network()}::1"
    busy, quiet = (given_project(server) for _ in range(2))
    rotated = {of: server.admin.when("POST", f"/projects/{of}/rotate-webhook-secret").then(200) for of in (busy, quiet)}
    secrets = {of: answer["webhook_secret"] for of, answer in rotated.items()}
    answers = [send_hook(limited.url, busy, address, secrets[busy]) for _ in range(PER_TOKEN + REFILLED)]
    assert [answer.status_code for answer in answers[:PER_TOKEN]] == [200] * PER_TOKEN
    assert "the limit of the hooks of a project" in answers[-1].json()["detail"]
    assert send_hook(limited.url, quiet, address, secrets[quiet]).status_code == 200
    wrong = send_hook(limited.url, quiet, address, "guessed")
    assert (wrong.status_code, wrong.headers["RateLimit-Remaining"]) == (401, str(SIGNED_FACTOR * PER_ADDRESS - 1))


def test_wrong_signatures_count_for_their_address(limited: InProcessServer) -> None:
    address, most = f"{new_network()}::1", SIGNED_FACTOR * PER_ADDRESS
    statuses = [send_hook(limited.url, 1, address, "guessed").status_code for _ in range(most + 5 * REFILLED)]
    assert statuses[:most] == [401] * most
    assert statuses[-1] == 429
    assert ask(limited.url, "/sso", address).status_code == 200


@pytest.mark.parametrize("form", ["203.0.113.{}", "203.0.113.{}:51234", "[2001:db8:{}::1]", "[2001:db8:{}::1]:443"])
def test_an_address_may_have_brackets_and_a_port(limited: InProcessServer, form: str) -> None:
    answer = ask(limited.url, "/sso", form.format(random.randrange(1, 250)))
    assert answer.headers["RateLimit-Limit"] == str(PER_ADDRESS)


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere/at/all", "/openapi.json", "/sso/%00", "/projects"])
def test_every_request_without_credentials_is_counted(limited: InProcessServer, path: str) -> None:
    network = new_network()
    answers = [ask(limited.url, path, f"{network}::1") for _ in range(2 * PER_ADDRESS)]
    assert answers[0].status_code != 429
    assert answers[0].headers["RateLimit-Remaining"] == str(PER_ADDRESS - 1)
    assert answers[-1].status_code == 429
    wrong = requests.delete(f"{limited.url}/api/v3/sso", headers={"X-Forwarded-For": f"{network}::1"}, timeout=10)
    assert wrong.status_code == 429, "also with a method that is not possible"


def test_agents_are_not_counted(shop: Shop, agent: FakeAgent, limited: InProcessServer) -> None:
    for _ in range(PER_TOKEN + REFILLED):
        headers = {"Authorization": f"Bearer {agent.http.token}"}
        answer = requests.post(f"{limited.url}/api/v3/agent/heartbeat", json={}, headers=headers, timeout=10)
        assert answer.status_code != 429


def test_nobody_is_limited_while_redis_does_not_answer(server: Server) -> None:
    with (
        capture_logs() as logs,
        serve_in_process(server, requests_per_token=1, redis_url="unix:///nowhere/redis.sock") as inside,
    ):
        admin = inside.client(*ADMIN)
        answers = [admin.get("/api/v3/me") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit-Limit" not in answers[0].headers
    assert [line["event"] for line in logs if "Redis" in line["event"]] == [
        "requests are not limited: Redis does not answer"
    ]
