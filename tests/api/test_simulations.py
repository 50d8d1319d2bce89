"""Counterfactuals over HTTP: what supposed rules would have made of a project's history."""

import json
from typing import Any

import pytest

from domain.projects import Access
from tests.support.builders import given_build, upload
from tests.support.server import Server

DNS = {"title": "DNS", "classification": "infra", "pattern": "no such host"}
REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_a"><failure message="no such host">trace</failure></testcase>
<testcase classname="t.test_x" name="test_b"><failure message="boom">trace</failure></testcase>
<testcase classname="t.test_x" name="test_c"/>
</testsuite>"""


@pytest.fixture(name="build")
def _build(server: Server, job: int) -> int:
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    ended = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    assert ended.json()["status"] == "failed"
    return build


def replay(client: Any, project: int | None, **rules: Any) -> Any:
    answer = client.post("/api/v3/audit/replay", json={"project_id": project, **rules})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["complete"] is True
    return found


def failures(server: Server, build: int) -> dict[str, Any]:
    found = server.admin.get("/api/v3/tests", params={"build_id": build, "status": "failed"}).json()["results"]
    return {item["node_id"].rpartition("::")[2]: item for item in found}


def test_a_known_issue_that_was_not_there(server: Server, project: int, job: int, build: int) -> None:
    found = replay(server.admin, project, known_issues=[DNS])
    test = failures(server, build)["test_a"]
    (differs,) = found["tests"]
    assert differs == {
        "result_id": test["id"],
        "build_id": build,
        "job_id": job,
        "project_id": project,
        "test_case_id": test["test_case_id"],
        "node_id": test["node_id"],
        "from": None,
        "to": "infra",
        "by": "DNS",
    }
    assert (found["tests_total"], found["verdicts_total"]) == (1, 0)
    assert found["replayed"].items() >= {"builds": 1, "reports": 1, "failures": 2, "erased": 0}.items()


def test_a_quarantine_that_was_not_there(server: Server, project: int, job: int, build: int) -> None:
    entry: dict[str, Any] = {"job_id": job, "node_ids": [failures(server, build)["test_a"]["node_id"]]}
    assert replay(server.admin, project, quarantine=[entry])["verdicts"] == []
    entry["node_ids"] += [failures(server, build)["test_b"]["node_id"]]
    (verdict,) = replay(server.admin, project, quarantine=[entry])["verdicts"]
    assert verdict == {
        "build_id": build,
        "job_id": job,
        "project_id": project,
        "from": "failed",
        "to": "passed",
        "why": "2 more of its failures would have been in quarantine",
    }


def test_rules_that_were_there(server: Server, project: int, job: int) -> None:
    server.admin.post("/api/v3/known-issues", json={**DNS, "project_id": project}).raise_for_status()
    body = {"job_id": job, "action": "add", "node_ids": ["t/test_x.py"]}
    server.admin.post("/api/v3/quarantine/bulk", json=body).raise_for_status()
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    ended = server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).json()
    in_real = {"known_issues": [DNS], "quarantine": [{"job_id": job, "node_ids": ["t/test_x.py"]}]}
    assert replay(server.admin, project, **in_real)["tests"] == []
    additive = {"known_issues": [], "quarantine": [], "besides": True}
    assert replay(server.admin, project, **additive)["verdicts"] == []
    found = replay(server.admin, project, known_issues=[], quarantine=[])
    assert [(item["from"], item["to"]) for item in found["tests"]] == [("infra", None)]
    assert [(item["from"], item["to"]) for item in found["verdicts"]] == [(ended["status"], "failed")]


def test_what_a_person_said_stands(server: Server, project: int, build: int) -> None:
    test = failures(server, build)["test_a"]["id"]
    body = {"classification": "product_bug"}
    server.admin.post(f"/api/v3/tests/{test}/classification", json=body).raise_for_status()
    found = replay(server.admin, project, known_issues=[DNS])
    assert (found["tests"], found["replayed"]["decided_by_people"]) == ([], 1)


def test_erased_builds_and_a_period(server: Server, project: int, job: int, build: int) -> None:
    later = server.admin.get(f"/api/v3/builds/{given_build(server, job)}").json()["created_at"]
    assert replay(server.admin, project, known_issues=[DNS], since=later)["replayed"]["failures"] == 0
    assert server.admin.delete(f"/api/v3/builds/{build}").status_code == 204
    found = replay(server.admin, project, known_issues=[DNS])
    assert (found["tests"], found["replayed"]["erased"]) == ([], 1)


def test_who_may(server: Server, project: int, build: int) -> None:
    body = {"project_id": project, "known_issues": [DNS]}
    cases: tuple[tuple[Access | None, int], ...] = (("admin", 200), ("write", 403), (None, 404))
    for access, status in cases:
        client = server.make_user("developer", {project: access} if access else {})
        assert client.post("/api/v3/audit/replay", json=body).status_code == status
        everything = client.post("/api/v3/audit/replay", json={"known_issues": [DNS]})
        assert everything.status_code == 422
        assert everything.json()["errors"][0]["field"] == "project_id"
    assert replay(server.admin, None, known_issues=[DNS])["tests_total"] >= 1
    assert server.admin.post("/api/v3/audit/replay", json=body | {"project_id": 2**52}).status_code == 404


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({}, "known_issues"),
        ({"known_issues": [{**DNS, "pattern": "("}]}, "known_issues[0].pattern"),
        ({"known_issues": [{**DNS, "colour": "red"}]}, "known_issues[0].colour"),
        ({"known_issues": [{"title": "x", "classification": "infra"}]}, "known_issues[0]"),
        ({"quarantine": [{"job_id": "1", "node_ids": []}]}, "quarantine[0].job_id"),
        ({"known_issues": [DNS], "since": "2026-05-20T10:00:00"}, "since"),
    ],
)
def test_rules_that_are_wrong_say_where(server: Server, rules: dict[str, Any], field: str) -> None:
    answer = server.admin.post("/api/v3/audit/replay", json=rules)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    large = server.admin.post("/api/v3/audit/replay", json={"known_issues": [DNS], "more": "x" * 2**21})
    assert large.status_code in (413, 422)


def test_it_is_described(server: Server) -> None:
    described = json.loads(server.admin.get("/api/v3/openapi.json").text)
    schemas = described["components"]["schemas"]
    fields = next(schema["properties"] for name, schema in schemas.items() if name.endswith("WhatIfIssue"))
    assert {"from", "until", "pattern"} <= fields.keys()


def test_a_replay_is_noted(server: Server, project: int, build: int) -> None:
    replay(server.admin, project, known_issues=[DNS], since="2026-01-01T00:00:00Z")
    server.wait_until_projected()
    (noted,) = server.admin.get("/api/v3/audit/events", params={"type": "audit.read", "project_id": project}).json()
    assert (
        f"read a replay with what-if rules (project_id {project}, since 2026-01-01 00:00:00+00:00)" in noted["summary"]
    )
