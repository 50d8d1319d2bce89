"""Semantic search over HTTP, with the model and pgvector, and without them."""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from bench.support.paraphrases import HELD_OUT, OTHERS, PAIRS

from api.semantic_search import to_results
from commands.explanations import ExplainBuild
from commands.handler import CommandContext, Handler
from domain.failures.log_explanations import Excerpt
from store.clock import utcnow
from store.tables import passages
from store.tables.passages import PassageRank
from testhide.engines import Engines
from testhide.processes import core
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.http import Client
from tests.support.semantic_index import FailureIndexer, index_words
from tests.support.server import Server, server_on_new_database

Fail = Callable[[Sequence[str]], "Failing"]
Pairs = tuple[tuple[str, str], ...]
MAX_MISSED = 10
"""Number of the 50 queries of a test set whose failure need not be among the first five results."""


def make_report(messages: Sequence[str]) -> bytes:
    cases = (
        f'<testcase classname="t" name="case_{number}"><failure message={quoteattr(message)}>'
        f"{escape(message)}</failure></testcase>"
        for number, message in enumerate(messages)
    )
    return f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()


class Failing:
    """A project with a failed build, whose tests failed with these messages."""

    def __init__(self, server: Server, messages: Sequence[str], index: Callable[[Server], None]) -> None:
        self.server = server
        self.project = given_project(server)
        self.job = given_job(server, self.project)
        self.build = given_build(server, self.job)
        upload(server.admin, self.build, make_report(messages)).then(201)
        server.admin.when("POST", f"/builds/{self.build}/finish", json={"status": "failed"}).then(200)
        index(server)


