"""Full-text search over HTTP."""

import uuid
from typing import Any

import pytest

from api.search import parse_types
from domain.core.errors import Invalid
from tests.support.builders import finish, given_build, given_job, given_node, given_pool, given_project, upload
from tests.support.http import Client
from tests.support.server import Server

REPORT = """<testsuite name="s">
<testcase classname="shop" name="PaymentFlowTest{0}"><failure message="timed out waiting for payment {0}"/></testcase>
<testcase classname="shop" name="test_passes_{0}"/></testsuite>"""


class Searched:
    """A project with a job, a build and tests, whose names and texts contain a word of their own."""

    def __init__(self, server: Server) -> None:
        self.server, self.word = server, f"w{uuid.uuid4().hex[:10]}"
        self.project = given_project(server, name=f"Project {self.word}", description=f"about {self.word}")
        self.job = given_job(server, self.project, name=f"Job {self.word}")
        self.build = given_build(server, self.job, branch=f"branch-{self.word}")
        upload(server.admin, self.build, REPORT.format(self.word).encode()).then(201)
        finish(server, self.build, "failed")
        self.server.wait_until_projected()


@pytest.fixture(scope="module", name="one")
def _one(server: Server) -> Searched:
    return Searched(server)


@pytest.fixture(scope="module", name="other")
def _other(server: Server) -> Searched:
    return Searched(server)


def search(client: Client, q: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/v3/search", params={"q": q} | query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["query"] == q
    found: list[dict[str, Any]] = answer.json()["results"]
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    assert all(0 <= item["score"] <= 1 for item in found)
    return found


def test_each_type_is_found(server: Server, one: Searched) -> None:
    found = search(server.admin, one.word)
    assert {item["type"] for item in found} == {"project", "job", "build", "test"}
    assert all(item["project_id"] == one.project for item in found)
    ids = {(item["type"], item["id"]) for item in found}
    assert ids >= {("project", one.project), ("job", one.job), ("build", one.build)}


def test_words_of_names_and_messages_are_found_together(server: Server, one: Searched) -> None:
    (test,) = search(server.admin, f"payment timeout {one.word}", types="test", project_id=one.project, limit=1)
    assert (test["type"], test["name"]) == ("test", f"shop.PaymentFlowTest{one.word}")
    assert test["snippet"] == f"timed out waiting for payment {one.word}"
    result = server.admin.get(f"/api/v3/tests/{test['result_id']}").json()
    assert result["test_case_id"] == test["id"]
    (build,) = search(server.admin, f"payment timeout {one.word}", types="build", project_id=one.project)
    assert (build["id"], build["result_id"]) == (one.build, None)
    assert "a test failed: timed out waiting for payment" in build["snippet"]


def test_the_number_of_a_build_is_found(server: Server, one: Searched) -> None:
    (build,) = search(server.admin, f"{one.word} {one.build}", types="build", limit=1)
    assert build["id"] == one.build


def test_nodes_are_found_by_labels_and_pools(server: Server, one: Searched) -> None:
    word = f"gpu{one.word}"
    free = given_node(server, name=f"n-{word}", tags=[word], pool_id=given_pool(server, given_project(server)))
    pooled = given_node(server, tags=[word], pool_id=given_pool(server, one.project))
    member = server.make_user("viewer", {one.project: "read"})
    found = search(member, word)
    assert [item["id"] for item in found] == [free["id"], pooled["id"]]
    assert found[0]["project_id"] is None
    (in_project,) = search(member, word, project_id=one.project, types="node")
    assert in_project["id"] == pooled["id"]


def test_limits(server: Server, one: Searched) -> None:
    assert len(search(server.admin, one.word, types="test")) == 2
    assert len(search(server.admin, one.word, types="test,job", limit=1)) == 2
    for query in ({"limit": 0}, {"limit": 51}, {"q": "x"}, {"q": "x" * 201}, {"types": "build,robots"}):
        refused = server.admin.get("/api/v3/search", params={"q": "word"} | query)
        assert refused.status_code == 422, query
    assert "robots" in refused.json()["detail"]
    assert search(server.admin, "--") == []
    assert all(item["score"] for item in search(server.admin, "project"))
    assert server.admin.get("/api/v3/search", params={"q": "word", "project_id": 2**52}).status_code == 404


def test_a_name_scores_higher_than_a_text(server: Server, one: Searched) -> None:
    (exact,) = search(server.admin, f"Job {one.word}", types="job", project_id=one.project)
    assert exact["score"] == 1
    (prefix,) = search(server.admin, f"job {one.word[:-2]}", types="job", project_id=one.project)
    assert prefix["score"] == pytest.approx(0.9 * (1 + 0.7) / 2 + 0.1)
    found = search(server.admin, f"payment {one.word}", types="test", project_id=one.project)
    assert [item["name"].removeprefix("shop.") for item in found] == [
        f"PaymentFlowTest{one.word}",
        f"test_passes_{one.word}",
    ]
    assert found[0]["score"] > found[1]["score"]


def test_members_find_only_what_is_theirs(server: Server, one: Searched, other: Searched) -> None:
    """The same query finds both projects for an admin, and one of them for a member, with the same scores and nothing
    about the other one.
    """
    member = server.make_user("developer", {one.project: "write"})
    for query in (
        "payment timeout",
        "payment",
        f"payment {other.word}",
        other.word,
        f"{one.word} {other.word}",
        "shop",
    ):
        found = search(member, query, limit=50)
        assert {item["project_id"] for item in found} <= {one.project}, query
        assert other.word not in str(found), query
        of_admin = search(server.admin, query, limit=50, project_id=one.project)
        assert found == of_admin
    assert search(member, other.word) == []
    refused = member.get("/api/v3/search", params={"q": other.word, "project_id": other.project})
    assert refused.status_code == 404
    assert search(server.make_user("developer"), "payment") == []


def test_a_deletion_is_final(server: Server) -> None:
    deleted = Searched(server)
    server.admin.when("DELETE", f"/builds/{deleted.build}").then(204)
    found = search(server.admin, deleted.word, types="build,test")
    assert all(item["type"] == "test" and item["result_id"] is None for item in found)
    assert "timed out" not in str(found)
    server.admin.when("DELETE", f"/projects/{deleted.project}").then(204)
    server.wait_until_projected()
    assert search(server.admin, deleted.word) == []


def test_all_unknown_types_are_named() -> None:
    with pytest.raises(Invalid, match="not 'bogus', 'robots'") as refused:
        parse_types("build,robots,bogus")
    assert "build, test, job" in str(refused.value)
