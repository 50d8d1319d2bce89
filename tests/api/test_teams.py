"""Channels of Teams over HTTP."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from commands.endpoints import MAX_ENDPOINTS
from tests.api.test_webhooks import wait_until
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.server import Server
from tests.support.webhook_receiver import ReceivedRequest, WebhookReceiver

AT = "/api/v3/ms-teams"
KEY = "dGhlIGtleQ"
URL = f"https://acme.webhook.office.com/webhookb2/{KEY}"
SHOWN = "https://acme.webhook.office.com/…"
EVENTS = ["build.failed", "test.flaky"]
REPORT = b"""<testsuite name="shop"><testcase classname="t" name="test_ok"/>
<testcase classname="t" name="test_pays"><failure message="no"/></testcase></testsuite>"""


def body(project: int, **more: Any) -> dict[str, Any]:
    return {"name": "CI Alerts", "webhook_url": URL, "project_id": project, "events": EVENTS, **more}


@pytest.fixture(name="channel")
def _channel(server: Server, project: int) -> dict[str, Any]:
    registered: dict[str, Any] = server.admin.post(AT, json=body(project, mention_on_fail="ann@example.com")).then(201)
    return registered


def test_register_and_show(server: Server, project: int, channel: dict[str, Any]) -> None:
    shown = {"name": "CI Alerts", "webhook_url": SHOWN, "events": EVENTS, "active": True, "project_id": project}
    health = {"failing_since": None, "failing_error": None, "deliveries_ok": 0, "deliveries_failed": 0}
    assert channel.items() >= (shown | health | {"mention_on_fail": "ann@example.com"}).items()
    assert server.admin.get(f"{AT}/{channel['id']}").then(200) == channel
    assert server.admin.post(AT, json=body(project)).then(201)["mention_on_fail"] is None


def test_list(server: Server, project: int, channel: dict[str, Any]) -> None:
    second = server.admin.post(AT, json=body(project)).then(201)
    member = server.make_user("developer", {project: "read"})
    assert member.get(AT).then(200) == [channel, second]
    assert member.get(AT, params={"limit": 1, "page": 2}).then(200) == [second]
    first = member.get(AT, params={"limit": 1})
    assert f"after={channel['id']}" in first.headers["Link"]
    assert member.get(AT, params={"after": channel["id"]}).then(200) == [second]


def test_many_requests_at_once_register_no_more_than_100(server: Server) -> None:
    project = given_project(server)
    for _ in range(MAX_ENDPOINTS - 2):
        server.admin.post(AT, json=body(project)).then(201)
    clients = [server.client().authorize(server.admin.token) for _ in range(5)]
    with ThreadPoolExecutor(5) as threads:
        answers = [*threads.map(lambda client: client.post(AT, json=body(project)), clients)]
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 3
    refused = next(answer.json()["detail"] for answer in answers if answer.status_code == 409)
    assert f"Project {project} has 100 Teams channels" in refused
    listed = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
    server.admin.when("DELETE", f"/ms-teams/{listed}").then(204)
    server.admin.post(AT, json=body(project)).then(201)


def test_update(server: Server, channel: dict[str, Any]) -> None:
    path = f"{AT}/{channel['id']}"
    changes = {"events": ["node.offline", "node.offline"], "active": False, "name": "Nodes"}
    changed = server.admin.put(path, json=changes).then(200)
    assert changed.items() >= {"events": ["node.offline"], "active": False, "name": "Nodes"}.items()
    assert changed["mention_on_fail"] == "ann@example.com"
    another = {"webhook_url": "https://other.example.com/hook", "mention_on_fail": None}
    changed = server.admin.put(path, json=another).then(200)
    assert changed.items() >= {"webhook_url": "https://other.example.com/…", "mention_on_fail": None}.items()
    assert server.admin.put(path, json=changed).then(200) == changed, "GET fits PUT"


def test_delete(server: Server, channel: dict[str, Any]) -> None:
    path = f"{AT}/{channel['id']}"
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.delete(path)):
        assert answer.status_code == 404
    assert server.admin.post(f"{path}/test").status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"webhook_url": "http://acme.webhook.office.com/"}, "webhook_url", "https://"),
        ({"webhook_url": "https://127.0.0.1:8000/"}, "webhook_url", "this machine"),
        ({"webhook_url": "https://169.254.169.254/"}, "webhook_url", "link-local"),
        ({"webhook_url": SHOWN}, "webhook_url", "ASCII"),
        ({"webhook_url": ""}, "webhook_url", ""),
        ({"events": []}, "events", ""),
        ({"events": ["build.started"]}, "events[0]", "build.started"),
        ({"name": " "}, "name", ""),
        ({"mention_on_fail": "Ann"}, "mention_on_fail", ""),
        ({"mention_on_fail": "<at>ann@example.com"}, "mention_on_fail", ""),
        ({"mention_on_fail": "ann@example.com\n"}, "mention_on_fail", ""),
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any], field: str, says: str) -> None:
    answer = server.admin.post(AT, json=body(project, **changes))
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert (error["field"], says in error["message"]) == (field, True), error


@pytest.mark.parametrize("name", ["name", "webhook_url", "project_id", "events"])
def test_what_is_needed(server: Server, project: int, name: str) -> None:
    given = body(project)
    del given[name]
    answer = server.admin.post(AT, json=given).then(422)
    assert answer["errors"] == [{"field": name, "message": "is required"}]


def test_who_may(server: Server, project: int, channel: dict[str, Any]) -> None:
    path = f"{AT}/{channel['id']}"
    stranger = server.make_user("developer", {})
    writer = server.make_user("developer", {project: "write"})
    owner = server.make_user("developer", {project: "admin"})
    assert stranger.get(AT).then(200) == []
    for answer in (stranger.get(path), stranger.put(path, json={}), stranger.post(AT, json=body(project))):
        assert answer.status_code == 404
    assert writer.get(path).then(200) == channel
    for answer in (
        writer.post(AT, json=body(project)),
        writer.put(path, json={}),
        writer.delete(path),
        writer.post(f"{path}/test"),
    ):
        assert answer.status_code == 403
    assert owner.put(path, json={"active": False}).status_code == 200


def test_a_projects_channels_go_with_it(server: Server, project: int, channel: dict[str, Any]) -> None:
    assert server.admin.delete(f"/api/v3/projects/{project}").status_code == 204
    assert server.admin.get(f"{AT}/{channel['id']}").status_code == 404


def test_the_address_is_shown_nowhere(server: Server, channel: dict[str, Any]) -> None:
    """Nor is it in clear in any table, the log included."""
    path = f"{AT}/{channel['id']}"
    server.admin.put(path, json={"webhook_url": URL}).raise_for_status()
    stream = server.admin.get(f"/api/v3/audit/streams/teams-channel-{channel['id']}")
    answer = stream.then(200)
    assert "registered Teams channel" in str(answer)
    answers = (server.admin.get(path), server.admin.get(AT), stream, server.admin.get("/api/v3/audit/export"))
    assert all(KEY not in answer.text for answer in answers)
    with psycopg.connect(server.settings.database_url) as connection:
        for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            rows = connection.execute(f'SELECT t::text FROM "{table}" t'.encode()).fetchall()
            assert not any(KEY in row or KEY.encode().hex() in row for (row,) in rows), table


def card(request: ReceivedRequest) -> dict[str, Any]:
    content: dict[str, Any] = request.json["attachments"][0]["content"]
    return content


def lines(request: ReceivedRequest) -> list[str]:
    return [part["inlines"][0]["text"] for part in card(request)["body"] if part["type"] == "RichTextBlock"]


def test_a_failed_build_is_told_with_its_tests_although_the_first_attempts_fail(
    opened: Server, receiver: WebhookReceiver
) -> None:
    project = given_project(opened)
    receiver.statuses.append((503, b"later"))
    fields = body(project, webhook_url=f"{receiver.url}?sig={KEY}", mention_on_fail="ann@example.com")
    path = f"{AT}/{opened.admin.post(AT, json=fields).then(201)['id']}"
    build = given_build(opened, given_job(opened, project), branch="feature/<at>x</at>")
    assert upload(opened.admin, build, REPORT).status_code == 201
    opened.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    wait_until(lambda: len(receiver.requests) == 2)  # five seconds later
    first, second = receiver.requests
    assert first.body == second.body
    assert card(second)["body"][0]["items"][0]["text"] == f"Build {build} failed"
    (fact_set,) = [part["facts"] for part in card(second)["body"] if part["type"] == "FactSet"]
    shown = {fact["title"]: fact["value"] for fact in fact_set}
    assert shown["Tests"] == "1 passed, 1 failed, 0 skipped"
    assert shown["Branch"] == r"feature/\<at\>x\</at\>"
    assert lines(second) == ["t.test_pays"]
    assert "actions" not in card(second), "nobody told the server what it is called"
    wait_until(lambda: opened.admin.get(path).json()["deliveries_ok"] == 1)
    assert opened.admin.get(path).then(200)["deliveries_failed"] == 1


def test_a_test_card(opened: Server, receiver: WebhookReceiver) -> None:
    path = f"{AT}/{opened.admin.post(AT, json=body(given_project(opened), webhook_url=receiver.url)).then(201)['id']}"
    answer = opened.admin.post(f"{path}/test").then(200)
    assert answer.items() >= {"sent": True, "status_code": 200, "error": ""}.items()
    assert answer["latency_ms"] >= 0
    assert card(receiver.requests[0])["body"][0]["items"][0]["text"] == "Testhide can post here"
    for status, text, error in ((302, b"", "answered 302"), (200, b"Webhook message delivery failed: 429", "Webhook")):
        receiver.statuses.append((status, text))
        answer = opened.admin.post(f"{path}/test").then(200)
        assert (answer["sent"], answer["status_code"], error in answer["error"]) == (False, status, True)


def test_a_test_card_for_nobody(opened: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{KEY}"
        path = f"{AT}/{opened.admin.post(AT, json=body(given_project(opened), webhook_url=url)).then(201)['id']}"
        answer = opened.admin.post(f"{path}/test")
    assert answer.then(200).items() >= {"sent": False, "status_code": 0, "error": "connection refused"}.items()
    assert KEY not in answer.text
