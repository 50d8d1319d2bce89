"""Builds of a matrix, which one request starts and which are shown as one."""

import asyncio
import uuid
from typing import Any

import pytest
from psycopg import AsyncConnection

from projections import chat_subjects
from projections.chat_subjects import ChatSubject
from tests.api.test_tests import FAILS, PASSES
from tests.support.builders import CONFIGURATION, Shop, finish
from tests.support.server import Server

MATRIX = {"axes": {"python-version": ["3.11", "3.12"]}, "include": [{"python-version": "3.12", "os": "bsd"}]}


def given_matrix(shop: Shop) -> int:
    job = shop.new_job()
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION | {"matrix": MATRIX}).then(200)
    return job


def test_a_push_between_two_builds_of_a_group_is_tested_by_none(shop: Shop) -> None:
    first, second = shop.admin.create("/builds/start", job_id=given_matrix(shop), branch="main")["builds"]
    agent, late = shop.new_agent(), shop.new_agent()
    build, other = agent.run(), late.run()
    assert (build["commit_sha"], other["commit_sha"]) == (None, None)
    agent.started(build, "a" * 40).raise_for_status()
    assert late.started(other, "b" * 40).status_code == 409

    again = late.run()
    assert (again["id"], again["attempt"], again["commit_sha"]) == (other["id"], 2, "a" * 40)
    late.started(again, "a" * 40).raise_for_status()
    for runner, ended in ((agent, build), (late, again)):
        runner.finished(ended, 0).raise_for_status()
        assert shop.ended(ended["id"])["commit_sha"] == "a" * 40
    group = shop.admin.fetch(f"/build-groups/{first}")
    assert (group["commit_sha"], group["status"]) == ("a" * 40, "passed")
    shop.admin.create(f"/builds/{second}/restart")
    restarted = agent.take_up()
    assert restarted["commit_sha"] == "a" * 40
    agent.finished(restarted).raise_for_status()


def test_a_group_tests_the_commit_of_a_build_that_was_deleted(shop: Shop) -> None:
    first, second = shop.admin.create("/builds/start", job_id=given_matrix(shop), branch="main")["builds"]
    agent = shop.new_agent()
    build = agent.run()
    agent.started(build, "a" * 40).raise_for_status()
    agent.finished(build, 0).raise_for_status()
    shop.ended(first)
    shop.admin.delete(f"/api/v3/builds/{first}").then(204)
    for attempt in (1, 2, 3):
        build = agent.run()
        assert (build["id"], build["attempt"], build["commit_sha"]) == (second, attempt, None)
        assert agent.started(build, "b" * 40).status_code == 409
    ended = shop.ended(second)
    assert (ended["status"], ended["reason"]) == ("failed", "checkout_failed")
    assert shop.admin.fetch(f"/build-groups/{first}")["status"] == "failed"


def test_a_failed_restart_of_a_single_combination_is_not_deleted_before_the_original(shop: Shop) -> None:
    job, agent = shop.new_job(), shop.new_agent()
    matrix = {"axes": {"os": ["linux"]}}
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION | {"matrix": matrix}).then(200)
    first = shop.admin.create("/builds/start", job_id=job)["id"]
    agent.finished(agent.take_up(), 0).raise_for_status()
    shop.ended(first)
    again = shop.admin.create(f"/builds/{first}/restart")["id"]
    agent.finished(agent.take_up(), 1).raise_for_status()
    shop.ended(again)
    refused = shop.admin.delete(f"/api/v3/builds/{again}").then(409)
    assert f"the status of group {first} would be passed instead of failed" in refused["detail"]
    assert shop.admin.fetch(f"/build-groups/{first}")["status"] == "failed"
    assert shop.admin.fetch(f"/jobs/{job}")["last_full_build_status"] == "failed"
    shop.admin.delete(f"/api/v3/builds/{first}").then(204)
    shop.server.wait_until_projected()
    shop.admin.delete(f"/api/v3/builds/{again}").then(204)


def test_a_failed_build_is_deleted_after_the_passed_ones_of_its_group(shop: Shop) -> None:
    job, agent = given_matrix(shop), shop.new_agent()
    first, second = shop.admin.create("/builds/start", job_id=job)["builds"]
    for exit_code in (1, 0):
        build = agent.take_up()
        agent.finished(build, exit_code).raise_for_status()
        shop.ended(build["id"])
    refused = shop.admin.delete(f"/api/v3/builds/{first}").then(409)
    assert "the status of group" in refused["detail"]
    assert shop.admin.fetch(f"/build-groups/{first}")["status"] == "failed"

    again = shop.admin.create(f"/builds/{first}/restart")["id"]
    agent.finished(agent.take_up(), 1).raise_for_status()
    shop.ended(again)
    shop.admin.delete(f"/api/v3/builds/{first}").then(204)
    shop.admin.delete(f"/api/v3/builds/{second}").then(204)
    shop.server.wait_until_projected()
    shop.admin.delete(f"/api/v3/builds/{again}").then(204)


