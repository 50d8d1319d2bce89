"""Builds over HTTP, and reading one's own writes."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
import requests

from projections.results_cases import CaseStatsRow
from store.postgres.notifications import POLLS
from testhide.engines import Engines
from tests.support.builders import Shop, given_project
from tests.support.http import Client
from tests.support.server import ADMIN, Server, server_on_new_database

FAR = 10**15


@pytest.fixture(name="build")
def _build(shop: Shop) -> int:
    """An external build: it runs at once."""
    return shop.start(external=True, branch="dev", commit_sha="c0ffee")


def test_start(shop: Shop) -> None:
    answer = shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "branch": "dev", "priority": 9})
    assert answer.status_code == 201
    started = answer.json()
    assert started.items() >= {"job_id": shop.job, "status": "queued", "branch": "dev", "commit_sha": None}.items()
    assert datetime.fromisoformat(started["created_at"])
    shown = shop.build(started["id"])
    assert shown.items() >= {"status": "queued", "priority": 9, "project_id": shop.project, "duration_s": 0}.items()
    assert re.fullmatch(r"user:\d+", shown["triggered_by"])
    assert shown["configuration"]["command"] == "pytest"


def test_secrets_do_not_show(shop: Shop) -> None:
    number = shop.start(env={"A": "1"}, secrets={"KEY": "hidden"})
    text = shop.admin.get(f"/api/v3/builds/{number}").text
    assert '"secrets":["KEY"]' in text
    assert "hidden" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"env": {"A": "1"}, "external": True},
        {"secrets": {"A": "1"}, "external": True},
        {"job_id": 0},
        {"job_id": "x"},
        {"priority": 11},
        {"priority": 0},
        {"branch": ""},
        {"branch": "--upload-pack=x"},
        {"branch": "a b"},
        {"commit_sha": "HEAD"},
        {"env": {"1A": "x"}},
        {"env": {"A": 1}},
        {"secrets": {"": "x"}},
    ],
)
def test_fields_are_checked(shop: Shop, changes: dict[str, Any]) -> None:
    answer = shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job} | changes)
    assert answer.status_code == 422
    assert next(iter(changes)) in answer.json()["errors"][0]["field"]


def test_a_job_that_is_none_or_cannot_run(shop: Shop) -> None:
    assert shop.admin.post("/api/v3/builds/start", json={"job_id": 2**50}).status_code == 404
    job = shop.new_job()
    shop.admin.put(f"/api/v3/jobs/{job}", json={"enabled": False}).raise_for_status()
    answer = shop.admin.post("/api/v3/builds/start", json={"job_id": job})
    assert answer.status_code == 409
    assert "disabled" in answer.json()["detail"]


def test_who_may(shop: Shop, build: int) -> None:
    reader = shop.server.make_user("developer", {shop.project: "read"})
    stranger = shop.server.make_user("developer", {})
    assert reader.get(f"/api/v3/builds/{build}").status_code == 200
    assert reader.post("/api/v3/builds/start", json={"job_id": shop.job}).status_code == 403
    assert reader.post(f"/api/v3/builds/{build}/stop").status_code == 403
    assert reader.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).status_code == 403
    for path in ("", "/pipeline_logs", "/stream"):
        assert stranger.get(f"/api/v3/builds/{build}{path}").status_code == 404
    assert stranger.post("/api/v3/builds/start", json={"job_id": shop.job}).status_code == 404
    assert stranger.get("/api/v3/builds").json() == {"total": 0, "results": []}
    assert build in [item["id"] for item in reader.get("/api/v3/builds").json()["results"]]


def listed(shop: Shop, **params: Any) -> tuple[int, list[int]]:
    answer = shop.admin.get("/api/v3/builds", params=params)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    return page["total"], [item["id"] for item in page["results"]]


def test_list_filters_and_pages(shop: Shop) -> None:
    job = shop.new_job()
    numbers = [shop.start(job, external=True, branch=branch) for branch in ("a", "b", "a", "b", "a")]
    shop.admin.post(f"/api/v3/builds/{numbers[1]}/finish", json={"status": "passed"}).raise_for_status()
    newest = numbers[::-1]
    assert listed(shop, job_id=job) == (5, newest)
    assert listed(shop, job_id=job, limit=2) == (5, newest[:2])
    assert listed(shop, job_id=job, limit=2, page=3) == (5, newest[4:])
    assert listed(shop, job_id=job, page=9) == (5, [])
    assert listed(shop, job_id=job, branch="b") == (2, [numbers[3], numbers[1]])
    assert listed(shop, job_id=job, status="passed") == (1, [numbers[1]])
    assert listed(shop, job_id=job, status="running", branch="b") == (1, [numbers[3]])
    third = datetime.fromisoformat(shop.build(numbers[2])["created_at"])
    assert listed(shop, job_id=job, created_after=third.isoformat()) == (3, newest[:3])
    assert listed(shop, job_id=job, created_before=third.isoformat()) == (2, newest[3:])
    assert listed(shop, job_id=job, created_after=(third + timedelta(days=1)).isoformat()) == (0, [])
    fourth = shop.start(job, external=True, commit_sha="C0FFEE1234")
    other = shop.start(external=True)
    assert listed(shop, project_id=shop.project, limit=3)[1] == [other, fourth, newest[0]]
    assert listed(shop, project_id=shop.project, status="passed")[1][0] == numbers[1]
    assert listed(shop, project_id=given_project(shop.server), job_id=job) == (0, [])
    assert listed(shop, job_id=job, commit_sha="c0ffee1") == listed(shop, commit_sha="C0FFEE1234") == (1, [fourth])


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 201},
        {"page": 0},
        {"status": "asleep"},
        {"job_id": "x"},
        {"created_after": "soon"},
        {"commit_sha": "c0ffee"},
    ],
)
def test_parameters_are_checked(shop: Shop, params: dict[str, Any]) -> None:
    assert shop.admin.get("/api/v3/builds", params=params).status_code == 422


def test_there_is_no_such_build(shop: Shop) -> None:
    assert shop.admin.get("/api/v3/builds/9007199254740000").status_code == 404
    assert shop.admin.post("/api/v3/builds/9007199254740000/stop").status_code == 404


def test_an_external_build_is_finished(shop: Shop, build: int) -> None:
    assert shop.build(build).items() >= {"status": "running", "external": True, "commit_sha": "c0ffee"}.items()
    path = f"/api/v3/builds/{build}/finish"
    assert shop.admin.post(path, json={"status": "done"}).status_code == 422
    assert shop.admin.post(path, json={"status": "failed"}).json() == {"id": build, "status": "failed"}
    assert shop.admin.post(path, json={"status": "failed"}).status_code == 200
    assert shop.admin.post(path, json={"status": "passed"}).status_code == 409
    ended = shop.build(build)
    assert (ended["status"], ended["reason"]) == ("failed", "reported")
    assert ended["finished_at"] >= ended["started_at"]


def test_only_external_builds_are_finished_from_outside(shop: Shop) -> None:
    number = shop.start()
    assert shop.admin.post(f"/api/v3/builds/{number}/finish", json={"status": "passed"}).status_code == 409


def test_stop(shop: Shop, build: int) -> None:
    path = f"/api/v3/builds/{build}/stop"
    assert shop.admin.post(path).json() == {"id": build, "status": "aborted"}
    assert shop.build(build)["reason"] == "stopped_by_user"
    assert shop.admin.post(path).status_code == 409


@pytest.fixture
def quiet_shop(server: Server) -> Shop:
    """Nothing is queued in it."""
    return Shop(server)


def test_logs_by_offset(quiet_shop: Shop) -> None:
    shop, agent = quiet_shop, quiet_shop.new_agent()
    number = shop.start()
    build = agent.take_up()
    path = f"/api/v3/builds/{number}/pipeline_logs"
    end = {"next_offset": None, "capped": False}
    assert shop.admin.get(path).json() == {"total_lines": 0, "lines": []} | end
    agent.log(build, 0, [f"line {n}" for n in range(5)]).raise_for_status()
    whole = shop.admin.get(path).json()
    assert whole == {"total_lines": 5, "lines": [f"[10:00:05] line {n}" for n in range(5)]} | end
    assert shop.admin.get(path, params={"offset": 3}).json()["lines"] == whole["lines"][3:]
    part = shop.admin.get(path, params={"offset": 1, "limit": 2}).json()
    assert part == {"total_lines": 5, "lines": whole["lines"][1:3], "next_offset": 3, "capped": False}
    assert shop.admin.get(path, params={"offset": 99}).json() == {"total_lines": 5, "lines": []} | end
    assert shop.admin.get(path, params={"offset": -1}).status_code == 422
    agent.finished(build).raise_for_status()
    assert shop.admin.get(path).json() == whole


def test_a_page_of_a_log_has_a_limit_of_bytes(quiet_shop: Shop) -> None:
    shop, agent = quiet_shop, quiet_shop.new_agent()
    number = shop.start()
    build = agent.take_up()
    lines = [f"{n} {'x' * 64_000}" for n in range(80)]
    for first in range(0, 80, 40):
        agent.log(build, first, lines[first : first + 40]).raise_for_status()
    found: list[str] = []
    pages: int = 0
    offset: int | None = 0
    while offset is not None:
        answer = shop.admin.get(f"/api/v3/builds/{number}/pipeline_logs", params={"offset": offset, "limit": 10_000})
        assert len(answer.content) < 4.2 * 2**20
        page = answer.json()
        found += [line.removeprefix("[10:00:05] ") for line in page["lines"]]
        assert page["capped"] == (page["next_offset"] is not None)
        pages, offset = pages + 1, page["next_offset"]
    assert (found, pages) == (lines, 2)


def test_the_log_of_an_attempt_that_was_lost(quiet_shop: Shop) -> None:
    shop, lost = quiet_shop, quiet_shop.new_agent()
    number = shop.start()
    path = f"/api/v3/builds/{number}/pipeline_logs"
    lost.log(lost.take_up(), 0, ["first"]).raise_for_status()
    lost.disconnect().raise_for_status()
    agent = shop.new_agent()
    build = agent.take_up()
    agent.log(build, 0, ["second"]).raise_for_status()
    assert shop.admin.get(path).json()["lines"] == ["[10:00:05] second"]
    assert shop.admin.get(path, params={"attempt": 1}).json()["lines"] == ["[10:00:05] first"]
    assert shop.admin.get(path, params={"attempt": 2}).json()["lines"] == ["[10:00:05] second"]
    refused = shop.admin.get(path, params={"attempt": 3})
    assert (refused.status_code, refused.json()["detail"]) == (
        404,
        f"Build {number} has no attempt 3; its last one is 2.",
    )
    agent.finished(build).raise_for_status()


def test_a_later_attempt_tests_the_commit_of_the_first(quiet_shop: Shop) -> None:
    build_id, lost = quiet_shop.start(branch="main"), quiet_shop.new_agent()
    build = lost.run()
    assert build["commit_sha"] is None
    lost.started(build, "a" * 40).raise_for_status()
    lost.disconnect().raise_for_status()
    again = quiet_shop.new_agent().run()
    assert (again["id"], again["attempt"], again["commit_sha"]) == (build_id, 2, "a" * 40)


def test_results_of_an_attempt_that_was_lost_count_no_more(quiet_shop: Shop) -> None:
    shop, lost = quiet_shop, quiet_shop.new_agent()
    number = shop.start()
    fails = b'<testsuite name="s"><testcase classname="t" name="a"><failure message="x"/></testcase></testsuite>'
    lost.report(lost.take_up(), fails).raise_for_status()
    case = shop.admin.fetch(f"/tests?build_id={number}")["results"][0]["test_case_id"]
    assert runs_of(shop, case) == (1, 1)
    lost.disconnect().raise_for_status()
    agent = shop.new_agent()
    build = agent.take_up()
    assert (shop.admin.fetch(f"/builds/{number}")["failed"], runs_of(shop, case)) == (0, (0, 0))
    agent.report(build, b'<testsuite name="s"><testcase classname="t" name="a"/></testsuite>').raise_for_status()
    agent.finished(build).raise_for_status()
    assert (shop.admin.fetch(f"/builds/{number}")["status"], runs_of(shop, case)) == ("passed", (1, 0))


def runs_of(shop: Shop, case: int) -> tuple[int, int]:
    """The runs and failures of a test case."""
    shop.server.wait_until_projected()
    with psycopg.connect(shop.server.settings.database_url) as connection:
        query = f"SELECT runs, failures FROM {CaseStatsRow.table} WHERE case_id = %s"
        ((runs, failures),) = connection.execute(query.encode(), (case,)).fetchall()
    return runs, failures


def test_whatever_an_agents_clock_says_its_log_can_be_read(quiet_shop: Shop) -> None:
    shop, agent = quiet_shop, quiet_shop.new_agent()
    number = shop.start()
    build = agent.take_up()
    for offset, at_ms in enumerate((10**18, -1, -(10**18))):
        agent.log(build, offset, ["odd"], at_ms=at_ms).raise_for_status()
    lines = shop.admin.get(f"/api/v3/builds/{number}/pipeline_logs").json()["lines"]
    assert [line[10:] for line in lines] == [" odd"] * 3
    agent.finished(build).raise_for_status()


# ----- reading one's own writes -----


def test_a_write_is_answered_when_it_can_be_read(shop: Shop) -> None:
    for _ in range(10):
        answer = shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "external": True})
        assert int(answer.headers["Testhide-Position"]) > 0
        assert "Testhide-Projected" not in answer.headers
        assert shop.admin.get(f"/api/v3/builds/{answer.json()['id']}").status_code == 200


def test_a_read_waits_for_a_position(shop: Shop) -> None:
    headers = {"Prefer": "respond-async"}
    answer = shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "external": True}, headers=headers)
    position = answer.headers["Testhide-Position"]
    path = f"/api/v3/builds/{answer.json()['id']}"
    assert shop.admin.get(path, headers={"Testhide-Min-Position": position}).status_code == 200
    assert int(shop.admin.get(path).headers["Testhide-Position"]) >= int(position)


def test_a_position_that_is_not_reached(shop: Shop, build: int) -> None:
    began = time.monotonic()
    answer = shop.admin.get(f"/api/v3/builds/{build}", headers={"Testhide-Min-Position": str(FAR)})
    assert (answer.status_code, answer.headers["Testhide-Projected"]) == (200, "false")
    assert time.monotonic() - began < 4
    test_a_write_is_answered_when_it_can_be_read(shop)


def test_positions_after_the_end_of_the_log_keep_no_write_from_waiting(shop: Shop) -> None:
    head = int(shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job}).headers["Testhide-Position"])

    def ask(position: int) -> str | None:
        headers = {**shop.admin.headers, "Testhide-Min-Position": str(position)}
        answer = requests.get(f"{shop.admin.url}/api/v3/me", headers=headers, timeout=30)
        return answer.headers.get("Testhide-Projected")

    with ThreadPoolExecutor() as threads:
        assert "false" in threads.map(ask, range(head + 1, head + 6))
    test_a_write_is_answered_when_it_can_be_read(shop)


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "", "9" * 30])
def test_a_position_is_a_number(shop: Shop, build: int, position: str) -> None:
    answer = shop.admin.get(f"/api/v3/builds/{build}", headers={"Testhide-Min-Position": position})
    assert answer.status_code == 422


@pytest.fixture
def own_server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose processes may be killed."""
    with server_on_new_database(engines, tmp_path_factory.mktemp("own"), "serve", "project") as started:
        yield started


