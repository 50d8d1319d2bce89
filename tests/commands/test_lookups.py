"""Look-ups and conclusions of jobs."""

import json
from typing import Any

import msgspec
import pytest

from domain.assistant.answers import Answer, AnswerClaim, NextStep, Question, Source
from domain.assistant.evidence import BuildFacts, ChangeFacts, Evidence, FailedTest, FailureStart, with_sources
from domain.assistant.investigations import add_cause, add_lookups, collect_sources
from domain.assistant.lookups import MAX_LOOKUPS, MAX_OFFERED, LookedUp, Lookup, offer_lookups, plan_lookups
from domain.assistant.model_answers import UnusableAnswer, read_lookups
from domain.assistant.prompts import LOOKUP_INSTRUCTIONS, build_lookup_prompt
from tests.commands.test_prompts import make_evidence
from tests.support.injections import INJECTIONS

OFFERED = offer_lookups(["build:9", "test:91", "commit:badc0de", "project:12", "test:92", "known_issue:3"])
FOUND = Answer((AnswerClaim("t.pay fails since build 9.", ("build:9", "test:91")),), affected_tests=2, confidence=1.0)
START = FailureStart(9, "badc0de", 8, "600d", 2, "commit")
BUILD = BuildFacts(9, 3, "Nightly", "failed", "tests_failed", commit_sha="badc0de", failed=2)
TESTS = (
    FailedTest(92, 2, "t.mail", "Connection refused"),
    FailedTest(91, 1, "t.pay", "assert 9 == 10", signature="ab" * 8, first_bad=START),
)
CHANGE = ChangeFacts("badc0de", 8, 9, "Use integers", "Ann")
LEAD = with_sources(Evidence(Question("diagnosis", 12, 9, 91), build=BUILD, failures=TESTS, changes=(CHANGE,)))


def test_only_what_is_cited_can_be_looked_up() -> None:
    assert [one.name for one in OFFERED] == [
        "log_lines build:9",
        "similar_failures test:91",
        "test_history test:91",
        "builds_of_commit commit:badc0de",
        "similar_failures test:92",
        "test_history test:92",
    ]
    assert len(offer_lookups([f"build:{number}" for number in range(100)])) == MAX_OFFERED


def test_rules_look_up_something_of_each_type_first() -> None:
    planned = plan_lookups([*(Lookup("log_lines", f"build:{number}") for number in range(9)), *OFFERED[1:]])
    assert len(planned) == MAX_LOOKUPS
    assert [one.kind for one in planned[:4]] == ["log_lines", "similar_failures", "test_history", "builds_of_commit"]
    assert plan_lookups(()) == ()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["test_history test:92", "log_lines build:9", "test_history test:92"], [5, 0]),
        (["test_history test:777", "log_lines build:9", "rm -rf /"], [0]),
        ([one.name for one in OFFERED] * 3, [0, 1, 2, 3, 4, 5]),
        ([], []),
    ],
)
def test_a_model_chooses_among_what_is_offered(names: list[str], chosen: list[int]) -> None:
    assert read_lookups(json.dumps({"lookups": names}), OFFERED) == tuple(OFFERED[at] for at in chosen)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"lookups": "all"}', '{"lookups": ["log_lines build:777"]}', '{"lookups": [1]}', "[" * 9_000]
)
def test_an_unusable_choice_is_refused(text: str) -> None:
    with pytest.raises(UnusableAnswer):
        read_lookups(text, OFFERED)


def test_a_model_chooses_no_more_than_few() -> None:
    offered = [Lookup("log_lines", f"build:{number}") for number in range(20)]
    assert len(read_lookups(json.dumps({"lookups": [one.name for one in offered]}), offered)) == MAX_LOOKUPS


@pytest.mark.parametrize("text", INJECTIONS)
def test_instructions_in_texts_change_no_offer(text: str) -> None:
    prompt = build_lookup_prompt(make_evidence(text, text, text), FOUND, OFFERED)
    data: dict[str, Any] = json.loads(prompt.data)
    assert prompt.instructions == LOOKUP_INSTRUCTIONS
    assert data["lookups"] == prompt.schema["properties"]["lookups"]["items"]["enum"] == [one.name for one in OFFERED]
    assert "<" not in prompt.data


def test_the_verdict_is_that_of_the_leading_failure() -> None:
    found = add_cause(FOUND, LEAD)
    assert (found.classification, found.root_cause) == ("product_bug", "assert 9 == 10")
    assert 0.6 < found.confidence < 0.9
    assert found.affected_tests == 2
    assert found.claims[0] == FOUND.claims[0]
    assert "Of these, t.pay was looked at, as it failed in build 9." in found.text
    assert "badc0de by Ann (“Use integers”)" in found.text
    assert "Connection refused" not in found.text
    assert found.next_step is not None
    assert found.next_step.action == "known_issue"


def test_the_next_step_of_the_job_comes_first() -> None:
    step = NextStep("quarantine", "Quarantine it.", "POST", "/quarantine/bulk")
    assert add_cause(msgspec.structs.replace(FOUND, next_step=step), LEAD).next_step == step
    gone = msgspec.structs.replace(LEAD, failures=TESTS[:1])
    assert add_cause(FOUND, gone) == FOUND


def test_each_look_up_is_a_claim_with_its_sources() -> None:
    history = LookedUp(OFFERED[2], "t.pay failed in 2 of 4 runs.", (Source("test_case:1", "2 of 4"),))
    nothing = LookedUp(OFFERED[1], "Nothing is similar.")
    found = add_lookups(add_cause(FOUND, LEAD), [history, nothing])
    assert found.claims[-2:] == (
        AnswerClaim("t.pay failed in 2 of 4 runs.", ("test_case:1",)),
        AnswerClaim("Nothing is similar.", ("test:91",)),
    )
    sources = {source.ref: source.text for source in collect_sources(found, LEAD, [history, nothing])}
    assert set(found.sources) <= set(sources)
    assert sources["test_case:1"] == "2 of 4"
    assert "assert 9 == 10" in sources["test:91"], "the evidence says more than the claim"
