"""Time travel over HTTP: what a resource was, who may look, and what can no longer be shown."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from api.http.as_of import resolve_moment
from commands.build_assignment import TakeLeadership
from commands.handler import CommandContext, Handler
from testhide.processes import Core
from tests.support.builders import Shop, given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.server import Server

REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_a" fail_id="f-a"><failure message="boom">trace</failure></testcase>
<testcase classname="t.test_x" name="test_b"/>
</testsuite>"""
NODE_ID = "t/test_x.py::test_a"


@pytest.fixture(name="project", scope="module")
def _project(server: Server) -> int:
    return given_project(server)


def shown(client: Client, path: str, as_of: object = None) -> Any:
    answer = asked(client, path, as_of)
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(client: Client, path: str, as_of: object = None) -> requests.Response:
    return client.get(f"/api/v3{path}", params={} if as_of is None else {"as_of": str(as_of)})


def position(answer: requests.Response) -> int:
    """That a write says it has in the log."""
    assert answer.ok, answer.text
    return int(answer.headers["Testhide-Position"])


def new_node(server: Server) -> int:
    body = {"name": uuid.uuid4().hex, "pool_id": Shop(server).pool}
    answer = server.admin.post("/api/v3/nodes", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_a_build_is_shown_as_it_was(server: Server, job: int) -> None:
    admin = server.admin
    build = given_build(server, job, branch="main")
    before = shown(admin, f"/builds/{build}")
    then = position(admin.post(f"/api/v3/builds/{build}/comment", json={"text": "Look"}))
    commented = shown(admin, f"/builds/{build}")
    after = position(admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}))

    answer = asked(admin, f"/builds/{build}", then)
    assert answer.json() == commented
    assert answer.headers["Testhide-As-Of"] == str(then)
    assert shown(admin, f"/builds/{build}", then - 1) == before
    assert shown(admin, f"/builds/{build}", after) == shown(admin, f"/builds/{build}")
    assert shown(admin, f"/builds/{build}")["status"] == "failed"


def test_before_it_was_there_it_is_not_found(server: Server, job: int) -> None:
    build = given_build(server, job)
    history = shown(server.admin, f"/builds/{build}")
    assert asked(server.admin, f"/builds/{build}", 0).status_code == 404
    earlier = datetime.fromisoformat(history["created_at"]) - timedelta(microseconds=1)
    assert asked(server.admin, f"/builds/{build}", earlier.isoformat()).status_code == 404


def test_a_time_stands_for_the_last_position_until_then(server: Server, job: int) -> None:
    admin = server.admin
    build = given_build(server, job)
    created = datetime.fromisoformat(shown(admin, f"/builds/{build}")["created_at"])
    finished = position(admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}))

    def at(moment: datetime) -> requests.Response:
        return asked(admin, f"/builds/{build}", moment.isoformat())

    now = datetime.now(UTC)
    ended = datetime.fromisoformat(shown(admin, f"/builds/{build}")["finished_at"])
    assert at(created).json()["status"] == "running"
    assert at(ended - timedelta(microseconds=1)).json()["status"] == "running"
    assert at(ended).json()["status"] == "passed"
    assert int(at(ended).headers["Testhide-As-Of"]) >= finished
    assert at(now.astimezone(UTC)).json() == shown(admin, f"/builds/{build}")


async def test_a_time_means_the_same_position_while_the_log_grows(parts: Core) -> None:
    begin = datetime(2026, 5, 20, tzinfo=UTC)
    clock = (begin + timedelta(seconds=second) for second in (0, 10, 4, 6, 20, 15, 30, 40, 50))
    handler = Handler(parts.log, lambda: next(clock))
    seen: dict[int, set[int]] = {second: set() for second in (0, 5, 7, 12, 17)}
    for number in range(1, 10):
        await handler.execute(TakeLeadership(f"{number}"), CommandContext("system:tests"))
        if number >= 7:  # all of these times are over
            for second, positions in seen.items():
                moment = await resolve_moment(parts.log, (begin + timedelta(seconds=second)).isoformat())
                positions.add(moment.position)
    assert seen == {0: {1}, 5: {1}, 7: {4}, 12: {4}, 17: {6}}
    assert (await resolve_moment(parts.log, "2026-05-19T00:00:00Z")).position == 0


