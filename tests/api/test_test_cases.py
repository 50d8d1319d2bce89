"""Test cases over HTTP: lists of a project or job, and one with its results."""

from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from tests.api.test_test_health import given_results, junit, names
from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.server import Server


@pytest.fixture(name="history", scope="module")
def _history(server: Server) -> dict[str, Any]:
    project = given_project(server)
    job, other = given_job(server, project), given_job(server, project)
    builds = []
    for number in range(8):
        results = {
            "steady": "passed",
            "shaky": "timeout" if number % 2 else "passed",
            "broken": "refused" if number >= 5 else "passed",
            "retried": "retried" if number == 1 else "passed",
        }
        builds.append(given_results(server, job, **results))
    builds.append(given_results(server, other, elsewhere="passed", shaky="timeout", broken="passed"))
    server.wait_until_projected()
    return {"project": project, "job": job, "other": other, "builds": builds}


def listed(server: Server, **query: Any) -> list[str]:
    results = server.admin.fetch("/test-cases", **query)["results"]
    return names([{"name": result["node_id"]} for result in results])


def test_sorts(server: Server, history: dict[str, Any]) -> None:
    project = history["project"]
    assert listed(server, project_id=project)[:2] == ["shaky", "broken"]
    assert listed(server, project_id=project, sort="flaky")[0] == "shaky"
    assert listed(server, project_id=project, sort="newly_failing")[:2] == ["shaky", "broken"]
    assert set(listed(server, project_id=project, sort="slowest")) == {
        "steady",
        "shaky",
        "broken",
        "retried",
        "elsewhere",
    }
    assert listed(server, project_id=project, sort="runs")[0] == "shaky"


def test_filters(server: Server, history: dict[str, Any]) -> None:
    project = history["project"]
    assert set(listed(server, project_id=project, only="failing")) == {"shaky", "broken"}
    assert set(listed(server, project_id=project, only="flaky")) == {"shaky", "retried"}
    assert set(listed(server, project_id=project, only="never_failing")) == {"steady", "elsewhere"}
    assert listed(server, project_id=project, search="EAD") == ["steady"]
    answer = server.admin.fetch("/test-cases", project_id=project, only="never_failing", search="steady")
    assert answer["total"] == 1


def test_a_job_has_its_own_tests(server: Server, history: dict[str, Any]) -> None:
    assert set(listed(server, job_id=history["job"])) == {"steady", "shaky", "broken", "retried"}
    assert set(listed(server, job_id=history["other"])) == {"elsewhere", "shaky", "broken"}
    assert listed(server, job_id=history["other"], only="failing") == ["shaky"]
    (shaky,) = server.admin.fetch("/test-cases", job_id=history["other"], search="shaky")["results"]
    assert (shaky["runs"], shaky["failed_runs"]) == (1, 1)
    (shaky,) = server.admin.fetch("/test-cases", job_id=history["job"], search="shaky")["results"]
    assert (shaky["runs"], shaky["failed_runs"]) == (8, 4)