def search(client: Client, q: str, project: int, **query: Any) -> dict[str, Any]:
    answer = client.get("/api/v3/ai/search", params={"q": q, "project_id": project} | query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    scores = [item["score"] for item in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    return found


@pytest.fixture(scope="module", name="fail")
def _fail(server: Server, failure_indexer: FailureIndexer) -> Fail:
    return lambda messages: Failing(server, messages, failure_indexer.index)


@pytest.fixture(scope="module", name="many")
def _many(fail: Fail) -> Failing:
    return fail([*(text for _, text in PAIRS), *OTHERS])


@pytest.fixture(name="without_model")
def _without_model(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    with server_on_new_database(engines, tmp_path, "serve", "project", semantic_search=False) as server:
        yield server


@pytest.mark.parametrize("pairs", [PAIRS, HELD_OUT], ids=["developed with", "held out"])
def test_paraphrases_are_found(server: Server, fail: Fail, pairs: Pairs) -> None:
    failing = fail([*(text for _, text in pairs), *OTHERS])
    missed = []
    for query, text in pairs:
        found = search(server.admin, query, failing.project, limit=5)
        assert found["mode"] == "hybrid"
        details = [server.admin.fetch(f"/tests/{item['result_id']}") for item in found["results"]]
        if text not in [detail["message"] for detail in details]:
            missed.append(query)
    assert len(missed) <= MAX_MISSED, missed


def test_a_result_leads_to_its_test(server: Server, many: Failing) -> None:
    found = search(server.admin, "database timeout", many.project, limit=5)["results"]
    (one,) = (item for item in found if item["snippet"].endswith("connection to postgres timed out after 30s"))
    assert (one["type"], one["build_id"]) == ("test", many.build)
    detail = server.admin.fetch(f"/tests/{one['result_id']}")
    assert detail["test_case_id"] == one["id"]
    assert search(server.admin, "database timeout", many.project, type="build")["results"] == []


def test_the_explanation_of_a_failed_build_is_found(server: Server, fail: Fail) -> None:
    failing = fail(["boom"])
    lines = ["collecting", "ERROR: the database is locked"]

    async def explain() -> None:
        async with core(server.settings, pool_size=1) as parts:
            excerpt = Excerpt(1, 2, 0, 40, 0.5, ("error",))
            command = ExplainBuild(failing.build, (excerpt,), (tuple(lines),))
            await Handler(parts.log, utcnow).execute(command, CommandContext("system:tests"))

    asyncio.run(explain())
    index_words(server)
    (found,) = search(server.admin, "locked database", failing.project, type="log")["results"]
    assert (found["type"], found["id"], found["result_id"]) == ("log", failing.build, None)
    assert found["snippet"] == " ".join(lines)


def test_equal_failures_are_one_result(server: Server, fail: Fail) -> None:
    failing = fail([f"lost connection after {seconds} s" for seconds in (1, 20, 300)])
    (found,) = search(server.admin, "connection lost", failing.project)["results"]
    assert found["snippet"] == "lost connection after 300 s"


def test_members_find_only_what_is_theirs(server: Server, fail: Fail) -> None:
    """Neither texts of another project nor scores that depend on them are in an answer."""
    secret = f"planted {uuid.uuid4().hex} database password"
    planted = fail([secret, "database timeout"])
    mine = fail(["connection to the database timed out", "boom"])
    member = server.make_user("developer", {mine.project: "write"})
    before = search(member, "database password timeout", mine.project)
    assert "planted" not in str(before)
    assert {item["build_id"] for item in before["results"]} == {mine.build}
    assert member.get("/api/v3/ai/search", params={"q": secret, "project_id": planted.project}).status_code == 404
    fail(["database password timeout"] * 3)
    assert search(member, "database password timeout", mine.project) == before


def test_a_deletion_is_final(server: Server, fail: Fail) -> None:
    failing = fail(["lost connection"])
    assert search(server.admin, "lost connection", failing.project)["results"]
    server.admin.when("DELETE", f"/builds/{failing.build}").then(204)
    assert search(server.admin, "lost connection", failing.project)["results"] == [], "before its passages are deleted"
    index_words(server)
    assert search(server.admin, "lost connection", failing.project)["results"] == []


def test_texts_without_words_are_similar_to_no_query(server: Server, fail: Fail) -> None:
    failing = fail(["!!!", "?? !!", "12 34", "connection to postgres timed out after 30s"])
    (found,) = search(server.admin, "database timeout", failing.project)["results"]
    assert found["snippet"] == "connection to postgres timed out after 30s"
    for query in ("!!", "the", "is it the"):
        assert search(server.admin, query, failing.project) == {"results": [], "mode": "hybrid"}


def test_words_are_found_without_a_model(without_model: Server) -> None:
    failing = Failing(without_model, ["connection to postgres timed out after 30s", "boom"], index_words)
    found = search(without_model.admin, "postgres timeout", failing.project)
    assert found["mode"] == "text"
    assert [item["snippet"] for item in found["results"]] == ["connection to postgres timed out after 30s"]


def test_words_are_found_without_pgvector(server: Server, many: Failing) -> None:
    async def change(statement: str) -> None:
        async with core(server.settings, pool_size=1) as parts, parts.pool.connection() as connection:
            await connection.execute(statement.encode())
            assert await passages.has_pgvector(connection) is statement.startswith("CREATE")

    asyncio.run(change("DROP EXTENSION vector"))
    try:
        found = search(server.admin, "database timeout", many.project)
    finally:
        asyncio.run(change("CREATE EXTENSION vector"))
    assert (found["mode"], len(found["results"]) > 0) == ("text", True)


def test_what_is_refused(server: Server, many: Failing) -> None:
    for query in ({"q": "x"}, {"limit": 51}, {"type": "node"}):
        parameters = {"q": "word", "project_id": many.project} | query
        assert server.admin.get("/api/v3/ai/search", params=parameters).status_code == 422
    assert server.admin.get("/api/v3/ai/search", params={"q": "word", "project_id": 2**52}).status_code == 404
    assert search(server.admin, "--", many.project)["results"] is not None


def test_a_query_without_any_of_its_words_gets_scores_by_similarity() -> None:
    near, far = (PassageRank(id, "test", id, id, 1, "message", relevance) for id, relevance in ((1, 0.6), (2, 0.2)))
    unknown = to_results([[], [near, far]], ["milkshake"], 5)
    assert [(item.id, item.score) for item in unknown] == [(1, 0.3), (2, 0.0984)]
    assert [item.score for item in to_results([[far], [near, far]], ["message"], 5)] == [0.9919, 0.5]
