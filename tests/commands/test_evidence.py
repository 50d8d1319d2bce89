"""Evidence of the assistant: its sources, and the parts of a log."""

import msgspec

from domain.assistant.answers import MAX_SOURCE_TEXT, Question
from domain.assistant.evidence import (
    BuildFacts,
    BuildSummary,
    Evidence,
    FailedTest,
    FailureStart,
    FlakyTestFacts,
    IssueFacts,
    PastFailure,
    ProjectFacts,
    TestRecord,
    excerpt_log,
    with_sources,
)

QUESTION = Question("diagnosis", 12, build_id=9812)
LOG = ["collecting", "installing", "ok", "ok", "ok", "ok", "OSError: [Errno 28] No space left on device", "stopped"]


def find_evidence() -> Evidence:
    return with_sources(
        Evidence(
            QUESTION,
            build=BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", commit_sha="c0ffee", passed=9, failed=1),
            failures=(
                FailedTest(
                    47821,
                    5,
                    "test_pay",
                    "assert 1 == 2",
                    "x" * 9_000,
                    "s",
                    classification="infra",
                    classified_by="user",
                    first_bad=FailureStart(9811, "badbad", 9810, "good", 2, "commit"),
                    record=TestRecord(20, 2, 0.1, 0.01, 0.8),
                ),
            ),
            excerpts=excerpt_log(LOG),
            issues=(IssueFacts(7, "Disk full", "infra", "OPS-1"),),
            past=(PastFailure(41, 9000, "test_pay", "assert 1 == 3", True, classification="infra"),),
            earlier=(BuildSummary(9810, "passed"),),
            same_commit=(BuildSummary(9813, "passed", commit_sha="c0ffee"),),
        )
    )


def test_each_fact_is_a_source() -> None:
    sources = {source.ref: source.text for source in find_evidence().sources}
    assert list(sources) == [
        "build:9810",
        "build:9813",
        "build:9812",
        "commit:c0ffee",
        "log:9812:5-7",
        "known_issue:7",
        "test:41",
        "test:47821",
        "test_case:5",
        "commit:badbad",
    ]
    assert "No space left on device" in sources["log:9812:5-7"]
    assert sources["known_issue:7"] == "Known issue 7: Disk full (infra, OPS-1)"
    assert sources["build:9810"] == "test_pay passed in build 9810 on commit good."
    assert sources["test:47821"].startswith("test_pay failed: assert 1 == 2\nxxx")
    assert sources["test:47821"].endswith("Classified as infra by user.")
    assert max(map(len, sources.values())) <= MAX_SOURCE_TEXT


def test_a_project_is_a_source() -> None:
    facts = ProjectFacts(12, 7, 3, 1, flaky_tests=(FlakyTestFacts(5, "test_pay", 0.2, 10, 2),))
    evidence = with_sources(Evidence(Question("chat", 12), project=facts))
    assert [source.ref for source in evidence.sources] == ["project:12", "test_case:5"]


def test_evidence_can_be_stored() -> None:
    evidence = find_evidence()
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence
