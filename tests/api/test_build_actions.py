"""What people do with builds that exist, over HTTP: run them again, move, keep, comment on and delete them."""

from typing import Any

import pytest

from tests.support.builders import REPOSITORY, Shop, upload
from tests.support.http import Client

REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_good"/>
<testcase classname="t.test_x" name="test_bad"><failure message="boom"/></testcase>
<testcase classname="t.test_x" name="test_worse[\xc3\xa4]"><error message="bang"/></testcase>
<testcase classname="t.test_x" name="test_wavers"><failure message="once"/></testcase>
<testcase classname="t.test_x" name="test_wavers"/>
</testsuite>"""
PASSED = b'<testsuite name="s"><testcase classname="t.test_x" name="test_bad"/></testsuite>'
BAD = ["t/test_x.py::test_bad", "t/test_x.py::test_worse[ä]"]
WAVERS = "t/test_x.py::test_wavers"

ACTIONS = [
    ("POST", "/restart"),
    ("POST", "/retry-flaky"),
    ("POST", "/push_to_top"),
    ("POST", "/keep-forever"),
    ("DELETE", "/keep-forever"),
    ("POST", "/comment"),
    ("DELETE", ""),
]


@pytest.fixture(scope="module")
def quiet_job(shop: Shop) -> int:
    """Its builds wait: no machine has what they need."""
    return shop.new_job(required_tags=["none-such"])


def call_action(client: Client, build: int, method: str, action: str) -> Any:
    body = {"text": "Flaky"} if action == "/comment" else None
    return client.request(method, f"/api/v3/builds/{build}{action}", json=body)


def does(shop: Shop, build: int, action: str, **body: Any) -> dict[str, Any]:
    answer = shop.admin.post(f"/api/v3/builds/{build}/{action}", json=body or None)
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["detail"]


def ran(shop: Shop, job: int | None = None, *, report: bytes | None = REPORT, **fields: Any) -> int:
    """An external build that has ended."""
    build = shop.start(job, external=True, **fields)
    if report is not None:
        assert upload(shop.admin, build, report).status_code == 201
    shop.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    return build


# ----- who may, and when -----


@pytest.mark.parametrize(("method", "action"), ACTIONS)
def test_who_may(shop: Shop, method: str, action: str) -> None:
    build = shop.start(external=True)
    viewer = shop.server.make_user("viewer", {shop.project: "admin"})
    reader = shop.server.make_user("developer", {shop.project: "read"})
    assert [call_action(client, build, method, action).status_code for client in (viewer, reader)] == [403, 403]
    stranger = shop.server.make_user("developer")
    assert refused(call_action(stranger, build, method, action)) == (404, f"There is no build {build}.")
    assert call_action(shop.admin, 2**52, method, action).status_code == 404
    assert call_action(shop.server.client(), build, method, action).status_code == 401


def test_a_writer_may_all_but_delete(shop: Shop) -> None:
    build = ran(shop)
    writer = shop.server.make_user("developer", {shop.project: "write"})
    for method, action in ACTIONS[:2] + ACTIONS[3:6]:
        assert call_action(writer, build, method, action).ok, action
    assert call_action(writer, build, "DELETE", "").status_code == 403
    owner = shop.server.make_user("developer", {shop.project: "admin"})
    assert call_action(owner, build, "DELETE", "").status_code == 204


def test_the_state_forbids(shop: Shop, quiet_job: int) -> None:
    queued, running, ended = shop.start(quiet_job), shop.start(external=True), ran(shop, report=None)
    for action in ("/restart", "/retry-flaky"):
        assert refused(call_action(shop.admin, queued, "POST", action)) == (
            409,
            f"Build {queued} is queued; only a finished one can be restarted.",
        )
        assert "is running" in refused(call_action(shop.admin, running, "POST", action))[1]
    for build, state in ((running, "running"), (ended, "failed")):
        status, detail = refused(call_action(shop.admin, build, "POST", "/push_to_top"))
        assert (status, state in detail) == (409, True)
    for build, state in ((queued, "queued"), (running, "running")):
        assert refused(call_action(shop.admin, build, "DELETE", "")) == (
            409,
            f"Build {build} is {state}; stop it first.",
        )
    status, detail = refused(call_action(shop.admin, ended, "POST", "/retry-flaky"))
    assert (status, "has no flaky tests" in detail) == (409, True)
    failed_only = shop.admin.post(f"/api/v3/builds/{ended}/restart", json={"failed_only": True})
    assert (failed_only.status_code, "has no failed tests" in failed_only.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("restart", {"failed_only": "yes"}),
        ("restart", []),
        ("comment", {}),
        ("comment", {"text": ""}),
        ("comment", {"text": " \n"}),
        ("comment", {"text": "x" * 10_001}),
        ("comment", {"text": "a\0b"}),
    ],
)
def test_fields_are_checked(shop: Shop, action: str, body: Any) -> None:
    build = ran(shop, report=None)
    assert shop.admin.post(f"/api/v3/builds/{build}/{action}", json=body).status_code == 422
    assert shop.build(build)["comments"] == []


# ----- run again -----


def test_restart(shop: Shop, quiet_job: int) -> None:
    first = shop.start(quiet_job, branch="dev", env={"A": "1"}, secrets={"KEY": "hidden"}, priority=7)
    shop.admin.post(f"/api/v3/builds/{first}/stop").raise_for_status()
    answer = shop.admin.post(f"/api/v3/builds/{first}/restart")
    assert answer.status_code == 201
    again = answer.json()
    assert again.items() >= {"status": "queued", "restarted_from": first}.items()
    shown = shop.build(again["id"])
    expected = {"branch": "dev", "priority": 7, "restarted_from": first, "selected_tests": None, "job_id": quiet_job}
    assert shown.items() >= expected.items()
    assert shown["configuration"].items() >= {"env": {"A": "1"}, "secrets": ["KEY"]}.items()
    assert shop.build(first)["status"] == "aborted"


def test_an_external_build_runs_here_the_second_time(shop: Shop) -> None:
    shop_here = Shop(shop.server)
    first = ran(shop_here, shop_here.new_job(repository=REPOSITORY), branch="dev", commit_sha="c0ffee")
    agent = shop_here.new_agent()
    assert does(shop_here, first, "restart")["restarted_from"] == first
    build = agent.take_up()
    assert build["test_ids"] is None
    assert (build["command"], build["commit_sha"], build["branch"]) == ("pytest", "c0ffee", "dev")
    agent.finished(build).raise_for_status()
    assert shop_here.build(build["id"]).items() >= {"external": False, "status": "passed"}.items()


def test_an_external_build_of_a_job_without_a_command_does_not(shop: Shop) -> None:
    job = shop.admin.post("/api/v3/jobs", json={"name": "Bare", "project_id": shop.project}).json()["id"]
    status, detail = refused(call_action(shop.admin, ran(shop, job), "POST", "/restart"))
    assert (status, f"Job {job} has no command" in detail) == (409, True)


def test_only_what_failed(shop: Shop) -> None:
    shop_here = Shop(shop.server)
    first = ran(shop_here)
    agent = shop_here.new_agent()
    again = does(shop_here, first, "restart", failed_only=True)
    build = agent.take_up()
    assert (build["id"], build["test_ids"]) == (again["id"], BAD)
    assert shop_here.build(build["id"])["selected_tests"] == 2
    job = build["job_id"]
    (listed,) = shop_here.admin.get("/api/v3/builds", params={"job_id": job, "limit": 1}).json()["results"]
    assert (listed["id"], listed["selected_tests"], listed["restarted_from"]) == (build["id"], 2, first)
    shown = shop_here.admin.get(f"/api/v3/jobs/{job}").json()
    assert (shown["last_build_id"], shown["last_full_build_id"]) == (build["id"], first)
    assert (shown["last_build_status"], shown["last_full_build_status"]) == (
        "running",
        shop_here.build(first)["status"],
    )
    agent.report(build, REPORT).raise_for_status()
    agent.finished(build, exit_code=1).raise_for_status()
    assert does(shop_here, build["id"], "restart", failed_only=False)["restarted_from"] == build["id"]
    whole = agent.take_up()
    assert whole["test_ids"] is None, "the restart of a selection runs all tests"
    agent.finished(whole).raise_for_status()


def test_only_what_is_flaky(shop: Shop) -> None:
    shop_here = Shop(shop.server)
    first = ran(shop_here)
    agent = shop_here.new_agent()
    again = does(shop_here, first, "retry-flaky")
    assert again.items() >= {"status": "queued", "restarted_from": first, "test_count": 1}.items()
    build = agent.take_up()
    assert build["test_ids"] == [WAVERS]
    agent.finished(build).raise_for_status()


def test_a_retry_of_flaky_tests_mends_no_others(shop: Shop) -> None:
    """They still fail, although they pass in another job."""
    shop_here = Shop(shop.server)
    first = ran(shop_here)
    agent = shop_here.new_agent()
    does(shop_here, first, "retry-flaky")
    retry = agent.take_up()
    agent.report(retry, PASSED.replace(b"test_bad", b"test_wavers")).raise_for_status()
    agent.finished(retry).raise_for_status()
    ran(shop_here, shop_here.new_job(), report=PASSED)
    shop.server.wait_until_projected()
    failing = shop_here.admin.fetch("/test-cases", project_id=shop_here.project, only="failing")["results"]
    assert [test["node_id"] for test in failing] == BAD


def test_a_failure_that_is_called_flaky_is_retried(shop: Shop) -> None:
    build = ran(shop)
    params: dict[str, Any] = {"build_id": build, "status": "failed"}
    found = shop.admin.get("/api/v3/tests", params=params).json()["results"]
    classify = f"/api/v3/tests/{found[0]['id']}/classification"
    shop.admin.post(classify, json={"classification": "flaky"}).raise_for_status()
    assert does(shop, build, "retry-flaky")["test_count"] == 2


# ----- the queue -----


def test_push_to_top(shop: Shop) -> None:
    shop_here = Shop(shop.server)
    waiting = [shop_here.start(priority=priority) for priority in (9, 5, 1)]
    for build in (waiting[2], waiting[1]):
        assert does(shop_here, build, "push_to_top") == {"id": build, "queue_position": 1}
    agent = shop_here.new_agent()
    order = []
    for _ in waiting:
        taken = agent.take_up()
        order.append(taken["id"])
        agent.finished(taken).raise_for_status()
    assert order == [waiting[1], waiting[2], waiting[0]]


def test_what_a_queued_build_waits_for(shop: Shop) -> None:
    shop_here = Shop(shop.server)
    build = shop_here.start()
    assert waiting_reason(shop_here, build, "no node") == f"There is no node in node pool {shop_here.pool}."
    agent = shop_here.new_agent()
    held = agent.run()
    assert (held["id"], shop_here.build(build)["status"]) == (build, "queued")
    assert waiting_reason(shop_here, build, None) is None, "a node has it already"
    agent.started(held).raise_for_status()
    second = shop_here.start()
    assert (
        waiting_reason(shop_here, second, "busy")
        == "All nodes that it may use are busy, or their pool is at its limit."
    )
    agent.finished(held).raise_for_status()
    agent.finished(agent.take_up()).raise_for_status()
    assert shop_here.build(second)["waiting_for"] is None


def waiting_reason(shop: Shop, build: int, part: str | None) -> str | None:
    """Returns what the build waits for, once the dispatcher, which looks every second, says this of it."""
    for _ in range(1_000):
        reason: str | None = shop.build(build)["waiting_for"]
        if reason == part or (reason and part and part in reason):
            return reason
    raise AssertionError(f"nothing with {part!r} is said")


# ----- keep, comment -----


def test_keep_for_ever(shop: Shop) -> None:
    build = ran(shop)
    artifact = shop.admin.get("/api/v3/artifacts", params={"build_id": build}).json()[0]["id"]
    for _ in range(2):
        assert does(shop, build, "keep-forever") == {"id": build, "keep_forever": True}
    assert shop.build(build)["keep_forever"] is True
    for path in (f"builds/{build}", f"artifacts/{artifact}"):
        status, detail = refused(shop.admin.delete(f"/api/v3/{path}"))
        assert (status, f"DELETE /api/v3/builds/{build}/keep-forever" in detail) == (409, True)
    answer = shop.admin.delete(f"/api/v3/builds/{build}/keep-forever")
    assert (answer.status_code, answer.json()) == (200, {"id": build, "keep_forever": False})
    assert shop.admin.delete(f"/api/v3/artifacts/{artifact}").status_code == 204
    assert shop.admin.get("/api/v3/artifacts", params={"build_id": build}).json() == []
    for method, path in (
        ("GET", f"/api/v3/artifacts/{artifact}/download"),
        ("DELETE", f"/api/v3/artifacts/{artifact}"),
    ):
        assert shop.admin.request(method, path).status_code == 404
    assert shop.admin.delete(f"/api/v3/builds/{build}").status_code == 204


def test_who_may_delete_artifacts(shop: Shop) -> None:
    build = ran(shop)
    url = f"/api/v3/artifacts/{shop.admin.get('/api/v3/artifacts', params={'build_id': build}).json()[0]['id']}"
    reader = shop.server.make_user("developer", {shop.project: "read"})
    assert reader.delete(url).status_code == 403
    assert shop.server.make_user("developer").delete(url).status_code == 404
    assert shop.server.make_user("developer", {shop.project: "write"}).delete(url).status_code == 204


def test_comments(shop: Shop) -> None:
    build = shop.start(external=True)
    writer = shop.server.make_user("developer", {shop.project: "write"})
    answer = writer.post(f"/api/v3/builds/{build}/comment", json={"text": "Flaky DB — läuft 🙂"})
    assert answer.status_code == 201
    me = writer.get("/api/v3/me").json()
    assert answer.json().items() >= {"build_id": build, "text": "Flaky DB — läuft 🙂", "author": me["email"]}.items()
    second = does(shop, build, "comment", text="Yes")
    assert shop.build(build)["comments"] == [answer.json(), second]
    assert isinstance(second["id"], int)


# ----- retention of a project -----


def test_retention_is_set_by_project_admins(shop: Shop) -> None:
    url = f"/api/v3/projects/{shop.project}"
    writer = shop.server.make_user("developer", {shop.project: "write"})
    assert writer.put(url, json={"retention_days": 1}).status_code == 403
    for body in ({"retention_days": -1}, {"retention_builds": "x"}, {"retention_days": 36_501}):
        assert shop.admin.put(url, json=body).status_code == 422
    shown = shop.admin.put(url, json={"retention_days": 900, "retention_builds": 1_000}).json()
    assert (shown["retention_days"], shown["retention_builds"]) == (900, 1_000)
    assert shop.admin.put(url, json={"retention_days": 0}).json()["retention_builds"] == 1_000
