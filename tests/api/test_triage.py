"""What people say of failed results, over HTTP."""

from typing import Any

import pytest

from tests.support.builders import Shop, given_build, given_project, upload
from tests.support.server import ADMIN, Server

REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_a" fail_id="f-a"><failure message="boom">trace</failure></testcase>
<testcase classname="t.test_x" name="test_b"><failure message="bang">trace</failure></testcase>
<testcase classname="t.test_x" name="test_c"/>
</testsuite>"""
DEFECT = {"defect_key": "AUTH-421", "defect_url": "https://jira.example.com/browse/AUTH-421"}
BODIES: dict[str, dict[str, Any]] = {
    "classification": {"classification": "product_bug"},
    "defect": DEFECT,
    "resolution": {"resolution": "Fixed in PR #847 \u2014 token expiry."},
    "known-issue": {"known_issue_id": 1},
}


@pytest.fixture(name="project", scope="module")
def _project(server: Server) -> int:
    return given_project(server)


@pytest.fixture(name="build")
def _build(server: Server, job: int) -> int:
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    return build


def results_of(server: Server, build: int, **more: Any) -> list[dict[str, Any]]:
    answer = server.admin.get("/api/v3/tests", params={"build_id": build, **more})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    assert answer.json()["total"] == len(found)
    return found


def triage(client: Any, result: dict[str, Any] | int, what: str, **body: Any) -> Any:
    test_id = result if isinstance(result, int) else result["id"]
    return client.post(f"/api/v3/tests/{test_id}/{what}", json=body or BODIES[what])


def new_issue(server: Server, project: int, **more: Any) -> int:
    body = {"project_id": project, "title": "Known", "classification": "infra", **more}
    answer = server.admin.post("/api/v3/known-issues", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_classification(server: Server, project: int, build: int) -> None:
    failed = results_of(server, build)[0]
    assert (failed["classification"], failed["classified_by"], failed["set_by"]) == (None, None, None)
    answer = triage(server.admin, failed, "classification", classification="flaky")
    assert answer.status_code == 200
    assert answer.json() == {"test_id": failed["id"], "classification": "flaky", "set_by": ADMIN[0]}
    other = server.make_user("developer", {project: "write"})
    email = triage(other, failed, "classification", classification="infra").json()["set_by"]
    for shown in (
        results_of(server, build)[0],
        server.admin.get(f"/api/v3/tests/{failed['id']}").json(),
        server.admin.get(f"/api/v3/tests/{failed['id']}/history").json()["history"][0],
    ):
        classified = (shown["classification"], shown["classified_by"], shown["set_by"])
        assert classified == ("infra", "user", email)


def test_defects_and_resolutions(server: Server, build: int) -> None:
    failed = results_of(server, build)[0]
    assert triage(server.admin, failed, "defect").json() == {"test_id": failed["id"], **DEFECT}
    answer = triage(server.admin, failed, "resolution")
    assert answer.json() == {"test_id": failed["id"], **BODIES["resolution"], "set_by": ADMIN[0]}
    shown = server.admin.get(f"/api/v3/tests/{failed['id']}").json()
    assert shown.items() >= (DEFECT | BODIES["resolution"] | {"resolution_by": ADMIN[0], "message": "boom"}).items()
    assert shown["classification"] is None


def test_the_list_is_filtered_by_classification(server: Server, project: int, job: int) -> None:
    issue = new_issue(server, project, pattern="b(oo|an).*")
    build = given_build(server, job)
    upload(server.admin, build, REPORT)
    first, second, passed = results_of(server, build)
    assert (first["classification"], first["classified_by"], first["known_issue_id"]) == ("infra", "rule", issue)
    assert passed["classification"] is None
    counted = server.admin.fetch(f"/report/{build}")
    assert (counted["failed"], counted["known_issues"]) == (2, 0)
    assert counted["classified_by_rules"] == sum(result["classified_by"] == "rule" for result in (first, second)) >= 1
    shown = server.admin.fetch(f"/builds/{build}")
    assert (shown["failed"], shown["known_issues"], shown["classified_by_rules"]) == (2, 0, 2)
    then = triage(server.admin, second, "classification", classification="flaky").headers["Testhide-Position"]
    assert server.admin.fetch(f"/builds/{build}")["classified_by_rules"] == 1, "what a person says counts instead"
    before = server.admin.get(f"/api/v3/builds/{build}", params={"as_of": str(int(then) - 1)}).then(200)
    assert before["classified_by_rules"] == 2
    triage(server.admin, second, "classification", classification="test_bug")
    assert [item["id"] for item in results_of(server, build, classification="infra")] == [first["id"]]
    assert [item["id"] for item in results_of(server, build, classification="test_bug")] == [second["id"]]
    assert results_of(server, build, classification="flaky") == []
    assert server.admin.get(f"/api/v3/tests?build_id={build}&classification=x").status_code == 422
    server.admin.delete(f"/api/v3/known-issues/{issue}")


def test_a_linked_known_issue_classifies_what_fails_alike(server: Server, project: int, job: int, build: int) -> None:
    issue = new_issue(server, project, signature="0" * 16, **DEFECT)
    first, second, _ = results_of(server, build)
    answer = triage(server.admin, first, "known-issue", known_issue_id=issue)
    assert answer.json() == {"test_id": first["id"], "known_issue_id": issue, "auto_classify_future": True}
    assert triage(server.admin, first, "known-issue", known_issue_id=issue).status_code == 200
    linked = results_of(server, build)[0]
    assert (
        linked.items()
        >= ({"classification": "infra", "classified_by": "user", "known_issue_id": issue} | DEFECT).items()
    )
    assert linked["set_by"] == ADMIN[0]
    assert server.admin.fetch(f"/report/{build}")["classified_by_rules"] == 0
    other = new_issue(server, project, signature="1" * 16, classification="test_bug")
    triage(server.admin, first, "known-issue", known_issue_id=other)
    assert results_of(server, build)[0]["classification"] == "test_bug", "of the issue that was linked last"
    triage(server.admin, first, "known-issue", known_issue_id=issue)
    server.admin.delete(f"/api/v3/known-issues/{other}")
    triage(server.admin, second, "known-issue", known_issue_id=issue)
    later = given_build(server, job)
    upload(server.admin, later, REPORT)
    by_fail_id, by_signature, passed = results_of(server, later)
    for alike in (by_fail_id, by_signature):
        assert (alike["classification"], alike["known_issue_id"]) == ("infra", issue)
    assert (passed["classification"], passed["known_issue_id"]) == (None, None)
    assert server.admin.get(f"/api/v3/report/{later}").json()["failed"] == 2
    server.admin.delete(f"/api/v3/known-issues/{issue}")


def test_a_known_issue_of_another_project(server: Server, build: int) -> None:
    foreign = new_issue(server, given_project(server), pattern="x")
    for unknown in (foreign, 2**52):
        answer = triage(server.admin, results_of(server, build)[0], "known-issue", known_issue_id=unknown)
        assert (answer.status_code, str(unknown) in answer.json()["detail"]) == (404, True)


@pytest.mark.parametrize("what", BODIES)
def test_only_failures(server: Server, build: int, what: str) -> None:
    answer = triage(server.admin, results_of(server, build, status="passed")[0], what)
    assert (answer.status_code, "is passed; only a failed one" in answer.json()["detail"]) == (409, True)


@pytest.mark.parametrize("what", BODIES)
def test_who_may(server: Server, project: int, build: int, what: str) -> None:
    failed = results_of(server, build)[0]
    assert triage(server.make_user("developer", {}), failed, what).status_code == 404
    assert triage(server.make_user("developer", {project: "read"}), failed, what).status_code == 403
    assert triage(server.admin, 2**52, what).status_code == 404


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("classification", {"classification": "bad"}),
        ("classification", {"classification": None}),
        ("defect", {**DEFECT, "defect_url": "javascript:alert(1)"}),
        ("defect", {**DEFECT, "defect_url": "https://x y"}),
        ("defect", {**DEFECT, "defect_key": ""}),
        ("defect", {**DEFECT, "defect_key": "a\nb"}),
        ("resolution", {"resolution": " "}),
        ("resolution", {"resolution": "x" * 10_001}),
        ("known-issue", {"known_issue_id": "1"}),
    ],
)
def test_bodies_are_checked(server: Server, build: int, what: str, body: dict[str, Any]) -> None:
    answer = triage(server.admin, results_of(server, build)[0], what, **body)
    assert answer.status_code == 422, answer.text


def test_what_is_said_of_a_build_goes_with_it(server: Server, build: int) -> None:
    failed = results_of(server, build)[0]
    triage(server.admin, failed, "resolution")
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"})
    answer = server.admin.delete(f"/api/v3/builds/{build}")
    assert answer.status_code == 204, answer.text
    assert server.admin.get(f"/api/v3/tests/{failed['id']}").status_code == 404
    assert triage(server.admin, failed, "resolution").status_code == 404


def test_what_runs_again(server: Server) -> None:
    """The failed tests, or those that are known for it: retried in one report, called flaky, or flaky before."""
    shop = Shop(server)
    agent = shop.new_agent()

    def ran(*cases: tuple[str, str]) -> int:
        build = agent.take_up()
        inside = {"failed": "<failure message='boom'/>", "passed": ""}
        elements = "".join(f'<testcase classname="t.test_x" name="{n}">{inside[s]}</testcase>' for n, s in cases)
        agent.report(build, f'<testsuite name="s">{elements}</testsuite>'.encode()).raise_for_status()
        agent.finished(build, exit_code=1).raise_for_status()
        return int(build["id"])

    def again(build: int, what: str, **body: Any) -> list[str]:
        answer = server.admin.post(f"/api/v3/builds/{build}/{what}", json=body)
        assert answer.status_code in (200, 201), answer.text
        taken = agent.take_up()
        agent.finished(taken, exit_code=0).raise_for_status()
        return [node_id.rpartition("::")[2] for node_id in taken["test_ids"]]

    shop.start()
    ran(("test_waved", "failed"), ("test_waved", "passed"))
    shop.start()
    build = ran(
        ("test_steady", "passed"),
        ("test_waved", "failed"),
        ("test_broken", "failed"),
        ("test_called", "failed"),
        ("test_retried", "failed"),
        ("test_retried", "passed"),
    )
    called = next(item for item in results_of(server, build) if item["node_id"].endswith("test_called"))
    triage(server.admin, called, "classification", classification="flaky")
    assert again(build, "restart", failed_only=True) == ["test_waved", "test_broken", "test_called"]
    assert again(build, "retry-flaky") == ["test_waved", "test_called", "test_retried"]