def test_the_list_of_builds_is_shown_as_it_was(server: Server, project: int) -> None:
    admin, job = server.admin, given_job(server, project)
    builds = f"/builds?job_id={job}"
    configuration = {"command": "make", "setup": [], "env": {}, "artifacts": []}
    admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    first, second = given_build(server, job, branch="side"), given_build(server, job, external=False)
    queue = shown(admin, f"{builds}&status=queued")
    both = shown(admin, builds)
    then = position(admin.post(f"/api/v3/builds/{second}/comment", json={"text": "x"}))
    position(admin.post(f"/api/v3/builds/{second}/stop"))
    position(admin.post(f"/api/v3/builds/{first}/finish", json={"status": "passed"}))
    third = given_build(server, job)
    ended = shown(admin, builds)
    later = position(admin.post(f"/api/v3/builds/{third}/comment", json={"text": "x"}))
    deleted = position(admin.delete(f"/api/v3/builds/{first}"))

    assert [build["id"] for build in queue["results"]] == [second]
    assert shown(admin, f"{builds}&status=queued", then) == queue | {"erased": []}
    assert shown(admin, f"{builds}&status=passed", then)["total"] == 0
    assert shown(admin, builds, later)["erased"] == [first]
    without_texts = [build | {"branch": "", "commit_sha": None} for build in both["results"] if build["id"] == first]
    assert shown(admin, f"{builds}&status=running", then) == {"total": 1, "results": without_texts, "erased": [first]}
    side = {"total": 0, "results": [], "erased": [], "branch_erased": 1}
    assert shown(admin, f"{builds}&branch=side", then) == side
    assert shown(admin, f"{builds}&branch=side&status=queued", then) == side | {"branch_erased": 0}
    assert asked(admin, f"{builds}&commit_sha=c0ffee1", then).json()["errors"][0]["field"] == "commit_sha"
    page = asked(admin, f"{builds}&limit=2", later)
    assert page.json()["results"] == ended["results"][:2]
    assert page.headers["Testhide-As-Of"] == str(later)
    assert [build["id"] for build in admin.get(page.links["next"]["url"]).json()["results"]] == [first]
    assert shown(admin, f"{builds}&limit=1&page=3", later)["results"][0]["id"] == first
    assert shown(admin, builds, deleted)["total"] == shown(admin, builds)["total"] == 2
    gone = position(admin.delete(f"/api/v3/jobs/{job}"))
    assert shown(admin, builds, gone - 1)["total"] > 0 == shown(admin, builds, gone)["total"]


def test_a_projects_admin_lists_the_builds_of_its_past_only(server: Server, project: int, job: int) -> None:
    other = given_job(server, given_project(server))
    given_build(server, other)
    build = given_build(server, job)
    then = position(server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "x"}))
    for access, status in (("admin", 200), ("write", 403), (None, 403)):
        user = server.make_user("developer", {project: access} if access else {})  # type: ignore[dict-item]
        assert asked(user, "/builds", then).status_code == status
    user = server.make_user("developer", {project: "admin"})
    assert {item["project_id"] for item in shown(user, "/builds", then)["results"]} == {project}
    assert shown(user, f"/builds?job_id={other}", then)["total"] == 0


