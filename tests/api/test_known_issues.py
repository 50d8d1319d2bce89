"""Known issues over HTTP."""

import asyncio
from typing import Any

import pytest

from api.known_issues import MAX_PATTERNS
from commands.handler import CommandContext, Handler
from commands.known_issues import CreateKnownIssue
from store.clock import utcnow
from testhide.processes import core
from tests.support.server import Server

BATCH_SIZE = 50
"""Commands that wait for one connection together. If all did, the last ones would wait too long on a busy machine."""
BODY: dict[str, Any] = {
    "title": "Flaky database",
    "classification": "infra",
    "pattern": "connection (reset|refused)",
    "defect_key": "OPS-7",
    "defect_url": "https://jira.example.com/browse/OPS-7",
}


@pytest.fixture(name="issue")
def _issue(server: Server, project: int) -> int:
    return int(server.admin.post("/api/v3/known-issues", json={"project_id": project, **BODY}).json()["id"])


def test_create_and_show(server: Server, project: int) -> None:
    answer = server.admin.post("/api/v3/known-issues", json={"project_id": project, **BODY})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made.items() >= (BODY | {"project_id": project, "signature": None, "fail_id": None}).items()
    assert server.admin.get(f"/api/v3/known-issues/{made['id']}").json() == made
    assert server.admin.get("/api/v3/known-issues", params={"project_id": project}).json() == [made]


def test_list(server: Server, project: int, issue: int) -> None:
    second = {"project_id": project, "title": "x", "classification": "flaky", "fail_id": "f1"}
    second_id = server.admin.post("/api/v3/known-issues", json=second).json()["id"]

    def listed(**more: Any) -> list[int]:
        answer = server.admin.get("/api/v3/known-issues", params={"project_id": project, **more})
        return [item["id"] for item in answer.json()]

    assert listed() == [issue, second_id]
    assert listed(limit=1) == [issue]
    assert listed(after=issue) == [second_id]
    assert server.admin.get("/api/v3/known-issues").status_code == 422
    assert server.admin.get("/api/v3/known-issues", params={"project_id": 2**52}).status_code == 404


def test_patterns_of_a_project_are_limited(server: Server, project: int, issue: int) -> None:
    async def create(number: int) -> None:
        async with core(server.settings, pool_size=1) as parts:
            handler = Handler(parts.log, utcnow)
            first = await parts.ids.draw_range("known_issues", number)
            issues = [CreateKnownIssue(first + n, project, "x", "flaky", "pattern", f"x{n}") for n in range(number)]
            for begin in range(0, number, BATCH_SIZE):
                group = issues[begin : begin + BATCH_SIZE]
                await asyncio.gather(*(handler.execute(each, CommandContext("system:tests")) for each in group))

    asyncio.run(create(MAX_PATTERNS - 1))
    server.wait_until_projected()
    body = {"project_id": project, **BODY}
    answer = server.admin.post("/api/v3/known-issues", json=body)
    assert (answer.status_code, "500 known issues" in answer.json()["detail"]) == (409, True)
    other = server.admin.post("/api/v3/known-issues", json=body | {"pattern": None, "fail_id": "f1"})
    assert other.status_code == 201
    path = f"/api/v3/known-issues/{other.json()['id']}"
    assert server.admin.put(path, json={"pattern": "x"}).status_code == 409
    assert server.admin.put(f"/api/v3/known-issues/{issue}", json={"pattern": "x"}).status_code == 200


def test_update(server: Server, issue: int) -> None:
    path = f"/api/v3/known-issues/{issue}"
    answer = server.admin.put(path, json={"title": "Renamed", "signature": "00000000000000a1", "defect_url": None})
    assert answer.status_code == 200, answer.text
    changed = {
        "title": "Renamed",
        "pattern": None,
        "signature": "00000000000000a1",
        "defect_url": None,
        "defect_key": "OPS-7",
    }
    assert answer.json().items() >= changed.items()
    assert server.admin.get(path).json() == answer.json()
    assert server.admin.put(path, json=answer.json()).json() == answer.json(), "what GET answers fits PUT"
    assert server.admin.put(path, json={"pattern": "a", "fail_id": "b"}).status_code == 422


def test_delete(server: Server, issue: int) -> None:
    path = f"/api/v3/known-issues/{issue}"
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.delete(path)):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"pattern": "(a"}, "pattern", "missing ): (a"),
        ({"pattern": "(?<=a)b"}, "pattern", "invalid"),
        ({"pattern": "x*"}, "pattern", "every failure"),
        ({"pattern": "x" * 1_001}, "pattern", "1000"),
        ({"pattern": None}, "pattern", "exactly one"),
        ({"signature": "00000000000000a1"}, "pattern", "exactly one"),
        ({"pattern": None, "signature": "s1"}, "signature", "16"),
        ({"pattern": None, "signature": "00000000000000A1"}, "signature", "16"),
        ({"classification": "x"}, "classification", ""),
        ({"title": ""}, "title", ""),
        ({"defect_url": "javascript:x"}, "defect_url", ""),
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any], field: str, says: str) -> None:
    answer = server.admin.post("/api/v3/known-issues", json={"project_id": project, **BODY, **changes})
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert (error["field"], says in error["message"]) == (field, True), error


def test_who_may(server: Server, project: int, issue: int) -> None:
    path, body = f"/api/v3/known-issues/{issue}", {"project_id": project, **BODY}
    listing = {"params": {"project_id": project}}
    stranger = server.make_user("developer", {})
    reader = server.make_user("developer", {project: "read"})
    assert stranger.get("/api/v3/known-issues", **listing).status_code == 404
    assert stranger.get(path).status_code == 404
    assert stranger.post("/api/v3/known-issues", json=body).status_code == 404
    assert reader.get(path).status_code == 200
    assert reader.get("/api/v3/known-issues", **listing).status_code == 200
    assert reader.post("/api/v3/known-issues", json=body).status_code == 403
    assert reader.put(path, json={}).status_code == 403
    assert reader.delete(path).status_code == 403
