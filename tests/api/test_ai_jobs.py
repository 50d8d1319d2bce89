"""Jobs of the assistant over HTTP: audits, clusters of failures, searches for regressions."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg import AsyncConnection

from domain.assistant.lookups import LookedUp, Lookup
from projections.lookups import look_up
from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.server import Server

AT = "/api/v3/ai/job"
SECRET = "planted-in-the-other-project"


def junit(**results: str) -> bytes:
    """Returns a report. The value of a test is `passed`, or the message of its failure."""
    cases = [
        f'<testcase classname="t" name="{name}"/>'
        if result == "passed"
        else f'<testcase classname="t" name="{name}"><failure message="{result}">{result}</failure></testcase>'
        for name, result in results.items()
    ]
    return f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()


@dataclass
class Project:
    id: int
    job: int
    builds: list[int]


def given_builds(server: Server, commits: list[str], *reports: dict[str, str]) -> Project:
    """Makes a project with a build for each report."""
    project = given_project(server)
    job = given_job(server, project)
    builds: list[int] = []
    for commit, report in zip(commits, reports, strict=True):
        build = given_build(server, job, branch="main", commit_sha=commit)
        upload(server.admin, build, junit(**report)).then(201)
        finish(server, build, "passed" if set(report.values()) == {"passed"} else "failed")
        builds.append(build)
    server.wait_until_projected()
    return Project(project, job, builds)


GOOD = {"login": "passed", "cart": "passed", "pay": "passed", "mail": "passed", "send": "passed", "find": "passed"}
BAD = GOOD | {"pay": "AssertionError: expected 3 but was 4", "mail": "connection refused by host 10"}


@pytest.fixture(name="web", scope="module")
def _web(opened: Server) -> Project:
    """A project in which two tests began to fail at commit c3."""
    return given_builds(opened, ["c1" * 20, "c2" * 20, "c3" * 20, "c4" * 20], GOOD, GOOD, BAD, BAD)


@pytest.fixture(name="other", scope="module")
def _other(opened: Server) -> Project:
    return given_builds(opened, ["d1" * 20, "d2" * 20, "d3" * 20], GOOD, *[GOOD | {"cart": SECRET}] * 2)


def start(client: Client, kind: str, project: int) -> dict[str, Any]:
    started: dict[str, Any] = client.post(f"{AT}/stream", json={"type": kind, "project_id": project}).then(202)
    return started


def run(server: Server, kind: str, project: int) -> dict[str, Any]:
    """Starts a job, waits for its end by its stream, and returns its result as later requests get it."""
    messages = follow(server.admin, kind, project)
    job_id = json.loads(messages[0])["job_id"]
    server.wait_until_projected()
    found: dict[str, Any] = server.admin.get(f"{AT}/{job_id}/result").then(200)
    assert found["status"] == "complete", found
    return found


def follow(client: Client, kind: str, project: int) -> list[str]:
    body = {"type": kind, "project_id": project}
    answer = client.post(f"{AT}/stream", json=body, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"]) == (202, "text/event-stream; charset=utf-8")
    lines = [line for line in answer.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_a_job_is_queued_and_can_be_cancelled_once(server: Server) -> None:
    project = given_project(server)
    started = start(server.admin, "project_audit", project)
    assert re.fullmatch("aijob-[0-9a-f]{32}", started["job_id"])
    assert (started["status"], type(started["estimated_seconds"])) == ("queued", int)
    path = f"{AT}/{started['job_id']}"
    result = server.admin.get(f"{path}/result").then(200)
    assert (result["status"], result["result"], result["steps"]) == ("queued", None, [])
    assert server.admin.post(f"{path}/cancel").then(200) == {"job_id": started["job_id"], "status": "cancelled"}
    assert server.admin.get(f"{path}/result").then(200)["status"] == "cancelled"
    assert server.admin.post(f"{path}/cancel").status_code == 409


def test_a_job_is_its_owners(server: Server) -> None:
    project = given_project(server)
    path = f"{AT}/{start(server.admin, 'failure_cluster', project)['job_id']}"
    member = server.make_user("developer", {project: "admin"})
    for answer in (
        member.get(f"{path}/result"),
        member.post(f"{path}/cancel"),
        server.admin.get(f"{AT}/aijob-0/result"),
        member.post(f"{AT}/stream", json={"type": "project_audit", "project_id": given_project(server)}),
        member.post(f"{AT}/stream", json={"type": "project_audit", "project_id": 2**50}),
    ):
        assert answer.status_code == 404
    assert member.post(f"{AT}/stream", json={"type": "dance", "project_id": project}).status_code == 422


def test_a_user_has_few_jobs_at_once(server: Server) -> None:
    project = given_project(server)
    viewer = server.make_user("viewer", {project: "read"})
    jobs = [start(viewer, "regression_scan", project)["job_id"] for _ in range(17)]
    body = {"type": "regression_scan", "project_id": project}
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: viewer.post(f"{AT}/stream", json=body).status_code, range(6)))
    assert sorted(answers) == [202] * 3 + [429] * 3
    refused = viewer.post(f"{AT}/stream", json={"type": "regression_scan", "project_id": project})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    viewer.post(f"{AT}/{jobs[0]}/cancel").then(200)
    start(viewer, "regression_scan", project)


def test_an_audit_has_a_score_and_recommends_requests(opened: Server, web: Project) -> None:
    found = run(opened, "project_audit", web.id)
    result = found["result"]
    assert (result["builds_passed"], result["builds_failed"], result["failures"]) == (2, 2, 4)
    assert result["lost_points"] == {
        "failed_builds": 35.0,
        "flaky_tests": 0.0,
        "time_to_green": 0.0,
        "unread_failures": 15.0,
        "quarantine": 0.0,
    }
    assert result["audit_score"] == 50
    assert [action["text"] for action in result["actions"]] == result["recommendations"]
    assert f"project:{web.id}" in result["sources"]
    action = next(one for one in result["actions"] if "connection refused" in one["text"])
    assert (action["method"], action["path"], action["body"]["classification"]) == ("POST", "/known-issues", "infra")
    opened.admin.post(f"/api/v3{action['path']}", json=action["body"]).then(201)
    assert found["steps"][3] == "4 of 4 failures have no classification."


def test_clusters_are_failures_with_one_cause(opened: Server, web: Project) -> None:
    result = run(opened, "failure_cluster", web.id)["result"]
    clusters = {cluster["tests"][0]: cluster for cluster in result["clusters"]}
    assert set(clusters) == {"t.pay", "t.mail"}
    mail = clusters["t.mail"]
    assert (mail["kind"], mail["failures"], mail["builds"]) == ("infrastructure", 2, 2)
    assert (mail["first_build"], mail["last_build"]) == tuple(web.builds[2:])
    assert mail["sources"][0] == f"build:{web.builds[2]}"
    assert {"build", "test"} <= {source.partition(":")[0] for source in result["sources"]}


def test_a_regression_has_its_commit(opened: Server, web: Project) -> None:
    result = run(opened, "regression_scan", web.id)["result"]
    assert [one["test"] for one in result["regressions"]] == ["t.pay"], "t.mail met an outage, which does not count yet"
    pay = result["regressions"][0]
    assert (pay["last_good_build"], pay["first_bad_build"]) == tuple(web.builds[1:3])
    assert (pay["commit"], pay["last_good_commit"], pay["failed_builds"]) == ("c3" * 20, "c2" * 20, 2)
    assert {f"build:{web.builds[2]}", f"commit:{'c3' * 20}"} <= set(result["sources"])


def test_a_job_looks_further_and_concludes(opened: Server, web: Project, other: Project) -> None:
    found = run(opened, "regression_scan", web.id)
    result = found["result"]
    assert (result["verdict"], result["root_cause"]) == ("product_bug", "AssertionError: expected 3 but was 4")
    assert 0.5 < result["confidence"] < 0.9
    assert result["next_step"]["action"] == "known_issue"
    assert (result["provider"], result["fell_back"]) == ("builtin", "")
    looked = {one["kind"]: one["text"] for one in result["lookups"]}
    assert 4 <= len(result["lookups"]) <= 6
    assert looked["test_history"].startswith("t.")
    assert "failed in 2 of its last 4 runs" in looked["test_history"]
    assert f"The newest builds on commit {'c3' * 6}: {web.builds[2]} failed." in looked["builds_of_commit"]
    assert all(text in result["conclusion"] and text in found["steps"] for text in looked.values())
    lookups = [Lookup(one["kind"], one["ref"]) for one in result["lookups"]]
    assert asyncio.run(look_up_all(opened, other.id, lookups)) == [None] * len(lookups), "they are of another project"
    assert None not in asyncio.run(look_up_all(opened, web.id, lookups))


async def look_up_all(server: Server, project: int, lookups: list[Lookup]) -> list[LookedUp | None]:
    async with await AsyncConnection.connect(server.settings.database_url) as connection:
        return [await look_up(connection, project, lookup) for lookup in lookups]


@pytest.mark.parametrize("kind", ["project_audit", "failure_cluster", "regression_scan"])
def test_no_job_reads_other_projects(opened: Server, web: Project, other: Project, kind: str) -> None:
    assert SECRET in str(run(opened, kind, other.id))
    assert SECRET not in str(run(opened, kind, web.id))


@pytest.mark.parametrize("kind", ["project_audit", "failure_cluster", "regression_scan"])
def test_an_empty_project_is_analysed(opened: Server, kind: str) -> None:
    result = run(opened, kind, given_project(opened))["result"]
    assert result.get("audit_score", 100) == 100
    assert result.get("recommendations", []) == []


def test_a_stream_shows_the_steps_and_the_result(opened: Server, web: Project) -> None:
    *messages, done = follow(opened.admin, "regression_scan", web.id)
    first, *steps, last = map(json.loads, messages)
    assert (first["status"], done) == ("queued", "[DONE]")
    assert [step["data"]["number"] for step in steps] == [*range(1, len(steps) + 1)]
    assert {"failing_tests", "first_failures", "cause", "test_history"} <= {step["data"]["lookup"] for step in steps}
    assert (last["type"], last["data"]["job_id"], last["data"]["status"]) == ("result", first["job_id"], "complete")
    assert last["data"]["result"]["tests_checked"] == 1