def test_tests_of_a_build_are_shown_with_what_was_said_of_them_then(server: Server, project: int, job: int) -> None:
    admin = server.admin
    build = given_build(server, job)
    upload(admin, build, REPORT)
    tests = f"/tests?build_id={build}"
    reported = shown(admin, tests)
    report = shown(admin, f"/report/{build}")
    failed = next(item["id"] for item in reported["results"] if item["status"] == "failed")
    issue = {"project_id": project, "title": "Known", "classification": "infra", "fail_id": "f", "defect_key": "A-1"}
    known = admin.post("/api/v3/known-issues", json=issue).json()["id"]
    body = {"known_issue_id": known}
    linked = position(admin.post(f"/api/v3/tests/{failed}/known-issue", json=body))
    as_linked = shown(admin, tests)
    report_linked = shown(admin, f"/report/{build}")
    entry = {"job_id": job, "node_id": NODE_ID, "reason": "flaky"}
    held = position(admin.post("/api/v3/quarantine", json=entry))
    as_held = shown(admin, tests)
    renamed = position(admin.put(f"/api/v3/known-issues/{known}", json={"defect_key": "A-2"}))
    body = {"classification": "product_bug"}
    classified = position(admin.post(f"/api/v3/tests/{failed}/classification", json=body))

    assert as_linked != reported != shown(admin, tests)
    assert as_held["results"][0]["quarantined_now"]
    assert shown(admin, f"{tests}&as_of={linked}") == as_linked
    assert shown(admin, f"{tests}&as_of={held}") == as_held
    assert shown(admin, f"{tests}&as_of={renamed}")["results"][0]["defect_key"] == "A-2"
    assert shown(admin, f"{tests}&as_of={classified}") == shown(admin, tests)
    assert shown(admin, f"{tests}&status=passed&as_of={held}")["total"] == 1
    assert shown(admin, f"/report/{build}", linked) == report_linked == report
    assert shown(admin, f"/report/{build}") == report


def test_a_job_is_shown_with_the_build_that_was_its_newest(server: Server, project: int) -> None:
    admin = server.admin
    job = given_job(server, project)
    first, second = given_build(server, job), given_build(server, job)
    both = shown(admin, f"/jobs/{job}")
    for build in (first, second):
        admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"})
    ended = position(admin.delete(f"/api/v3/builds/{second}"))
    configuration = {"command": "make", "setup": [], "env": {"A": "1"}, "artifacts": [], "secrets": {"KEY": "v"}}
    configured = position(admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration))
    now = shown(admin, f"/jobs/{job}/configuration")
    position(admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration | {"command": "ninja"}))

    assert both["last_build_id"] == second
    assert shown(admin, f"/jobs/{job}", ended - 3) == both
    assert shown(admin, f"/jobs/{job}", ended)["last_build_id"] == first
    assert shown(admin, f"/jobs/{job}/configuration", configured) == now
    assert shown(admin, f"/jobs/{job}/configuration", configured - 1)["updated_at"] is None


def test_a_node_is_shown_without_gauges(server: Server) -> None:
    node = new_node(server)
    then = position(server.admin.post(f"/api/v3/nodes/{node}/quarantine"))
    live = shown(server.admin, f"/nodes/{node}")
    server.admin.delete(f"/api/v3/nodes/{node}/quarantine")
    past = shown(server.admin, f"/nodes/{node}", then)
    assert past == live | {"cpu_pct": None, "uptime_s": None}
    assert past["status"] == "quarantined"


def test_permissions_of_a_user(server: Server, project: int) -> None:
    user = server.make_user("developer", {project: "write"})
    me = user.get("/api/v3/me").json()
    path = f"/users/{me['id']}/permissions"
    live = shown(server.admin, path)
    assert live == me["permissions"] | {"user_id": me["id"]}
    assert shown(user, path) == live
    assert shown(server.admin, path, position(server.admin.post("/api/v3/projects", json={"name": "Later"}))) == live
    mine = server.admin.get("/api/v3/me").json()
    assert shown(server.admin, f"/users/{mine['id']}/permissions") == mine["permissions"] | {"user_id": mine["id"]}
    assert asked(user, f"/users/{mine['id']}/permissions").status_code == 403
    assert asked(server.admin, "/users/999999/permissions").status_code == 404


