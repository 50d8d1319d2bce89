"""Signing in is slowed down where it is guessed."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import psycopg
import pytest
import requests
from litestar.testing import RequestFactory

from api.http.networks import find_network
from domain.core.errors import Unavailable
from store.crypto import passwords
from tests.support.server import Server

PASSWORD = "a password of theirs"


def login(server: Server, username: str, password: str, address: str = "") -> requests.Response:
    headers = {"X-Forwarded-For": address} if address else {}
    body = {"username": username, "password": password}
    return requests.post(f"{server.url}/api/v3/authenticate", json=body, headers=headers, timeout=10)


def new_address() -> str:
    """An address that nobody has called from."""
    return f"2001:db8:{random.randrange(2**16):x}:{random.randrange(2**16):x}::1"


def guesses(server: Server, username: str, count: int) -> set[int]:
    return {login(server, username, "wrong").status_code for _ in range(count)}


def test_an_account_that_is_guessed_at(server: Server) -> None:
    me = server.make_user("viewer", {}).get("/api/v3/me").json()["email"]
    other = new_address()
    assert {login(server, me, "wrong", other).status_code for _ in range(10)} == {401}
    refused = login(server, me.upper(), PASSWORD, other)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 300
    assert refused.headers["Retry-After"] in refused.json()["detail"]
    assert login(server, me, PASSWORD).status_code == 200, "others' wrong passwords are not the owner's"


def test_guesses_at_once_are_no_more(server: Server) -> None:
    me, address = server.make_user("viewer", {}).get("/api/v3/me").json()["email"], new_address()

    def guess(_: int) -> int:
        while (status := login(server, me, "wrong", address).status_code) == 503:
            pass  # the server is busy and asks to try again; the attempt does not count
        return status

    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(guess, range(60)))
    assert answers.count(401) == 10
    assert set(answers) == {401, 429}


def test_an_account_that_many_addresses_guess_at(server: Server) -> None:
    me, known, unknown = server.make_user("viewer", {}).get("/api/v3/me").json()["email"], new_address(), new_address()
    assert login(server, me, PASSWORD, known).status_code == 200
    assert login(server, me, "wrong", new_address()).status_code == 401
    with psycopg.connect(server.settings.database_url) as connection:
        connection.execute("UPDATE login_failures SET failures = 100 WHERE subject LIKE 'login-account-%'")
    assert login(server, me, PASSWORD, unknown).status_code == 429
    assert login(server, me, PASSWORD, known).status_code == 200


def test_an_account_that_nobody_has_is_told_the_same(server: Server) -> None:
    assert guesses(server, "nobody-at-all@example.com", 10) == {401}
    assert guesses(server, "nobody-at-all@example.com", 1) == {429}


def test_a_success_begins_anew(server: Server) -> None:
    me = server.make_user("viewer", {}).get("/api/v3/me").json()["email"]
    for _ in range(2):
        assert guesses(server, me, 9) == {401}
        assert login(server, me, PASSWORD).status_code == 200


def test_an_address_that_guesses(server: Server) -> None:
    me, address = server.make_user("viewer", {}).get("/api/v3/me").json()["email"], new_address()
    assert login(server, "guess@example.com", "x", f"192.0.2.1, {address}").status_code == 401
    with psycopg.connect(server.settings.database_url) as connection:
        connection.execute("UPDATE login_failures SET failures = 50 WHERE subject LIKE 'login-address-%'")
    neighbour = address.rpartition(":")[0] + ":ffff"
    assert login(server, me, PASSWORD, neighbour).status_code == 429, "a /64 is one caller"
    assert login(server, me, PASSWORD, new_address()).status_code == 200
    assert login(server, me, PASSWORD).status_code == 200


async def test_so_many_passwords_at_once_are_refused() -> None:
    tried = await asyncio.gather(*(passwords.verify_password("", "x") for _ in range(40)), return_exceptions=True)
    assert tried.count(False) == passwords.MAX_WAITING
    assert sum(isinstance(result, Unavailable) for result in tried) == 40 - passwords.MAX_WAITING
    assert await passwords.verify_password("", "x") is False


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("a name", None),
    ],
)
def test_whose_attempts_are_counted_together(host: str, network: str | None) -> None:
    request = RequestFactory().get("/")
    request.scope["client"] = (host, 1)
    assert find_network(request) == (None if network is None else ip_network(network))
