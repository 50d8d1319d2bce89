"""Grading of answers by rules: what makes an answer right, and which fault is named otherwise."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.assistant.answers import Answer, AnswerClaim, NextStep, Question, Source
from domain.assistant.evidence import Evidence
from domain.assistant.grading import ExpectedAnswer, ExpectedHealth, Grade, grade_answer, grade_health
from domain.test_health import FAILED, assess
from tests.support.strategies import structs

EVIDENCE = Evidence(
    Question("diagnosis", 1, 100),
    (Source("log:100:1-3", "cc1: out of memory"), Source("test:1001", "test_a failed"), Source("build:100", "failed")),
)
ANSWER = Answer(
    (AnswerClaim("The compiler ran out of memory.", ("log:100:1-3",)), AnswerClaim("One test failed.", ("test:1001",))),
    "infra",
    "Out of memory",
    0.8,
    "Add memory",
    1,
    NextStep("rerun", "Run it again.", "POST", "/builds/100/restart"),
)


def grade(**expected: Any) -> Grade:
    return grade_answer(ANSWER, EVIDENCE, ExpectedAnswer(**expected))


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"classification": ("infra",)},
        {"classification": ("flaky", "infra")},
        {"says": (("oom", "OUT OF memory"), ("compiler",), ("add memory",))},
        {"never": ("network",)},
        {"cites": (("log:100:1-3",), ("test:*", "known_issue:7"))},
        {"cites_log": "out of memory"},
        {"next_step": ("rerun", "none")},
        {"affected_tests": 1, "min_confidence": 0.8, "max_confidence": 0.8},
    ],
)
def test_a_right_answer(expected: dict[str, Any]) -> None:
    assert grade(**expected).faults == ()


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        ({"classification": ("flaky", "test_bug")}, "The class is infra, not flaky or test_bug."),
        ({"says": (("disk", "space"),)}, "It does not say disk or space."),
        ({"never": ("Compiler",)}, "It says 'Compiler', which is wrong."),
        ({"cites": (("known_issue:7", "test_case:*"),)}, "It does not cite known_issue:7 or test_case:*."),
        ({"cites": (("test:1002",),)}, "It does not cite test:1002."),
        ({"cites_log": "full"}, "It does not cite the part of the log that says 'full'."),
        ({"next_step": ("quarantine",)}, "The next step is rerun, not quarantine."),
        ({"affected_tests": 2}, "It counts 1 affected tests, not 2."),
        ({"max_confidence": 0.5}, "Its confidence is 0.80, not from 0.00 to 0.50."),
    ],
)
def test_a_wrong_answer_has_its_fault(expected: dict[str, Any], fault: str) -> None:
    assert grade(**expected).faults == (fault,)


def test_an_answer_that_cites_what_nobody_found_is_wrong() -> None:
    claims = (AnswerClaim("The build before passed.", ("build:99",)),)
    found = grade_answer(Answer(claims), EVIDENCE, ExpectedAnswer())
    assert found.faults == ("It cites build:99, which is not in the evidence.",)


def test_a_grade_shows_both_answers() -> None:
    found = grade(classification=("product_bug",), says=(("assertion", "assert"),))
    assert (found.expected, found.got) == ("product_bug: assertion", "infra: Out of memory")


@hypothesis.given(structs(Answer), structs(ExpectedAnswer))
def test_any_answer_gets_a_grade(answer: Answer, expected: ExpectedAnswer) -> None:
    found = grade_answer(answer, EVIDENCE, expected)
    assert found.expected
    assert found.passed == (not found.faults)
    assert all(fault.endswith(".") for fault in found.faults)


@hypothesis.given(structs(Answer))
def test_an_answer_without_sources_or_expectations_is_right(answer: Answer) -> None:
    claims = tuple(AnswerClaim(claim.text) for claim in answer.claims)
    assert grade_answer(Answer(claims), EVIDENCE, ExpectedAnswer()).passed


@hypothesis.given(st.integers(0, 60), st.integers(0, 5))
def test_an_assessment_is_right_if_it_is_what_is_expected(passes: int, failures: int) -> None:
    found = assess(bytes(passes) + bytes([FAILED]) * failures)
    same = ExpectedHealth((found.recommended_action,), (found.risk,), (found.trend,), found.is_flaky)
    assert grade_health(found, same).passed
    assert len(grade_health(found, ExpectedHealth((found.recommended_action,), flaky=not found.is_flaky)).faults) == 1
    assert grade_health(found, ExpectedHealth(("fix", "quarantine"))).expected == "fix or quarantine"
    assert grade_health(found, ExpectedHealth(("fix",), ("low", "high"))).expected == "fix, low or high risk"