def test_a_test_that_failed_in_a_broken_build_only_is_never_failing(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    tests = ["shaky", *(f"steady_{number}" for number in range(5))]
    given_results(server, job, **dict.fromkeys(tests, "passed"))
    given_results(server, job, **dict.fromkeys(tests, "refused"))
    given_results(server, job, **dict.fromkeys(tests, "passed") | {"shaky": "timeout"})
    server.wait_until_projected()

    assert set(listed(server, project_id=project, only="never_failing")) == set(tests) - {"shaky"}
    found = server.admin.fetch("/test-cases", project_id=project)["results"]
    assert [(result["runs"], result["failed_runs"]) for result in found] == [(2, 1), *[(2, 0)] * 5]
    assert {result["has_failed"] for result in found[:1]} == {True}
    assert {result["has_failed"] for result in found[1:]} == {False}


def test_a_failing_test_that_newer_builds_did_not_run_is_not_new(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    given_results(server, job, gone="passed", steady="passed")
    failed = given_results(server, job, gone="timeout", steady="passed")
    given_results(server, job, steady="passed")
    given_results(server, job, "other", steady="passed")
    server.wait_until_projected()
    assert listed(server, project_id=project, only="newly_failing") == ["gone"]
    given_results(server, job, steady="passed")
    given_results(server, job, steady="passed")
    server.wait_until_projected()
    assert listed(server, project_id=project, only="newly_failing") == []
    (gone,) = server.admin.fetch("/test-cases", job_id=job, only="failing")["results"]
    assert (gone["last_failed_build"], gone["missed_builds"]) == (failed, 3)
    health = server.admin.fetch(f"/ai/tests/{gone['id']}/health")
    assert "failed. 3 newer builds of the job did not run it: it may have been removed" in health["recommendation"]


def test_builds_at_the_same_time_have_not_missed_a_test_that_fails_in_the_slowest(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    given_results(server, job, seldom="passed", steady="passed")
    slow = given_build(server, job)
    for _ in range(3):
        given_results(server, job, seldom="passed", steady="passed")
    upload(server.admin, slow, junit(seldom="timeout", steady="passed")).then(201)
    finish(server, slow, "failed")
    server.wait_until_projected()
    assert listed(server, project_id=project, only="newly_failing") == ["seldom"]
    (seldom,) = server.admin.fetch("/test-cases", job_id=job, only="failing")["results"]
    assert (seldom["last_failed_build"], seldom["missed_builds"]) == (slow, 0)


def test_builds_without_results_have_not_missed_a_failing_test(server: Server) -> None:
    """Nor have they mended it, although it passes in another job."""
    project = given_project(server)
    job, other = given_job(server, project), given_job(server, project)
    given_results(server, job, broken="passed", steady="passed")
    given_results(server, job, broken="timeout", steady="passed")
    for _ in range(3):
        build = given_build(server, job)
        upload(server.admin, build, b'<testsuite name="s" tests="0"/>').then(201)
        finish(server, build, "failed")
    server.wait_until_projected()
    assert listed(server, project_id=project, only="newly_failing") == ["broken"]
    given_results(server, other, broken="passed", steady="passed")
    server.wait_until_projected()
    assert listed(server, project_id=project, only="failing") == ["broken"]


@pytest.mark.parametrize("others", ["passed", "Connection refused"], ids=["outage", "broken builds"])
def test_a_failing_test_has_run_in_newer_builds_that_do_not_count(server: Server, others: str) -> None:
    project = given_project(server)
    job = given_job(server, project)
    steady = [f"steady_{number}" for number in range(5)]
    given_results(server, job, **dict.fromkeys([*steady, "failing"], "passed"))
    failed = given_results(server, job, **dict.fromkeys(steady, "passed") | {"failing": "1 is not 2"})
    for _ in range(1 if others == "passed" else 3):
        given_results(server, job, **dict.fromkeys(steady, others) | {"failing": "Connection refused"})
    server.wait_until_projected()
    assert "failing" in listed(server, project_id=project, only="newly_failing")
    (found,) = server.admin.fetch("/test-cases", project_id=project, search="failing")["results"]
    assert found["missed_builds"] == 0
    health = server.admin.fetch(f"/ai/tests/{found['id']}/health")
    assert "did not run" not in health["recommendation"]
    assert failed in [run["build_id"] for run in health["evidence"]]


def test_a_skipped_test_has_no_duration(server: Server) -> None:
    project = given_project(server)
    job = given_job(server, project)
    for outcome in ("<failure/>", "<skipped/>"):
        build = given_build(server, job)
        cases = (
            f'<testcase classname="t" name="slow" time="{9 if outcome == "<failure/>" else 0}">{outcome}</testcase>'
            '<testcase classname="t" name="fast" time="0.01"/>'
        )
        upload(server.admin, build, f'<testsuite name="s">{cases}</testsuite>'.encode()).then(201)
        finish(server, build)
    server.wait_until_projected()

    found = server.admin.fetch("/test-cases", project_id=project, sort="id")["results"]
    assert [result["duration_ms"] for result in found] == [None, 10]


@pytest.mark.parametrize("sort", ["failures", "flaky", "newly_failing", "cost", "slowest", "runs", "id"])
def test_pages(server: Server, history: dict[str, Any], sort: str) -> None:
    project = history["project"]
    everything = listed(server, project_id=project, sort=sort)
    found: list[str] = []
    query: dict[str, Any] = {"project_id": project, "sort": sort, "limit": 2}
    while True:
        answer = server.admin.get("/api/v3/test-cases", params=query)
        found += names([{"name": result["node_id"]} for result in answer.json()["results"]])
        if "next" not in answer.links:
            break
        query = dict(parse_qs(urlparse(answer.links["next"]["url"]).query))
    assert found == everything


def test_one_with_its_results(server: Server, history: dict[str, Any]) -> None:
    (broken,) = server.admin.fetch("/test-cases", project_id=history["project"], search="broken")["results"]
    assert broken["failing_since"] == history["builds"][5]
    found = server.admin.fetch(f"/test-cases/{broken['id']}")
    assert found["runs"] == 9
    assert [result["build_id"] for result in found["results"]] == history["builds"][::-1]
    assert [result["status"] for result in found["results"]] == ["passed"] + ["failed"] * 3 + ["passed"] * 5
    assert [run["build_id"] for run in found["notable_runs"]] == history["builds"][5:8]
    assert len(server.admin.fetch(f"/test-cases/{broken['id']}", limit=2)["results"]) == 2


def test_refusals(server: Server, history: dict[str, Any]) -> None:
    project = history["project"]
    for query in (
        {},
        {"project_id": project, "job_id": history["job"]},
        {"project_id": project, "sort": "odd"},
        {"project_id": project, "only": "odd"},
        {"project_id": project, "days": 91},
        {"project_id": project, "after": "x"},
        {"project_id": project, "after": "1"},
        {"project_id": project, "search": ""},
    ):
        assert server.admin.get("/api/v3/test-cases", params=query).status_code == 422, query
    assert server.admin.get("/api/v3/test-cases", params={"project_id": 10**9}).status_code == 404
    assert server.admin.get(f"/api/v3/test-cases/{10**9}").status_code == 404


def test_numbers_out_of_range(server: Server, history: dict[str, Any]) -> None:
    project = history["project"]
    for path, status in {
        f"/test-cases?project_id={project}&after={10**30}:{10**18}": 200,
        f"/test-cases?project_id={project}&after=-{10**30}:-1": 200,
        f"/test-cases?project_id={project}&search=a%00": 422,
        f"/test-cases?project_id={project}&days={10**30}": 422,
        f"/test-cases?project_id={10**30}": 422,
        f"/test-cases?job_id=-{10**30}": 422,
        f"/test-cases/{10**30}": 404,
        f"/ai/tests/health?project_id={project}&min_runs={10**6}": 200,
        f"/ai/tests/health?project_id={project}&min_runs={10**30}": 422,
        f"/ai/tests/{10**30}/health": 404,
        f"/ai/emerging/latest?project_id={project}&window={10**30}": 422,
        f"/jobs/{10**30}/trend": 404,
        f"/projects/{project}/trend?days={10**30}": 422,
    }.items():
        assert server.admin.get(f"/api/v3{path}").status_code == status, path
    assert server.admin.fetch("/ai/tests/health", project_id=project, min_runs=10**6) == {"tests": [], "total": 0}
