"""Documents for full-text search, and the words by which they are found."""

from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from domain import builds, jobs, nodes, projects
from domain.builds import BuildDeleted, BuildFinished, BuildQueued, BuildRequeued, BuildStarted, ReportRecorded
from domain.core.columns import Int16s, Int32s
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted, JobUpdated
from domain.nodes import NodeConnected, NodeDeleted, NodeRegistered, NodeUpdated
from domain.projects import ProjectCreated, ProjectDeleted, ProjectUpdated
from domain.results import FAILED, PASSED, CasesSeen, ResultsRecorded, ResultText
from domain.search import MAX_WORD, SNIPPET_LENGTH, find_query_words, find_words, make_snippet
from projections.search import (
    PROJECTION,
    BuildDocument,
    FailureDocument,
    JobDocument,
    NodeDocument,
    ProjectDocument,
    TestDocument,
)
from projections.search_queries import SearchQuery
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
SEEN = CasesSeen(
    project_id=1, first_case_id=30, node_ids=["pay.py::PaymentFlowTest", "pay.py::test_b"], suites=["one", "one"]
)
QUEUED = BuildQueued(**IDS, job_title="Smoke", branch="main", commit_sha="c0ffee")


def block(first: int, *statuses: int, messages: dict[int, str], **ids: Any) -> ResultsRecorded:
    """A block of results of the cases 30, 31 and so on."""
    size = len(statuses)
    return ResultsRecorded(
        **{**IDS, **ids},
        first_result_id=first,
        case_ids=Int32s(range(30, 30 + size)),
        suites=Int16s([0] * size),
        durations_ms=Int32s([1] * size),
        statuses=bytes(statuses),
        attempts=b"\1" * size,
        finals=b"\1" * size,
        known_issues=bytes(size),
        flaky=bytes(size),
        texts=[ResultText(row, message=message) for row, message in messages.items()],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PaymentFlowTest", "paymentflowtest payment flow test"),
        ("tests/test_cart.py::TestX::test_a[1]", "tests test cart py testx a 1 x"),
        ("HTTPServer.readAll", "httpserver readall http server read all"),
        ("timed out after 30s", "timed out after 30s timeout"),
        ("Größe 0 ПРИВЕТ", "größe 0 привет"),
        ("deadBEEF99", "deadbeef99 dead beef99"),
        (":: -- __", ""),
        ("x" * 99, f"{'x' * MAX_WORD} {'x' * (99 - MAX_WORD)}"),
    ],
)
def test_texts_have_words(text: str, words: str) -> None:
    assert " ".join(find_words(text)) == words


def test_a_query_has_words() -> None:
    assert find_query_words("PaymentFlow  timed out, payment!") == ["payment", "flow", "timeout"]
    assert SearchQuery.parse("Payment ti").to_tsquery("&") == "'payment' & 'ti'"
    assert SearchQuery.parse("time out pay").to_tsquery("|") == "'timeout' | 'pay':*"
    assert SearchQuery.parse("a b").to_tsquery("|", [3, 4]) == "(':3' | ':4') & ('a' | 'b')"


@hypothesis.given(st.text())
def test_a_text_is_found_by_its_own_words(text: str) -> None:
    found = find_words(text)
    assert all(word == word.strip() and word and " " not in word and "'" not in word for word in found)
    assert set(find_query_words(text)) <= set(found)


def test_a_snippet_shows_the_words() -> None:
    text = "x " * 300 + "connection to postgres\n timed out after 30s" + " y" * 300
    snippet = make_snippet(text, ["timeout", "postgres"])
    assert "connection to postgres timed out after 30s" in snippet
    assert snippet.startswith("...")
    assert snippet.endswith("...")
    assert len(snippet) <= SNIPPET_LENGTH + 6
    assert make_snippet(text, ["absent"]).startswith("x x x")
    assert make_snippet("short\ntext", ["text"]) == "short text"


@hypothesis.given(st.text(max_size=400), st.lists(st.text(min_size=1, max_size=5), max_size=3))
def test_every_text_has_a_snippet(text: str, words: list[str]) -> None:
    assert len(make_snippet(text, words)) <= SNIPPET_LENGTH + 6


def test_projects_and_jobs_are_documents() -> None:
    rows = given(
        ProjectCreated(project_id=1, title="Shop", description="Sells shoes"),
        ProjectUpdated(project_id=1, title="WebShop"),
        JobCreated(job_id=5, project_id=1, title="Smoke", repository="https://git.example.com/a.git"),
        JobUpdated(job_id=5, project_id=1, title="Nightly", cleared=("repository",)),
    ).when(PROJECTION)
    project, job = rows.one(ProjectDocument), rows.one(JobDocument)
    assert project == ProjectDocument(1, "WebShop", "Sells shoes", "webshop:1A web:1A shop:1A sells:1 shoes:1 ':1'")
    assert job == JobDocument(5, "Nightly", "", "nightly:1A ':1'", 1)
    gone = rows.apply(JobDeleted(job_id=5, project_id=1), ProjectDeleted(project_id=1))
    assert (gone.all(ProjectDocument), gone.all(JobDocument)) == ([], [])


