"""Classification rules over HTTP, and the failures that they classify."""

from typing import Any

import pytest

from domain.classification_rules import MAX_RULES
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.server import Server

RULES = [
    {"title": "Network", "classification": "infra", "pattern": "connection (reset|refused)"},
    {"title": "Time-outs", "classification": "flaky", "pattern": "timed out|connection"},
]
MESSAGES = {
    "test_a": "OSError: connection refused by 10.0.0.1",
    "test_b": "größer: the request timed out after 30 s",
    "test_c": "AssertionError: 1 == 2",
}


def set_rules(server: Server, project: int, rules: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    body = {"rules": rules, **more}
    found: dict[str, Any] = server.admin.when("PUT", f"/projects/{project}/classification-rules", json=body).then(200)
    return found


def given_failures(server: Server, project: int) -> dict[str, dict[str, Any]]:
    """Records a report with a failure for each of MESSAGES. Returns the results by the names of the tests."""
    build = given_build(server, given_job(server, project))
    cases = "".join(
        f'<testcase classname="t" name="{name}"><failure message="{message}">trace of {name}</failure></testcase>'
        for name, message in MESSAGES.items()
    )
    upload(server.admin, build, f'<testsuite name="t">{cases}</testsuite>'.encode()).then(201)
    server.wait_until_projected()
    found = server.admin.fetch(f"/tests?build_id={build}")["results"]
    return {item["node_id"].rpartition("::")[2].rpartition(".")[2]: item for item in found}


def test_each_change_makes_a_version(server: Server, project: int) -> None:
    path = f"/projects/{project}/classification-rules"
    assert server.admin.fetch(path) == {"project_id": project, "version": 0, "rules": [], "set_at": None}
    first = set_rules(server, project, RULES)
    assert (first["version"], first["rules"]) == (1, RULES)
    assert set_rules(server, project, RULES) == first == server.admin.fetch(path)
    second = set_rules(server, project, RULES[::-1], version=1)
    assert (second["version"], second["rules"]) == (2, RULES[::-1])
    stale = server.admin.when("PUT", path, json={"rules": [], "version": 1}).then(409)
    assert "version 2 by now" in stale["detail"]
    assert set_rules(server, project, [])["version"] == 3


def test_the_first_rule_that_matches_says_why(server: Server) -> None:
    project = given_project(server)
    set_rules(server, project, RULES[:1])
    set_rules(server, project, RULES)
    failures = given_failures(server, project)
    given_by = {name: (item["classification"], item["classified_by"]) for name, item in failures.items()}
    assert given_by == {"test_a": ("infra", "rule"), "test_b": ("flaky", "rule"), "test_c": (None, None)}
    assert {item["known_issue_id"] for item in failures.values()} == {None}
    matched = server.admin.fetch(f"/tests/{failures['test_b']['id']}")["matched"]
    start = len("größer: the request ".encode())
    assert matched == {
        "source": "rule",
        "confidence": 1.0,
        "rule": 2,
        "rules_version": 2,
        "title": "Time-outs",
        "text": "timed out",
        "start": start,
        "end": start + 9,
    }
    assert server.admin.fetch(f"/tests/{failures['test_c']['id']}")["matched"] is None

    set_rules(server, project, [])
    assert server.admin.fetch(f"/tests/{failures['test_b']['id']}")["matched"] == matched, "of the version that decided"
    assert {item["classification"] for item in given_failures(server, project).values()} == {None}


def test_known_issues_come_first_and_people_decide(server: Server) -> None:
    project = given_project(server)
    set_rules(server, project, RULES)
    issue = server.admin.create(
        "/known-issues", project_id=project, title="DNS", classification="no_defect", pattern="10[.]0[.]0[.]1"
    )["id"]
    failures = given_failures(server, project)
    by_issue = server.admin.fetch(f"/tests/{failures['test_a']['id']}")
    assert (by_issue["classification"], by_issue["known_issue_id"]) == ("no_defect", issue)
    assert by_issue["matched"]["source"] == "known_issue"
    assert (by_issue["matched"]["rule"], by_issue["matched"]["text"]) == (None, "10.0.0.1")

    result = failures["test_b"]["id"]
    server.admin.when("POST", f"/tests/{result}/classification", json={"classification": "product_bug"}).then(200)
    shown = server.admin.fetch(f"/tests/{result}")
    assert (shown["classification"], shown["classified_by"]) == ("product_bug", "user")
    assert shown["matched"]["title"] == "Time-outs"


def test_statistics_learn_from_people(server: Server) -> None:
    project, other = given_project(server), given_project(server)
    for _ in range(2):
        failures = given_failures(server, project)
        assert {item["classification"] for item in failures.values()} == {None}
        word = {"classification": "test_bug"}
        server.admin.when("POST", f"/tests/{failures['test_c']['id']}/classification", json=word).then(200)
    failures = given_failures(server, project)
    shown = server.admin.fetch(f"/tests/{failures['test_c']['id']}")
    assert (shown["classification"], shown["classified_by"]) == ("test_bug", "statistics")
    assert shown["matched"].items() >= {"source": "statistics", "confidence": 0.75, "rule": None, "text": ""}.items()
    assert failures["test_a"]["classification"] is None
    assert {item["classification"] for item in given_failures(server, other).values()} == {None}
    report = server.admin.fetch(f"/report/{shown['build_id']}")
    assert report["classified_by_rules"] == 0
    trail = str(server.admin.fetch(f"/audit/events?project_id={project}"))
    assert "classified 1 failure of build" in trail
    assert "by statistics" in trail


def test_rules_of_another_project_do_not_count(server: Server) -> None:
    set_rules(server, given_project(server), RULES)
    failures = given_failures(server, given_project(server))
    assert {item["classification"] for item in failures.values()} == {None}


def test_the_audit_trail_names_the_rules(server: Server) -> None:
    project = given_project(server)
    set_rules(server, project, RULES)
    given_failures(server, project)
    trail = str(server.admin.fetch(f"/audit/events?project_id={project}&limit=100"))
    assert f"gave project {project} 2 classification rules, version 1" in trail
    assert "by rules 1, 2 of version 1 of the classification rules" in trail


def test_a_list_can_be_tried_over_all_history_first(server: Server) -> None:
    project = given_project(server)
    failures = given_failures(server, project)
    body = {"project_id": project, "known_issues": RULES, "besides": True}
    tried = server.admin.when("POST", "/audit/replay", json=body).then(200)
    found = {item["result_id"]: (item["to"], item["by"]) for item in tried["tests"]}
    assert found == {
        failures["test_a"]["id"]: ("infra", "Network"),
        failures["test_b"]["id"]: ("flaky", "Time-outs"),
    }


@pytest.mark.parametrize(
    ("rule", "field", "says"),
    [
        ({"pattern": "(a"}, "rules[1].pattern", "missing ): (a"),
        ({"pattern": "x*"}, "rules[1].pattern", "every failure"),
        ({"pattern": "x" * 1_001}, "rules[1].pattern", "1000"),
        ({"classification": "sunspots"}, "rules[1].classification", ""),
        ({"title": ""}, "rules[1].title", ""),
    ],
)
def test_what_is_refused(server: Server, project: int, rule: dict[str, str], field: str, says: str) -> None:
    body = {"rules": [RULES[0], RULES[1] | rule]}
    problem = server.admin.when("PUT", f"/projects/{project}/classification-rules", json=body).then(422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert says in problem["errors"][0]["message"]


def test_a_project_has_a_limited_number_of_rules(server: Server, project: int) -> None:
    body = {"rules": [RULES[0]] * (MAX_RULES + 1)}
    server.admin.when("PUT", f"/projects/{project}/classification-rules", json=body).then(422)
