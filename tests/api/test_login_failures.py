"""Signing in is slowed down where it is guessed."""

import random

import requests

from tests.support.server import Server

PASSWORD = "a password of theirs"


def login(server: Server, username: str, password: str, address: str = "") -> requests.Response:
    headers = {"X-Forwarded-For": address} if address else {}
    body = {"username": username, "password": password}
    return requests.post(f"{server.url}/api/v3/authenticate", json=body, headers=headers, timeout=10)


def guesses(server: Server, username: str, count: int) -> set[int]:
    return {login(server, username, "wrong").status_code for _ in range(count)}


def test_an_account_that_is_guessed_at(server: Server) -> None:
    me = server.make_user("viewer", {}).get("/api/v3/me").json()["email"]
    assert guesses(server, me, 10) == {401}
    refused = login(server, me.upper(), PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 300
    assert refused.headers["Retry-After"] in refused.json()["detail"]


def test_an_account_that_nobody_has_is_told_the_same(server: Server) -> None:
    assert guesses(server, "nobody-at-all@example.com", 10) == {401}
    assert guesses(server, "nobody-at-all@example.com", 1) == {429}


def test_a_success_begins_anew(server: Server) -> None:
    me = server.make_user("viewer", {}).get("/api/v3/me").json()["email"]
    for _ in range(2):
        assert guesses(server, me, 9) == {401}
        assert login(server, me, PASSWORD).status_code == 200


def test_an_address_that_guesses(server: Server) -> None:
    me = server.make_user("viewer", {}).get("/api/v3/me").json()["email"]
    address = f"2001:db8::{random.randrange(2**16):x}"
    for number in range(10):
        assert login(server, f"guess{number}@example.com", "x", f"192.0.2.1, {address}").status_code == 401
    assert login(server, me, PASSWORD, address).status_code == 429
    assert login(server, me, PASSWORD, "2001:db8:1::1").status_code == 200
    assert login(server, me, PASSWORD).status_code == 200