def test_permissions_of_a_deleted_user_stay_readable(server: Server, project: int) -> None:
    user = server.make_user("developer", {project: "write"}).get("/api/v3/me").json()
    path = f"/users/{user['id']}/permissions"
    live = shown(server.admin, path)
    deleted = position(server.admin.delete(f"/api/v3/users/{user['id']}"))
    assert shown(server.admin, path, deleted - 1) == live
    assert asked(server.admin, path, deleted).status_code == 404


def test_looking_back_needs_an_admin_of_the_project(server: Server, project: int, job: int) -> None:
    build = given_build(server, job)
    then = position(server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "x"}))
    node = new_node(server)
    for access, status in (("admin", 200), ("write", 403), (None, 404)):
        user = server.make_user("developer", {project: access} if access else {})  # type: ignore[dict-item]
        for path in (f"/builds/{build}", f"/report/{build}", f"/tests?build_id={build}", f"/jobs/{job}"):
            assert asked(user, path, then).status_code == status, path
        assert asked(user, f"/nodes/{node}", then).status_code == 403
    position_ahead = asked(server.make_user("developer"), "/builds/999999999", then)
    assert position_ahead.status_code == 404


def test_what_was_erased_since_is_gone(server: Server, project: int) -> None:
    admin = server.admin
    job = given_job(server, project)
    build = given_build(server, job)
    upload(admin, build, REPORT)
    then = position(admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}))
    assert asked(admin, f"/builds/{build}", then).status_code == 200
    gone = position(admin.delete(f"/api/v3/builds/{build}"))
    for path in (f"/builds/{build}", f"/report/{build}", f"/tests?build_id={build}"):
        answer = asked(admin, path, then)
        assert (answer.status_code, answer.json()["title"]) == (410, "Erased"), path
        assert f"build {build} was at position {then}" in answer.json()["detail"]
        assert asked(admin, path, gone).status_code == 404
        assert asked(admin, path, 0).status_code == 404


def test_past_builds_of_a_user_who_was_deleted_since(server: Server, project: int, job: int) -> None:
    admin, user = server.admin, server.make_user("developer", {project: "write"})
    build = given_build(server, job)
    upload(admin, build, REPORT)
    tests = f"/tests?build_id={build}&status=failed"
    failed = shown(admin, tests)["results"][0]["id"]
    user.post(f"/api/v3/builds/{build}/comment", json={"text": "Look"})
    then = position(user.post(f"/api/v3/tests/{failed}/classification", json={"classification": "flaky"}))
    user_id = user.get("/api/v3/me").json()["id"]
    assert admin.delete(f"/api/v3/users/{user_id}").status_code == 204
    assert shown(admin, f"/builds/{build}", then)["comments"][0]["author"] == "deleted user"
    (result,) = shown(admin, tests, then)["results"]
    assert (result["classification"], result["set_by"]) == ("flaky", "deleted user")


@pytest.mark.parametrize(
    ("as_of", "says"),
    [
        ("yesterday", "must be a position"),
        ("-1", "must be a position"),
        ("2026-05-20T14:00:00", "with its offset"),
        ("999999999999", "beyond the newest position"),
        ("2999-01-01T00:00:00Z", "in the future"),
        ("", "must be a position"),
    ],
)
def test_a_moment_that_is_none_is_refused(server: Server, job: int, as_of: str, says: str) -> None:
    answer = server.admin.get(f"/api/v3/jobs/{job}", params={"as_of": as_of})
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"]


def test_where_the_past_is_not_shown_it_is_not_mistaken_for_today(server: Server, job: int) -> None:
    admin = server.admin
    for answer in (
        admin.get("/api/v3/jobs?as_of=1"),
        admin.put(f"/api/v3/jobs/{job}?as_of=1", json={"name": "x"}),
        admin.delete(f"/api/v3/jobs/{job}?as_of=1"),
    ):
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == "as_of"
    assert shown(admin, f"/jobs/{job}")["name"] == "Smoke"
