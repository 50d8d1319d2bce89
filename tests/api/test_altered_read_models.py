"""Reports that are recorded while somebody changes read models by hand: the log keeps what the log says."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from projections.known_issues import KnownIssueRow
from projections.results_cases import TestCaseRow
from tests.support.builders import given_build, upload
from tests.support.server import Server

REPORT = b"""<testsuite name="s"><testcase classname="m.Cls" name="good"/>
<testcase classname="m.Cls" name="bad"><failure message="boom">trace</failure></testcase></testsuite>"""
STATUSES = {"good": "passed", "bad": "failed"}


def record(server: Server, job: int) -> int:
    build = given_build(server, job)
    answer = upload(server.admin, build, REPORT)
    assert answer.json()["report"]["cases"] == 2, answer.text
    return build


def fetch_results(server: Server, build: int) -> dict[str, Any]:
    """Returns the results of a build by the last part of their node ids."""
    results = server.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    return {result["node_id"].rpartition(".")[2].rpartition(":")[2]: result for result in results}


@contextmanager
def altered_node_ids(server: Server, altered: dict[int, str]) -> Iterator[None]:
    """Changes the node ids of test cases in the read model, by id, and puts the right ones back at the end."""
    query = f"SELECT id, node_id FROM {TestCaseRow.table} WHERE id = ANY (%s)".encode()
    update = f"UPDATE {TestCaseRow.table} SET node_id = %s WHERE id = %s".encode()
    with psycopg.connect(server.engines.database_url, autocommit=True) as connection:
        before: dict[int, str] = dict(connection.execute(query, [list(altered)]).fetchall())
        for case_id, node_id in altered.items():
            connection.execute(update, [node_id, case_id])
        yield
        for case_id, node_id in before.items():
            connection.execute(update, [node_id, case_id])


def test_swapped_names_do_not_enter_the_log(server: Server, job: int) -> None:
    right = fetch_results(server, record(server, job))
    good, bad = right["good"], right["bad"]
    swapped = {good["test_case_id"]: bad["node_id"], bad["test_case_id"]: good["node_id"]}
    with altered_node_ids(server, swapped):
        build = record(server, job)
    results = fetch_results(server, build)
    assert {name: result["status"] for name, result in results.items()} == STATUSES


def test_a_renamed_test_case_gets_no_second_id(server: Server, job: int) -> None:
    right = fetch_results(server, record(server, job))
    with altered_node_ids(server, {right["bad"]["test_case_id"]: "zz"}):
        build = record(server, job)
    results = fetch_results(server, build)
    assert {name: result["test_case_id"] for name, result in results.items()} == {
        name: result["test_case_id"] for name, result in right.items()
    }


def test_an_altered_known_issue_classifies_nothing(server: Server, project: int, job: int) -> None:
    body = {"project_id": project, "title": "x", "classification": "no_defect", "pattern": "another message"}
    issue = server.admin.create("/known-issues", **body)["id"]
    update = f"UPDATE {KnownIssueRow.table} SET value = %s WHERE id = %s".encode()
    with psycopg.connect(server.engines.database_url, autocommit=True) as connection:
        connection.execute(update, ["boom", issue])
        build = record(server, job)
        connection.execute(update, [body["pattern"], issue])
    assert fetch_results(server, build)["bad"]["classification"] is None
    assert server.admin.put(f"/api/v3/known-issues/{issue}", json={"pattern": "boom"}).status_code == 200
    assert fetch_results(server, record(server, job))["bad"]["known_issue_id"] == issue
    assert server.admin.delete(f"/api/v3/known-issues/{issue}").status_code == 204
    assert fetch_results(server, record(server, job))["bad"]["classification"] is None