def test_the_summary_of_a_build_names_those_of_its_group_that_failed(shop: Shop) -> None:
    finish(shop.server, shop.start(external=True))  # another job, which is green
    agent, (first, second) = shop.new_agent(), shop.admin.create("/builds/start", job_id=given_matrix(shop))["builds"]
    for exit_code in (1, 0):
        build = agent.take_up()
        agent.finished(build, exit_code).raise_for_status()
        shop.ended(build["id"])
    of_passed = shop.admin.fetch(f"/ai/summary/{second}")
    assert f"Other builds of its matrix did not pass: build {first} (failed)." in of_passed["summary"]
    assert f"build:{first}" in of_passed["sources"]
    assert "matrix" not in shop.admin.fetch(f"/ai/summary/{first}")["summary"]
    for job_id, choice in ((None, "red_job"), (shop.build(first)["job_id"], "most_failures")):
        chosen = asyncio.run(choose_build(shop, ChatSubject(shop.project, job_id)))
        assert (chosen.build_id, chosen.build_choice) == (first, choice)


async def choose_build(shop: Shop, subject: ChatSubject) -> ChatSubject:
    async with await AsyncConnection.connect(shop.server.settings.database_url) as connection:
        return await chat_subjects.choose_build(connection, subject, "Why is it red?")


def test_a_matrix_from_its_start_to_its_restart(shop: Shop) -> None:
    job, commit = given_matrix(shop), uuid.uuid4().hex
    assert shop.admin.fetch(f"/jobs/{job}/configuration")["matrix"] == MATRIX
    assert shop.admin.when("POST", f"/jobs/{job}/export").then(200)["configuration"]["matrix"] == MATRIX
    started = shop.admin.create("/builds/start", job_id=job, commit_sha=commit)
    first, second = started["builds"]
    assert (started["id"], started["group_id"], started["status"]) == (first, first, "queued")
    listed = shop.admin.fetch(f"/builds?group_id={first}")["results"]
    assert [(build["id"], build["matrix"]) for build in listed] == [
        (second, {"python-version": "3.12", "os": "bsd"}),
        (first, {"python-version": "3.11"}),
    ]
    agent = shop.new_agent(3)
    for version, report, exit_code, status in (("3.11", FAILS, 1, "failed"), ("3.12", PASSES, 0, "failed")):
        build = agent.take_up()
        assert build["env"]["PYTHON_VERSION"] == version
        agent.report(build, report).raise_for_status()
        agent.finished(build, exit_code).raise_for_status()
        assert shop.ended(build["id"])["flaky"] == 0, "another combination is other code"
        assert shop.admin.fetch(f"/build-groups/{first}")["status"] == status
    newest = shop.admin.fetch(f"/jobs/{job}")
    assert (newest["last_full_build_id"], newest["last_full_build_status"]) == (second, "failed"), "of the whole group"
    again = shop.admin.create(f"/builds/{first}/restart")["id"]
    assert shop.build(again)["matrix"] == {"python-version": "3.11"}
    shown: dict[str, Any] = shop.admin.fetch(f"/build-groups/{first}")
    assert (shown["status"], [build["id"] for build in shown["builds"]]) == ("queued", [second, again])
    assert (shown["finished_at"], shown["job_id"], shown["project_id"]) == (None, job, shop.project)
    shop.admin.when("GET", "/build-groups/999999").then(404)


def test_a_group_is_aborted_and_restarted_as_one(server: Server) -> None:
    shop = Shop(server)
    started = shop.admin.create("/builds/start", job_id=given_matrix(shop), branch="main")
    group, ids = f"/build-groups/{started['id']}", started["builds"]
    shop.admin.when("POST", f"{group}/restart").then(409)
    agent = shop.new_agent()
    agent.finished(agent.take_up(), 0).raise_for_status()
    shop.ended(ids[0])
    aborted = shop.admin.when("POST", f"{group}/abort").then(200)
    shown = [(build["id"], build["status"], build["reason"]) for build in aborted["builds"]]
    assert (aborted["status"], shown) == (
        "aborted",
        [(ids[0], "passed", None), (ids[1], "aborted", "stopped_by_user")],
    )
    assert "have ended" in shop.admin.when("POST", f"{group}/abort").then(409)["detail"]
    again = shop.admin.when("POST", f"{group}/restart", json={"failed_only": True}).then(201)
    assert [(build["id"] == ids[0], build["status"]) for build in again["builds"]] == [
        (True, "passed"),
        (False, "queued"),
    ], "what passed stays"
    build = agent.take_up()
    assert build["env"]["PYTHON_VERSION"] == "3.12"
    agent.finished(build, 0).raise_for_status()
    shop.ended(build["id"])
    shop.admin.when("POST", f"{group}/restart", json={"failed_only": True}).then(409)
    every = shop.admin.when("POST", f"{group}/restart").then(201)
    assert [build["restarted_from"] for build in every["builds"]] == [ids[0], build["id"]]
    assert every["status"] == "queued"


@pytest.mark.parametrize(
    ("matrix", "field"),
    [
        ({"axes": {"a": [str(n) for n in range(257)]}}, "matrix.axes"),
        ({"axes": {"a": [str(n) for n in range(200)], "b": ["1", "2"]}}, "matrix"),
        ({"axes": {"a": [1]}}, "matrix.axes"),
        ({"axes": {}}, "matrix"),
    ],
)
def test_what_is_refused(server: Server, job: int, matrix: dict[str, Any], field: str) -> None:
    answer = server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION | {"matrix": matrix})
    assert answer.then(422)["errors"][0]["field"].startswith(field)