def test_without_a_projector_a_write_says_that_it_cannot_be_read_yet(own_server: Server) -> None:
    shop = Shop(own_server)
    member = own_server.make_user("developer")
    joins = {"email": member.fetch("/me")["email"], "access": "read"}
    member.get(f"/api/v3/projects/{shop.project}").then(404)
    own_server.kill("project")
    shop.admin.max_repeats = member.max_repeats = 0

    def write() -> tuple[int, Any, float]:
        began = time.monotonic()
        answer = shop.admin.post("/api/v3/builds/start", json={"job_id": shop.job, "external": True})
        assert answer.status_code == 201
        return answer.json()["id"], answer.headers.get("Testhide-Projected"), time.monotonic() - began

    first, projected, took = write()
    assert projected == "false"
    assert 1.9 < took < 4
    second, projected, took = write()
    assert projected == "false"
    assert took < 1, "it lags already: nobody waits"
    shop.admin.get(f"/api/v3/builds/{first}").then(503)
    project = f"/api/v3/projects/{shop.project}"
    shop.admin.post(f"{project}/members", json=joins).then(503)
    for path in (project, f"/api/v3/jobs/{shop.job}"):
        member.get(path).then(503)
    own_server.start("project")
    own_server.wait_until_projected()
    member.get(project).then(200)
    own_server.wait_until_projected()
    assert [shop.build(number)["status"] for number in (first, second)] == ["running"] * 2
    _, projected, _ = write()
    assert projected is None


def test_a_stop_reaches_the_agent_of_an_assignment_that_cannot_be_read_yet(own_server: Server) -> None:
    own_server.start("dispatch")
    shop = Shop(own_server)
    agent, number = shop.new_agent(), shop.start()
    own_server.kill("project")
    build = agent.take_up()
    agent.log(build, 0, ["one", "two"]).raise_for_status()
    with ThreadPoolExecutor() as threads, psycopg.connect(own_server.engines.database_url, autocommit=True) as database:
        database.execute(f"LISTEN {POLLS}")
        polling = threads.submit(agent.ask, 0)
        assert next(database.notifies(timeout=10)).payload.split(":")[1] == "0"
        shop.admin.post(f"/api/v3/builds/{number}/stop").raise_for_status()
        message = polling.result().json()
    assert message.items() >= {"type": "stop", "build_id": number, "attempt": 1}.items()
    own_server.start("project")
    own_server.wait_until_projected()
    assert shop.build(number)["log_lines"] == 2, "the log of the attempt that was stopped"


def test_a_signed_in_client_is_a_client(server: Server) -> None:
    assert Client(server.url, *ADMIN).get("/api/v3/builds").status_code == 200
    assert Client(server.url).get("/api/v3/builds").status_code == 401
