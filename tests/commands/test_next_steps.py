"""Next step after a diagnosis: one request that fits its class, and none where nothing is certain enough."""

from typing import Any

import pytest

from domain.assistant.answers import NextStep, Question
from domain.assistant.diagnoses import Diagnosis
from domain.assistant.evidence import BuildFacts, Evidence, FailedTest, FailureStart
from domain.assistant.failure_causes import ProbableCause
from domain.assistant.next_steps import LEAST_CONFIDENCE, find_next_step
from domain.triage import Classification

SIGNATURE = "0123456789abcdef"
QUESTION = Question("diagnosis", 12, build_id=9812)


def make_test(name: str = "t::a", **fields: Any) -> FailedTest:
    return FailedTest(1001, 1, name, signature=fields.pop("signature", SIGNATURE), **fields)


def find_step(
    classification: Classification | None,
    *tests: FailedTest,
    confidence: float = 0.9,
    status: str = "failed",
    reason: str = "tests_failed",
) -> NextStep | None:
    cause = ProbableCause("key", classification, "Sums  are\nwrong", "Correct them", confidence, (), "")
    evidence = Evidence(QUESTION, build=BuildFacts(9812, 3, "Nightly", status, reason))
    return find_next_step(evidence, Diagnosis(cause, tests, len(tests)))


def test_only_a_failed_build_with_a_likely_cause_has_a_next_step() -> None:
    assert find_step("infra", confidence=LEAST_CONFIDENCE) is not None
    assert find_step("infra", confidence=LEAST_CONFIDENCE - 0.01) is None
    assert find_step("infra", status="aborted") is None
    assert find_next_step(Evidence(QUESTION), Diagnosis(ProbableCause("", "infra", "", "", 0.9, (), ""))) is None
    assert find_step("no_defect") is None
    assert find_step(None) is None


def test_a_build_is_run_again_whole_if_results_may_be_missing() -> None:
    step = find_step("infra")
    assert step is not None
    assert (step.path, step.body) == ("/builds/9812/restart", {"failed_only": True})
    whole = find_step("infra", reason="agent_lost")
    assert whole is not None
    assert (whole.path, whole.body) == ("/builds/9812/restart", {})


def test_flaky_tests_are_quarantined_unless_they_are_already() -> None:
    one = find_step("flaky", make_test(), make_test("t::b", is_quarantined=True))
    assert one is not None
    assert (one.text, one.body["node_ids"]) == ("Quarantine t::a until mended.", ["t::a"])
    two = find_step("flaky", make_test(), make_test("t::b"), make_test())
    assert two is not None
    assert (two.text, two.body["node_ids"]) == ("Quarantine these 2 tests until mended.", ["t::a", "t::b"])
    none_left = find_step("flaky", make_test(is_quarantined=True))
    assert none_left is not None
    assert none_left.action == "rerun"


@pytest.mark.parametrize("classification", ["product_bug", "test_bug"])
def test_a_new_failure_becomes_a_known_issue(classification: Classification) -> None:
    step = find_step(classification, make_test())
    assert step is not None
    assert step.body == {
        "project_id": 12,
        "title": "Sums are wrong",
        "classification": classification,
        "signature": SIGNATURE,
    }
    assert find_step(classification) is None
    assert find_step(classification, make_test(), make_test(known_issue_id=7)) is None
    assert find_step(classification, make_test(signature="")) is None


def test_the_commit_of_a_new_failure_is_named_before_a_known_issue() -> None:
    began = FailureStart(9812, "badc0de", 9811, "600d", 1, "commit")
    cause = ProbableCause("key", "product_bug", "Sums are wrong", "Correct them", 0.7, (), "", began=began)
    evidence = Evidence(QUESTION, build=BuildFacts(9812, 3, "Nightly", "failed", "tests_failed"))
    for is_joined, what in ((False, "make it a known issue"), (True, "make the first of these failures a known issue")):
        step = find_next_step(evidence, Diagnosis(cause, (make_test(),), 1, is_joined=is_joined))
        assert step is not None
        assert step.text.startswith("Look at commit badc0de, with which it began.")
        assert what in step.text
