"""Webhooks over HTTP."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from api.webhooks import MAX_OPEN_REPLAYS
from commands.endpoints import MAX_ENDPOINTS
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server
from tests.support.webhook_receiver import WebhookReceiver

URL = "https://hooks.example.com/testhide"
EVENTS = ["build.finished", "build.failed"]
AT = "/api/v3/webhooks"


@pytest.fixture(name="webhook")
def _webhook(server: Server, project: int) -> dict[str, Any]:
    body = {"url": URL, "events": EVENTS, "project_id": project, "secret": "s3cr3t"}
    registered: dict[str, Any] = server.admin.post(AT, json=body).then(201)
    return registered


def wait_until(holds: Any) -> Any:
    deadline = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks at what no notification tells
    return found


def test_register_and_show(server: Server, project: int, webhook: dict[str, Any]) -> None:
    shown = {"url": URL, "events": EVENTS, "active": True, "project_id": project, "has_secret": True}
    assert webhook.items() >= (shown | {"deliveries_ok": 0, "deliveries_failed": 0, "failing_since": None}).items()
    assert server.admin.get(f"{AT}/{webhook['id']}").json() == webhook
    assert "s3cr3t" not in str(webhook)


def test_list(server: Server, project: int, webhook: dict[str, Any]) -> None:
    off = {"url": URL, "events": EVENTS, "project_id": project, "active": False}
    second = server.admin.post(AT, json=off).then(201)
    assert second["has_secret"] is False

    def listed(**query: Any) -> list[int]:
        return [item["id"] for item in server.admin.get(AT, params={"project_id": project, **query}).then(200)]

    assert listed() == [webhook["id"], second["id"]]
    assert listed(active="true") == [webhook["id"]]
    assert listed(active="false") == [second["id"]]
    assert listed(after=webhook["id"]) == [second["id"]]
    assert listed(limit=1) == [webhook["id"]]


def test_update(server: Server, webhook: dict[str, Any]) -> None:
    path = f"{AT}/{webhook['id']}"
    changes = {"url": "https://other.example.com/x", "events": ["node.offline", "node.offline"], "active": False}
    changed = server.admin.put(path, json=changes).then(200)
    assert changed.items() >= {"url": changes["url"], "events": ["node.offline"], "active": False}.items()
    assert server.admin.put(path, json={"secret": "another"}).then(200)["events"] == ["node.offline"]
    assert server.admin.put(path, json=changed).then(200).items() >= {"url": changes["url"]}.items(), "GET fits PUT"


def test_tokens_in_the_url_are_not_shown(opened: Server, receiver: WebhookReceiver) -> None:
    token = "T0k3n-0f-a-cha7"
    whole = f"{receiver.url}/{token}{token}?key={token}"
    body = {"url": whole, "events": EVENTS, "project_id": given_project(opened)}
    registered = opened.admin.post(AT, json=body).then(201)
    path = f"{AT}/{registered['id']}"
    assert registered["url"] == f"{receiver.url}/***?key=***"
    opened.admin.put(path, json=registered | {"active": False}).then(200, url=registered["url"], active=False)
    opened.admin.put(path, json=registered).then(200)
    assert opened.admin.post(f"{path}/test").then(200)["delivered"], "the whole URL was kept"
    assert receiver.requests[-1].path.endswith(token)
    refused = opened.admin.put(path, json={"url": registered["url"] + "&a=***"})
    assert refused.then(422)["errors"][0]["message"].startswith("has ***")
    story = f"/api/v3/audit/streams/webhook-{registered['id']}"
    for address in (path, AT, f"{path}/history", story):
        assert token not in opened.admin.get(address).text
    assert token not in receiver.requests[-1].body.decode()


def test_delete(server: Server, webhook: dict[str, Any]) -> None:
    path = f"{AT}/{webhook['id']}"
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.delete(path)):
        assert answer.status_code == 404
    assert server.admin.post(f"{path}/test").status_code == 404


def test_many_requests_at_once_register_no_more_than_100(server: Server) -> None:
    project = given_project(server)
    body = {"url": "https://hooks.example.com/x", "events": ["build.failed"], "project_id": project}
    for _ in range(MAX_ENDPOINTS - 3):
        server.admin.post(AT, json=body).then(201)
    clients = [server.client().authorize(server.admin.token) for _ in range(10)]
    with ThreadPoolExecutor(10) as threads:
        answers = [*threads.map(lambda client: client.post(AT, json=body), clients)]

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 7
    refused = next(answer.json()["detail"] for answer in answers if answer.status_code == 409)
    assert f"Project {project} has 100 webhooks" in refused
    server.wait_until_projected()
    listed = server.admin.fetch(f"/webhooks?project_id={project}&limit=200")
    assert len(listed) == MAX_ENDPOINTS
    server.admin.when("DELETE", f"/webhooks/{listed[0]['id']}").then(204)
    server.admin.post(AT, json=body).then(201)


def test_bulk_delete(server: Server, project: int) -> None:
    body = {"url": URL, "events": EVENTS, "project_id": project}
    ids = [server.admin.post(AT, json=body).then(201)["id"] for _ in range(3)]
    other = server.admin.post(AT, json=body | {"project_id": given_project(server)}).then(201)["id"]
    owner, reader = server.make_user("developer", {project: "admin"}), server.make_user("developer", {project: "read"})
    assert reader.post(f"{AT}/bulk-delete", json={"ids": ids}).status_code == 403
    answer = owner.post(f"{AT}/bulk-delete", json={"ids": [*ids, other, 2**50, ids[0]]}).then(200)
    assert answer == {"deleted": 3, "ids": ids}
    assert owner.get(AT).then(200) == []
    assert server.admin.get(f"{AT}/{other}").status_code == 200
    assert owner.post(f"{AT}/bulk-delete", json={"ids": ids}).then(200) == {"deleted": 0, "ids": []}


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"url": "http://hooks.example.com/"}, "url", "https://"),
        ({"url": "https://127.0.0.1:8000/"}, "url", "this machine"),
        ({"url": "https://localhost/"}, "url", "this machine"),
        ({"url": "https://169.254.169.254/latest"}, "url", "link-local"),
        ({"url": "https://2130706433/"}, "url", "four decimal"),
        ({"url": "https://user:pass@example.com/"}, "url", "credentials"),
        ({"url": ""}, "url", ""),
        ({"url": "https://example.com/" + "x" * 2_000}, "url", "2000"),
        ({"events": []}, "events", ""),
        ({"events": ["build.exploded"]}, "events[0]", "build.exploded"),
        ({"secret": "whsec_not base64"}, "secret", "base64"),
        ({"secret": "whsec_"}, "secret", "0 bytes"),
        ({"secret": "whsec_c2hvcnQ="}, "secret", "24 to 64"),
        ({"secret": ""}, "secret", ""),
        ({"active": "yes"}, "active", ""),
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any], field: str, says: str) -> None:
    body = {"url": URL, "events": EVENTS, "project_id": project, **changes}
    answer = server.admin.post(AT, json=body)
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert (error["field"], says in error["message"]) == (field, True), error


def test_a_new_secret_is_checked_too(server: Server, webhook: dict[str, Any]) -> None:
    path = f"{AT}/{webhook['id']}"
    refused = server.admin.put(path, json={"secret": "whsec_"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "secret")
    for good in (f"whsec_{'A' * 32}", "s"):
        server.admin.put(path, json={"secret": good}).then(200)


def test_who_may(server: Server, project: int, webhook: dict[str, Any]) -> None:
    path, body = f"{AT}/{webhook['id']}", {"url": URL, "events": EVENTS, "project_id": project}
    stranger = server.make_user("developer", {})
    writer = server.make_user("developer", {project: "write"})
    owner = server.make_user("developer", {project: "admin"})
    assert stranger.get(AT).then(200) == []
    for answer in (stranger.get(path), stranger.get(f"{path}/history"), stranger.post(AT, json=body)):
        assert answer.status_code == 404
    assert [item["id"] for item in writer.get(AT).then(200)] == [webhook["id"]]
    assert writer.get(f"{path}/history").then(200) == []
    for answer in (
        writer.post(AT, json=body),
        writer.put(path, json={}),
        writer.delete(path),
        writer.post(f"{path}/test"),
        writer.post(f"{path}/replay", json={"position": 1}),
        writer.post(f"{path}/history/d-1/redeliver"),
    ):
        assert answer.status_code == 403
    assert owner.put(path, json={"active": False}).status_code == 200


def test_only_admins_enter_urls_of_this_machine_where_it_is_open_for_them(
    server: Server, project: int, webhook: dict[str, Any]
) -> None:
    body = {"url": "http://127.0.0.1:9/hook", "events": EVENTS, "project_id": project}
    with serve_in_process(server, opened_for_admins="127.0.0.0/8") as process:
        owner = Client(process.url).authorize(server.make_user("developer", {project: "admin"}).token)
        assert owner.post(AT, json=body).status_code == 422
        assert owner.put(f"{AT}/{webhook['id']}", json={"url": body["url"]}).status_code == 422
        process.client(*ADMIN).post(AT, json=body).then(201)


def test_those_of_all_projects_are_the_admins(server: Server, project: int) -> None:
    body = {"url": URL, "events": ["node.offline"]}
    owner = server.make_user("developer", {project: "admin"})
    assert owner.post(AT, json=body).status_code == 403
    everywhere = server.admin.post(AT, json=body).then(201)
    assert everywhere["project_id"] is None
    assert owner.get(f"{AT}/{everywhere['id']}").status_code == 404
    assert owner.delete(f"{AT}/{everywhere['id']}").status_code == 404
    assert everywhere["id"] in [item["id"] for item in server.admin.get(AT, params={"limit": 500}).then(200)]
    assert server.admin.delete(f"{AT}/{everywhere['id']}").status_code == 204


def test_a_projects_webhooks_go_with_it(server: Server, project: int, webhook: dict[str, Any]) -> None:
    assert server.admin.delete(f"/api/v3/projects/{project}").status_code == 204
    assert server.admin.get(f"{AT}/{webhook['id']}").status_code == 404


def test_what_is_to_be_replayed(server: Server, webhook: dict[str, Any]) -> None:
    path = f"{AT}/{webhook['id']}/replay"
    answer = server.admin.post(path, json={"position": 5}).then(202)
    assert (answer["webhook_id"], answer["after_position"]) == (webhook["id"], 4)
    assert answer["up_to_position"] > 5
    since = server.admin.post(path, json={"since": webhook["created_at"]}).then(202)
    assert 4 < since["after_position"] < since["up_to_position"]
    for body, field in (
        ({}, "position"),
        ({"position": 5, "since": webhook["created_at"]}, "position"),
        ({"position": 2**50}, "position"),
        ({"since": "2999-01-01T00:00:00Z"}, "since"),
        ({"since": "2020-01-01T00:00:00"}, "since"),
    ):
        refused = server.admin.post(path, json=body).then(422)
        assert refused["errors"][0]["field"] == field
    server.admin.put(f"{AT}/{webhook['id']}", json={"active": False})
    assert server.admin.post(path, json={"position": 5}).status_code == 409


def test_a_webhook_has_few_replays_under_way(server: Server, project: int, webhook: dict[str, Any]) -> None:
    """No planner runs here, so that the log counts them, and none is complete."""
    body = {"url": URL, "events": EVENTS, "project_id": project}
    other = server.admin.post(AT, json=body).then(201)

    def ask(_: int) -> int:
        url = f"{server.url}{AT}/{webhook['id']}/replay"
        return requests.post(url, json={"position": 1}, headers=dict(server.admin.headers), timeout=30).status_code

    with ThreadPoolExecutor(MAX_OPEN_REPLAYS + 3) as threads:
        answers = list(threads.map(ask, range(MAX_OPEN_REPLAYS + 3)))
    assert sorted(answers) == [202] * MAX_OPEN_REPLAYS + [429] * 3
    refused = server.admin.post(f"{AT}/{webhook['id']}/replay", json={"position": 1})
    assert f"has {MAX_OPEN_REPLAYS} replays under way" in refused.then(429)["detail"]
    assert refused.headers["Retry-After"] == "60"
    server.admin.post(f"{AT}/{other['id']}/replay", json={"position": 1}).then(202)


def test_what_cannot_be_redelivered(server: Server, webhook: dict[str, Any]) -> None:
    assert server.admin.post(f"{AT}/{webhook['id']}/history/d-unknown/redeliver").status_code == 404


def test_schemas_are_published(server: Server) -> None:
    anybody = server.client()
    schemas = anybody.get(f"{AT}/schemas").then(200)
    assert len(schemas) == 8
    answer = anybody.get(f"{AT}/schemas/build.failed")
    assert (answer.status_code, answer.json()) == (200, schemas["build.failed"])
    assert anybody.get(f"{AT}/schemas/build.exploded").status_code == 404


def test_from_the_build_to_the_receiver(opened: Server, receiver: WebhookReceiver) -> None:
    project = given_project(opened)
    body = {"url": receiver.url, "events": [*EVENTS, "build.started"], "project_id": project, "secret": "s3cr3t"}
    webhook = opened.admin.post(AT, json=body).then(201)
    build = given_build(opened, given_job(opened, project))
    opened.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    wait_until(lambda: len(receiver.requests) == 3)
    bodies = [request.json for request in receiver.requests]
    assert [body["type"] for body in bodies] == ["build.started", "build.finished", "build.failed"]
    shown = opened.admin.get(f"/api/v3/builds/{build}").json()
    del shown["classified_by_rules"]  # it can change after the end of the build
    assert [bodies[1]["data"], bodies[2]["data"]] == [shown, shown]
    path = f"{AT}/{webhook['id']}"
    wait_until(lambda: opened.admin.get(path).json()["deliveries_ok"] == 3)
    history = opened.admin.get(f"{path}/history").then(200)
    assert [item["event"] for item in history] == ["build.failed", "build.finished", "build.started"]
    assert [item["event"] for item in opened.admin.get(f"{path}/history?limit=1").then(200)] == ["build.failed"]
    older = opened.admin.get(f"{path}/history?before={history[0]['id']}").then(200)
    assert older == history[1:]
    assert opened.admin.get(f"{path}/history?status=failed").then(200) == []


def test_a_failed_delivery_is_shown_and_redelivered(opened: Server, receiver: WebhookReceiver) -> None:
    project = given_project(opened)
    receiver.statuses.append((503, b"we are\0 closed"))
    body = {"url": receiver.url, "events": ["build.finished"], "project_id": project}
    path = f"{AT}/{opened.admin.post(AT, json=body).then(201)['id']}"
    build = given_build(opened, given_job(opened, project))
    opened.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).raise_for_status()
    (failed,) = wait_until(lambda: opened.admin.get(f"{path}/history?status=failed").then(200))
    shown = {"status_code": 503, "error": "answered 503", "attempt": 1, "state": "pending", "ok": False}
    assert failed.items() >= shown.items()
    assert failed["excerpt"] == "we are\N{REPLACEMENT CHARACTER} closed"
    reader = opened.make_user("developer", {project: "read"})
    assert reader.get(f"{path}/history").then(200)[0]["excerpt"] is None
    again = f"{path}/history/{failed['delivery_id']}/redeliver"
    assert opened.admin.post(again).status_code == 409, "it is still being tried"
    wait_until(lambda: len(receiver.requests) == 2)  # five seconds later
    wait_until(lambda: opened.admin.get(f"{path}/history?status=ok").then(200))
    assert opened.admin.post(again).then(202) == {"delivery_id": failed["delivery_id"], "state": "pending"}
    wait_until(lambda: len(receiver.requests) == 3)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def test_a_ping(opened: Server, receiver: WebhookReceiver) -> None:
    body = {"url": receiver.url, "events": EVENTS, "project_id": given_project(opened), "secret": "s3cr3t"}
    webhook = opened.admin.post(AT, json=body).then(201)
    path = f"{AT}/{webhook['id']}"
    answer = opened.admin.post(f"{path}/test").then(200)
    assert answer.items() >= {"delivered": True, "status_code": 200, "error": ""}.items()
    (request,) = receiver.requests
    assert (request.json["type"], request.json["data"]["id"]) == ("ping", webhook["id"])
    assert request.headers["X-Testhide-Signature-256"].startswith("sha256=")
    receiver.statuses.append((302, b""))
    answer = opened.admin.post(f"{path}/test").then(200)
    assert answer.items() >= {"delivered": False, "status_code": 302, "error": "answered 302"}.items()
    opened.admin.put(path, json={"url": "http://127.0.0.1:1/"}).raise_for_status()
    answer = opened.admin.post(f"{path}/test").then(200)
    assert answer.items() >= {"delivered": False, "status_code": 0, "error": "connection refused"}.items()
    history = opened.admin.get(f"{path}/history").then(200)
    assert [(item["event"], item["status_code"]) for item in history] == [("ping", 0), ("ping", 302), ("ping", 200)]


def flaky_report(*names: str) -> bytes:
    cases = "".join(
        f'<testcase classname="tests.shop" name="{name}"><flakyFailure message="x">late</flakyFailure></testcase>'
        for name in names
    )
    return f'<testsuite name="shop">{cases}</testsuite>'.encode()


def test_a_test_that_turns_flaky_is_announced_once(opened: Server, receiver: WebhookReceiver) -> None:
    project = given_project(opened)
    body = {"url": receiver.url, "events": ["test.flaky", "test.quarantined"], "project_id": project}
    opened.admin.post(AT, json=body).then(201)
    job = given_job(opened, project)
    for names in (("test_pays",), ("test_pays", "test_ships")):
        build = given_build(opened, job)
        assert upload(opened.admin, build, flaky_report(*names)).status_code == 201
        wait_until(lambda names=names: len(receiver.requests) == len(names))
    messages = [request.json for request in receiver.requests]
    assert [message["type"] for message in messages] == ["test.flaky", "test.flaky"]
    assert [message["data"]["node_id"].rpartition(".")[2] for message in messages] == ["test_pays", "test_ships"]
    shown = opened.admin.get("/api/v3/tests", params={"build_id": build, "search": "test_ships"}).json()["results"][0]
    data = messages[1]["data"]
    assert (data["result_id"], data["test_case_id"]) == (shown["id"], shown["test_case_id"])
    entry = {"job_id": job, "node_id": data["node_id"], "reason": "flaky"}
    opened.admin.post("/api/v3/quarantine", json=entry).then(201)
    wait_until(lambda: len(receiver.requests) == 3)
    assert receiver.requests[2].json["data"] == opened.admin.get(f"/api/v3/quarantine?job_id={job}").json()[0]


def test_a_killed_worker_is_made_up_for(opened: Server, receiver: WebhookReceiver) -> None:
    """Killed while a receiver thinks: the delivery is made again as soon as there is a worker."""
    project = given_project(opened)
    body = {"url": receiver.url, "events": ["build.finished"], "project_id": project}
    path = f"{AT}/{opened.admin.post(AT, json=body).then(201)['id']}"
    receiver.hold = threading.Event()
    build = given_build(opened, given_job(opened, project))
    opened.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).raise_for_status()
    wait_until(lambda: len(receiver.requests) == 1)
    opened.kill("work")
    receiver.hold.set()
    opened.start("work")
    wait_until(lambda: len(receiver.requests) == 2)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    (attempt,) = wait_until(lambda: opened.admin.get(f"{path}/history").then(200))
    assert attempt.items() >= {"ok": True, "attempt": 1, "state": "delivered"}.items()
