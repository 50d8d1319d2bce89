"""Answers of the assistant: their text, and the sources that they cite."""

import hypothesis
import msgspec
from hypothesis import strategies as st

from domain.assistant.answers import Answer, AnswerClaim, NextStep, Question

CLAIMS = st.builds(
    AnswerClaim,
    st.text(max_size=20),
    st.lists(st.sampled_from(["build:1", "test:2", "log:1:3-4"]), max_size=3).map(tuple),
    st.booleans(),
)


def test_an_answer_is_its_claims() -> None:
    answer = Answer(
        (
            AnswerClaim("Build 1 failed.", ("build:1",)),
            AnswerClaim("test_pay failed.", ("test:2", "build:1")),
            AnswerClaim("Perhaps the network is slow.", is_guess=True),
        )
    )
    assert answer.text == "Build 1 failed. test_pay failed. Perhaps the network is slow."
    assert answer.sources == ["build:1", "test:2"]
    assert (Answer().text, Answer().sources) == ("", [])


@hypothesis.given(st.lists(CLAIMS, max_size=5).map(tuple))
def test_sources_are_those_of_the_claims_each_once(claims: tuple[AnswerClaim, ...]) -> None:
    answer = Answer(claims)
    assert len(answer.sources) == len(set(answer.sources))
    assert set(answer.sources) == {ref for claim in claims for ref in claim.sources}


def test_questions_and_answers_can_be_stored() -> None:
    step = NextStep("rerun", "Run the build again.", "POST", "/builds/1/restart", {"comment": "flaky"})
    answer = Answer((AnswerClaim("It is flaky.", ("test:2",)),), "flaky", "A race", 0.7, "Wait for the answer", 1, step)
    question = Question("chat", 12, build_id=1, message="Why?", earlier=(("Hello", "Hello."),))
    for value in (answer, question):
        assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
