"""Triggers of jobs over HTTP, and the explanation of what they would start."""

from typing import Any

import pytest

from tests.support.builders import CONFIGURATION, REPOSITORY, given_job
from tests.support.server import Server

TRIGGERS: dict[str, Any] = {
    "branches": ["main", "release/*"],
    "paths": ["src/**", "!src/lib/**"],
    "tags": ["v*"],
    "pull_requests": True,
    "fork_pull_requests": True,
    "cron": [{"expression": "30 3 * * 1-5", "timezone": "Europe/Berlin", "branch": "main"}],
    "cancel_superseded": True,
    "needs": [],
}
OFF = {
    "branches": [],
    "paths": [],
    "tags": [],
    "pull_requests": False,
    "fork_pull_requests": False,
    "cron": [],
    "cancel_superseded": False,
    "needs": [],
}


@pytest.fixture
def configured(server: Server, project: int) -> int:
    job = given_job(server, project, repository=REPOSITORY)
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    return job


def set_triggers(server: Server, job: int, **triggers: Any) -> None:
    server.admin.when("PUT", f"/jobs/{job}/triggers", json=triggers).then(200)


def explain(server: Server, job: int, **change: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.admin.when("POST", f"/jobs/{job}/triggers/explain", json=change).then(200)
    return found


def test_triggers_are_replaced(server: Server, job: int) -> None:
    path = f"/jobs/{job}/triggers"
    assert server.admin.fetch(path) == OFF | {"job_id": job}
    shown = server.admin.when("PUT", path, json=TRIGGERS).then(200)
    assert shown == TRIGGERS | {"job_id": job} == server.admin.fetch(path)
    assert server.admin.when("PUT", path, json=shown).then(200) == shown
    assert server.admin.when("PUT", path, json={"tags": ["v*"]}).then(200) == OFF | {"job_id": job, "tags": ["v*"]}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("branches", ["release/["], "branches[0]"),
        ("branches", ["main", "refs/heads/x"], "branches[1]"),
        ("branches", ["!main"], "branches"),
        ("tags", [""], "tags[0]"),
        ("tags", ["**/" * 33], "tags[0]"),
        ("paths", ["src/**"], "paths"),
        ("cron", [{"expression": "61 3 * * *"}], "cron[0].expression"),
        ("cron", [{"expression": "0 3 * * *", "timezone": "Berlin"}], "cron[0].timezone"),
        ("cron", [{"expression": "0 3 * * *"}] * 2, "cron[1]"),
        ("branch", "main", "branch"),
        ("needs", [999_999], "needs[0]"),
        ("needs", ["lint"], "needs[0]"),
    ],
)
def test_faulty_triggers(server: Server, job: int, field: str, value: Any, named: str) -> None:
    refused = server.admin.when("PUT", f"/jobs/{job}/triggers", json={field: value}).then(422)
    assert refused["errors"][0]["field"] == named


def test_explanations(server: Server, configured: int) -> None:
    set_triggers(server, configured, **TRIGGERS)
    pushed = explain(server, configured, branch="release/3", paths=["src/a.py"])
    assert pushed == {
        "starts": True,
        "why": "would start because branch release/3 matches release/* and path src/a.py matches src/**",
    }
    assert not explain(server, configured, branch="release/3", paths=["src/lib/a.md"])["starts"]
    assert not explain(server, configured, branch="main", message="Fix [skip ci]")["starts"]
    assert explain(server, configured, kind="tag", branch="v1")["starts"]
    for full, name in (("refs/heads/release/3", "branch release/3"), ("refs/tags/v1", "tag v1")):
        pushed = explain(server, configured, branch=full, paths=["src/a.py"])
        assert (pushed["starts"], name in pushed["why"]) == (True, True)
    assert explain(server, configured, kind="pull_request", branch="fix", pull_request=7)["starts"]
    assert "fork" in explain(server, configured, kind="pull_request", branch="fix", pull_request=7, fork=True)["why"]
    assert explain(server, configured, at="2026-01-15T02:30:40Z")["starts"]
    assert explain(server, configured, at="2026-01-15T02:31:00Z") == {
        "starts": False,
        "why": "does not start: no time table has 2026-01-15 02:31 UTC; the next one after it is 2026-01-16 02:30 UTC",
    }


def test_an_explanation_knows_what_keeps_any_build_from_starting(server: Server, job: int) -> None:
    set_triggers(server, job, branches=["main"])
    assert "no command" in explain(server, job, branch="main")["why"]
    server.admin.when("PUT", f"/jobs/{job}", json={"enabled": False}).then(200)
    assert "is disabled" in explain(server, job, branch="main")["why"]


def test_an_explanation_knows_the_repository_of_the_project(server: Server, project: int, job: int) -> None:
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    set_triggers(server, job, branches=["main"], cron=[{"expression": "30 3 * * *"}])
    assert "has no repository" in explain(server, job, branch="main")["why"]
    assert explain(server, job, at="2026-01-15T03:30:00Z")["starts"], "its builds may need no repository"
    endpoint = {"type": "github", "name": "Main", "project_id": project, "repo": "Acme/Web", "token": "t"}
    created = server.admin.create("/scm", **endpoint)
    assert explain(server, job, branch="main", repository="acme/web")["starts"]
    other = explain(server, job, branch="main", repository="acme/api")
    assert other == {"starts": False, "why": "does not start: the job builds acme/web, not acme/api"}
    server.admin.when("DELETE", f"/scm/{created['id']}").then(204)
    assert "has no repository" in explain(server, job, branch="main")["why"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, "branch"),
        ({"branch": "a b"}, "branch"),
        ({"branch": "main", "at": "2026-01-15T02:30:40Z"}, "branch"),
        ({"branch": "main", "pull_request": 7}, "pull_request"),
        ({"kind": "pull_request", "branch": "main"}, "pull_request"),
        ({"branch": "main", "fork": True}, "fork"),
        ({"at": "2026-01-15T02:30:40"}, "at"),
    ],
)
def test_faulty_questions(server: Server, job: int, change: dict[str, Any], named: str) -> None:
    refused = server.admin.when("POST", f"/jobs/{job}/triggers/explain", json=change).then(422)
    assert refused["errors"][0]["field"] == named
