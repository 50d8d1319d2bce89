"""Jobs that need others, over HTTP: what a commit starts, and what an answer says about the jobs that wait."""

import uuid
from typing import Any

import pytest

from tests.support.builders import REPOSITORY, Shop, given_job
from tests.support.server import Server

MAIN = {"branches": ["main"]}


@pytest.fixture
def shop(server: Server) -> Shop:
    """A project of its own: its agents take no builds of other tests."""
    return Shop(server)


def given_triggers(shop: Shop, job: int, **triggers: Any) -> None:
    shop.admin.when("PUT", f"/jobs/{job}/triggers", json=triggers).then(200)
    shop.server.wait_until_projected()


def notify(shop: Shop, branch: str = "main") -> dict[str, Any]:
    change = {"project_id": shop.project, "branch": branch, "commit_sha": uuid.uuid4().hex}
    answer: dict[str, Any] = shop.admin.when("POST", "/builds/git-notify", json=change).then(200)
    return answer


def of_change(shop: Shop, change_id: int) -> dict[int, dict[str, Any]]:
    return {job["job_id"]: job for job in shop.admin.fetch(f"/changes/{change_id}")["jobs"]}


def test_a_job_waits_for_those_that_it_needs(shop: Shop) -> None:
    tests, deploy = (shop.new_job(repository=REPOSITORY) for _ in range(2))
    given_triggers(shop, tests, **MAIN)
    given_triggers(shop, deploy, **MAIN, needs=[tests])
    assert shop.admin.fetch(f"/jobs/{deploy}/triggers")["needs"] == [tests]
    explained = shop.admin.when("POST", f"/jobs/{deploy}/triggers/explain", json={"branch": "main"}).then(200)
    assert explained == {
        "starts": True,
        "why": f"would start because branch main matches main, once job {tests} has passed",
    }
    reported = notify(shop)
    change = reported["change_id"]
    assert (reported["queued"], reported["waiting"]) == (1, [{"job_id": deploy, "needs": [tests]}])
    (build,) = reported["build_ids"]
    assert of_change(shop, change) == {
        tests: {"job_id": tests, "build_ids": [build], "needs": [], "why": ""},
        deploy: {
            "job_id": deploy,
            "build_ids": [],
            "needs": [tests],
            "why": f"It waits for build {build} of job {tests}, which is queued.",
        },
    }
    agent = shop.new_agent()
    agent.finished(agent.take_up(), 1).raise_for_status()
    shop.ended(build)
    failed = f"It does not start, since build {build} of job {tests} has failed. A restart that passes starts it."
    assert of_change(shop, change)[deploy]["why"] == failed
    again = shop.admin.create(f"/builds/{build}/restart")["id"]
    agent.finished(agent.take_up(), 0).raise_for_status()
    shop.ended(again)
    assert of_change(shop, change)[deploy]["why"].endswith("have passed, so it starts in a moment."), "no worker runs"


def test_a_failed_restart_is_not_deleted_before_the_build_that_had_passed(shop: Shop) -> None:
    """Otherwise the jobs that need this one would start."""
    tests, deploy = (shop.new_job(repository=REPOSITORY) for _ in range(2))
    given_triggers(shop, tests, **MAIN)
    given_triggers(shop, deploy, **MAIN, needs=[tests])
    reported, agent = notify(shop), shop.new_agent()
    chain: list[int] = reported["build_ids"]
    for exit_code in (0, 0, 1):
        agent.finished(agent.take_up(), exit_code).raise_for_status()
        shop.ended(chain[-1])
        if exit_code == 0:
            chain.append(shop.admin.create(f"/builds/{chain[-1]}/restart")["id"])
    first, second, third = chain
    for refused in (third, second):
        detail = shop.admin.delete(f"/api/v3/builds/{refused}").then(409)["detail"]
        assert f"the status of build {first} and its restarts would be passed instead of failed" in detail
        why = of_change(shop, reported["change_id"])[deploy]["why"]
        assert why.startswith(f"It does not start, since build {third} of job {tests} has failed")
    for deleted in (first, second, third):
        shop.admin.delete(f"/api/v3/builds/{deleted}").then(204)
        shop.server.wait_until_projected()
    assert "passed" not in of_change(shop, reported["change_id"])[deploy]["why"]


def test_a_job_is_left_out_where_another_one_does_not_start(shop: Shop) -> None:
    tests, deploy = (shop.new_job(repository=REPOSITORY) for _ in range(2))
    given_triggers(shop, tests, branches=["release/*"])
    given_triggers(shop, deploy, **MAIN, needs=[tests])
    because = f"it needs job {tests}, which does not start either (branch main matches not release/*)"
    explained = shop.admin.when("POST", f"/jobs/{deploy}/triggers/explain", json={"branch": "main"}).then(200)
    assert explained == {"starts": False, "why": f"does not start: {because}"}
    reported = notify(shop)
    assert reported["refused"] == [{"job_id": deploy, "why": f"The job does not start: {because}."}]
    assert of_change(shop, reported["change_id"])[deploy]["why"] == f"The job does not start: {because}."
    tests = given_job(shop.server, shop.project, repository=REPOSITORY)
    given_triggers(shop, tests, **MAIN)
    given_triggers(shop, deploy, **MAIN, needs=[tests])
    explained = shop.admin.when("POST", f"/jobs/{deploy}/triggers/explain", json={"branch": "main"}).then(200)
    assert "has no command yet" in explained["why"]
    reported = notify(shop)
    assert [refused["job_id"] for refused in reported["refused"]] == [tests, deploy]


def test_what_jobs_may_not_need(shop: Shop) -> None:
    first, second = (shop.new_job() for _ in range(2))
    given_triggers(shop, second, needs=[first])
    for needs, field, expected in (
        ([first], "needs[0]", "is the job itself"),
        ([second], "needs", f"is a circle: job {first} needs job {second} needs job {first}"),
        ([10**9], "needs[0]", f"there is no job 1000000000 in project {shop.project}"),
    ):
        refused = shop.admin.when("PUT", f"/jobs/{first}/triggers", json={"needs": needs}).then(422)
        assert refused["errors"] == [{"field": field, "message": expected}]
    refused = shop.admin.when("DELETE", f"/jobs/{first}").then(409)
    assert f"Job {second} needs job {first}" in refused["detail"]
    given_triggers(shop, second)
    shop.admin.when("DELETE", f"/jobs/{first}").then(204)


def test_an_unknown_change(shop: Shop) -> None:
    shop.admin.when("GET", "/changes/999999").then(404)