def test_nodes_are_documents() -> None:
    connected = NodeConnected(
        node_id=2, session="s", version="1", platform="linux", hostname="host-9", cpu_cores=1, ram_gb=1.0
    )
    rows = given(NodeRegistered(node_id=2, title="node-2", pool_id=4), connected).when(PROJECTION)
    rows.apply(NodeUpdated(node_id=2, tags=["gpu"], cleared=("pool_id",)))
    node = rows.one(NodeDocument)
    assert (node.name, node.text, node.pool_id) == ("node-2", "gpu linux host-9", None)
    assert node.words == "node:1A 2:1A gpu:1 linux:1 host:1 9:1"
    assert rows.apply(NodeDeleted(node_id=2)).all(NodeDocument) == []


def test_a_test_is_found_by_its_name_and_its_newest_failure() -> None:
    passed = block(100, PASSED, PASSED, messages={0: "was fine"})
    first = block(200, FAILED, FAILED, messages={0: "old", 1: "other"})
    second = block(300, FAILED, messages={0: "timed out waiting for payment"}, build_id=8)
    rows = given(SEEN, QUEUED, passed).when(PROJECTION)
    assert rows.all(FailureDocument) == []
    rows.apply(first, second)
    words = "pay:1A py:1A one:1 ':1' paymentflowtest:1A payment:1A flow:1A test:1A"
    assert rows.all(TestDocument)[0] == TestDocument(30, words, 1, 300)
    text = "timed out waiting for payment"
    other, newest = rows.all(FailureDocument)
    of_text = "timed:1 out:1 waiting:1 for:1 payment:1 timeout:1"
    assert newest == FailureDocument(300, text, f"{words} {of_text}", 30, 1, 5)
    assert (other.id, other.text) == (201, "other")
    rows.apply(BuildDeleted(**{**IDS, "build_id": 8}, results=[(300, 1)]))
    assert rows.all(FailureDocument) == [other]
    assert len(rows.all(TestDocument)) == 2


def test_a_build_is_found_by_its_failures() -> None:
    failures = block(200, FAILED, FAILED, messages={0: "payment gateway timeout", 1: "refused"})
    report = ReportRecorded(
        **IDS,
        attempt=1,
        first_result_id=200,
        cases=2,
        passed=0,
        failed=2,
        skipped=0,
        known_issues=0,
        duration_ms=1,
        blocks=1,
    )
    rows = given(SEEN, QUEUED, BuildStarted(**IDS, node_id=1, attempt=1, commit_sha="beef")).when(PROJECTION)
    build = rows.apply(failures, report).one(BuildDocument)
    name = "smoke:1A 7:1A main:1A beef:1A"
    assert (build.name, build.words) == ("Smoke #7", f"{name} ':1' payment:1 gateway:1 timeout:1 refused:1")
    assert build.text == "main beef\n2 tests failed: payment gateway timeout; refused"
    lost = rows.apply(BuildRequeued(**IDS, node_id=1, attempt=1, reason="agent_lost")).one(BuildDocument)
    assert (lost.text, lost.words) == ("main beef", f"{name} ':1'")
    ended = rows.apply(BuildFinished(**IDS, status="failed", reason="setup_failed", detail="no disk")).one(
        BuildDocument
    )
    assert ended.text == "main beef\nsetup failed: no disk"
    assert ended.words == f"{name} setup:1 failed:1 no:1 disk:1 ':1'"
    assert rows.apply(BuildDeleted(**IDS)).all(BuildDocument) == []


def test_a_deleted_job_leaves_only_names_of_tests() -> None:
    failure = block(200, FAILED, messages={0: "boom"})
    rows = given(SEEN, QUEUED, failure, JobDeleted(job_id=5, project_id=1)).when(PROJECTION)
    assert (rows.all(BuildDocument), rows.all(FailureDocument)) == ([], [])
    assert len(rows.all(TestDocument)) == 2
    assert rows.apply(ProjectDeleted(project_id=1)).all(TestDocument) == []


OF_BUILDS = tuple(event for event in builds.EVENTS if event is not BuildDeleted)  # random ids of results are no ranges


@hypothesis.given(histories(*OF_BUILDS, *jobs.EVENTS, *projects.EVENTS, *nodes.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
