"""A POST with an `Idempotency-Key` is carried out once, however often it comes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests

from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.http import Client
from tests.support.server import Server

REPORT = b'<testsuite name="s"><testcase classname="t.test_x" name="test_a"/></testsuite>'
BREAK_OFF = """
    CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE 'the database shuts down' USING ERRCODE = 'admin_shutdown';
    END
    $$;
    CREATE TRIGGER break_off BEFORE UPDATE ON stored_events_once FOR EACH ROW EXECUTE FUNCTION break_off()
"""
"""When an answer is to be kept."""


def comment(client: Client, build: int, key: str, text: str = "seen") -> requests.Response:
    return client.post(f"/api/v3/builds/{build}/comment", json={"text": text}, headers={"Idempotency-Key": key})


def comments(client: Client, build: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = client.get(f"/api/v3/builds/{build}").json()["comments"]
    return shown


@pytest.fixture
def build(server: Server, shop: Shop) -> int:
    answer = server.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "external": True})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_a_repeated_request_gets_the_first_answer_and_does_nothing(server: Server, build: int) -> None:
    key = uuid4().hex
    first, again = comment(server.admin, build, key), comment(server.admin, build, key)
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert again.headers["Testhide-Position"] == first.headers["Testhide-Position"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert len(comments(server.admin, build)) == 1


def test_another_body_under_the_same_key_is_refused(server: Server, build: int) -> None:
    key = uuid4().hex
    comment(server.admin, build, key, "one")
    answer = comment(server.admin, build, key, "two")
    assert answer.status_code == 409
    assert "take a new key" in answer.json()["detail"]
    assert [item["text"] for item in comments(server.admin, build)] == ["one"]


def test_a_key_is_the_callers_own_and_of_one_path(server: Server, shop: Shop, build: int) -> None:
    key = uuid4().hex
    other = server.make_user("developer", {shop.project: "write"})
    comment(server.admin, build, key)
    assert "Idempotent-Replayed" not in comment(other, build, key).headers
    second = server.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "external": True}).json()["id"]
    assert "Idempotent-Replayed" not in comment(server.admin, second, key).headers
    assert len(comments(server.admin, build)) == 2


def test_of_many_at_once_one_is_carried_out(server: Server, build: int) -> None:
    key = uuid4().hex
    clients = [server.client() for _ in range(12)]
    for client in clients:
        client.authorize(server.admin.token)
    with ThreadPoolExecutor(len(clients)) as threads:
        answers = list(threads.map(lambda client: comment(client, build, key), clients))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 409)
    assert len(comments(server.admin, build)) == 1


def test_rights_are_checked_again(server: Server, shop: Shop, build: int) -> None:
    key = uuid4().hex
    user = server.make_user("developer", {shop.project: "write"})
    assert comment(user, build, key).status_code == 201
    user.post("/api/v3/logout")
    assert comment(user, build, key).status_code == 401


def test_refusals_are_not_kept(server: Server, build: int) -> None:
    key = uuid4().hex
    assert comment(server.admin, build, key, "").status_code == 422
    assert comment(server.admin, build, key, "now with a text").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_key_that_is_none_is_refused(server: Server, build: int, key: str) -> None:
    answer = comment(server.admin, build, key)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_what_is_shown_once_is_shown_again_for_five_minutes_only(server: Server) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first = server.admin.post("/api/v3/api-tokens", json={"name": "ci"}, headers=headers)
    again = server.admin.post("/api/v3/api-tokens", json={"name": "ci"}, headers=headers)
    assert again.json() == first.json()
    age(server, timedelta(minutes=6))
    late = server.admin.post("/api/v3/api-tokens", json={"name": "ci"}, headers=headers)
    assert late.status_code == 409
    assert str(first.json()["id"]) in late.json()["detail"]
    assert first.json()["secret"] not in late.text


def test_so_is_a_rotated_secret(server: Server, shop: Shop) -> None:
    path, headers = f"/api/v3/projects/{shop.project}/rotate-webhook-secret", {"Idempotency-Key": uuid4().hex}
    first = server.admin.post(path, headers=headers)
    assert server.admin.post(path, headers=headers).json() == first.json()
    age(server, timedelta(minutes=6))
    assert server.admin.post(path, headers=headers).status_code == 409


def test_secrets_are_not_stored_in_clear(server: Server) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    secret = server.admin.post("/api/v3/api-tokens", json={"name": "ci"}, headers=headers).json()["secret"]
    with psycopg.connect(server.settings.database_url) as connection:
        rows = connection.execute("SELECT answer FROM stored_events_once WHERE answer IS NOT NULL").fetchall()
    assert rows
    assert all(secret.encode() not in answer for (answer,) in rows)


def test_after_a_day_a_key_is_free_again(server: Server, build: int) -> None:
    key = uuid4().hex
    comment(server.admin, build, key)
    age(server, timedelta(hours=25))
    assert "Idempotent-Replayed" not in comment(server.admin, build, key).headers
    assert len(comments(server.admin, build)) == 2


def test_an_answer_that_was_lost_says_what_became_of_the_request(server: Server, build: int) -> None:
    key = uuid4().hex
    first = comment(server.admin, build, key)
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        # As if the process had died between the append and its answer.
        connection.execute("UPDATE stored_events_once SET answer = NULL")
    soon = comment(server.admin, build, key)
    assert soon.status_code == 409
    assert "Retry-After" in soon.headers
    age(server, timedelta(minutes=2))
    late = comment(server.admin, build, key)
    assert late.status_code == 409
    assert f"position {first.headers['Testhide-Position']}" in late.json()["detail"]
    assert "Retry-After" not in late.headers
    assert len(comments(server.admin, build)) == 1


def test_an_answer_that_was_altered_is_not_given(server: Server, build: int) -> None:
    key = uuid4().hex
    first = comment(server.admin, build, key)
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE stored_events_once SET answer = set_byte(answer, 20, get_byte(answer, 20) # 1)"
            " WHERE answer IS NOT NULL"
        )
    again = comment(server.admin, build, key)
    assert again.status_code == 409
    assert f"position {first.headers['Testhide-Position']}" in again.json()["detail"]
    assert "somebody altered it" in again.json()["detail"]
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM stored_events_once")


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(server: Server, build: int) -> None:
    key = uuid4().hex
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(BREAK_OFF)
        try:
            first = comment(server.admin, build, key)
        finally:
            connection.execute("DROP FUNCTION break_off CASCADE")
    assert (first.status_code, first.json()["text"]) == (201, "seen")
    assert comment(server.admin, build, key).status_code == 409
    assert len(comments(server.admin, build)) == 1


def test_an_upload_comes_once_too(server: Server, build: int) -> None:
    def upload() -> requests.Response:
        return server.admin.post(
            "/api/v3/artifacts/upload",
            data={"build_id": str(build)},
            files={"file": ("a.txt", b"content")},
            headers={"Idempotency-Key": key},
        )

    key = uuid4().hex
    first, again = upload(), upload()
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    assert len(server.admin.get("/api/v3/artifacts", params={"build_id": build}).json()) == 1


def age(server: Server, by: timedelta) -> None:
    """Lets everything that was kept become older."""
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE stored_events_once SET at = at - %s", (by,))


def upload(client: Client, build: int, key: str, content: bytes, path: str = "out/") -> requests.Response:
    return client.post(
        "/api/v3/artifacts/upload",
        data={"build_id": str(build), "path": path},
        files={"file": ("log.txt", content)},
        headers={"Idempotency-Key": key},
    )


def test_another_file_as_long_under_the_same_key_is_refused(server: Server, build: int) -> None:
    """The boundary between the parts, which is another one each time, does not count."""
    key = uuid4().hex
    first = upload(server.admin, build, key, b"one")
    assert first.status_code == 201
    assert upload(server.admin, build, key, b"one").json()["id"] == first.json()["id"]
    for other in (upload(server.admin, build, key, b"two"), upload(server.admin, build, key, b"one", "alt/")):
        assert other.status_code == 409
        assert "take a new key" in other.json()["detail"]


def test_another_query_under_the_same_key_is_refused(shop: Shop, agent: FakeAgent) -> None:
    """The query says where the report is: the same bytes elsewhere are another report."""
    shop.start()
    held = agent.take_up()
    key = {"Idempotency-Key": uuid4().hex}

    def report(path: str) -> requests.Response:
        params = {"attempt": held["attempt"], "path": path}
        return agent.http.post(f"/api/v3/agent/builds/{held['id']}/report", params=params, data=REPORT, headers=key)

    first, other, again = report("one/junit.xml"), report("two/junit.xml"), report("one/junit.xml")
    assert (first.status_code, other.status_code, again.status_code) == (200, 409, 200)
    assert "take a new key" in other.json()["detail"]
    agent.finished(held).raise_for_status()
    assert [item["path"] for item in shop.admin.fetch(f"/report/{held['id']}")["reports"]] == ["one/junit.xml"]
