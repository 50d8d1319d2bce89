"""Prompts contain the evidence as data, whatever is in it."""

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.assistant.answers import Answer, AnswerClaim, Question
from domain.assistant.evidence import BuildFacts, Evidence, FailedTest, LogExcerpt, PastFailure, with_sources
from domain.assistant.prompts import INSTRUCTIONS, MAX_SOURCES, MAX_SOURCES_TEXT, Prompt, build_prompt
from tests.support.injections import INJECTIONS

BUILD = BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", commit_sha="badc0de", passed=9, failed=1)
TEXTS = ("root_cause", "suggested_fix")
FINDINGS = Answer((AnswerClaim("A test failed.", ("test:1001",)),), "product_bug", "assert 9 == 10", 0.7)


def make_evidence(text: str = "assert 9 == 10", message: str = "Why did this fail?", name: str = "test_1") -> Evidence:
    """Evidence with a text in each place where people and programs write texts."""
    build = BuildFacts(9812, 3, text, "failed", detail=text, branch=text, commit_sha="badc0de", failed=1)
    return with_sources(
        Evidence(
            Question("chat", 12, 9812, message=message, earlier=((message, text),)),
            build=build,
            failures=(FailedTest(1001, 1, name, text, text, suite=text),),
            excerpts=(LogExcerpt(10, 12, (text, text)),),
            past=(PastFailure(990, 9800, name, text, True),),
        )
    )


def data_of(prompt: Prompt) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(prompt.data)
    return read


def test_a_prompt_has_the_evidence_and_what_rules_found() -> None:
    prompt = build_prompt(make_evidence(), FINDINGS)
    data = data_of(prompt)
    assert data["question"] == {
        "kind": "chat",
        "text": "Why did this fail?",
        "earlier": [{"question": "Why did this fail?", "reply": "assert 9 == 10"}],
    }
    assert prompt.refs == tuple(source["ref"] for source in data["sources"])
    assert prompt.refs[0] == "test:1001", "what the findings cite comes first"
    assert set(prompt.refs) == {"test:1001", "build:9812", "commit:badc0de", "log:9812:10-12", "test:990"}
    assert data["findings"]["classification"] == "product_bug"
    claims = prompt.schema["properties"]["claims"]
    sources = claims["items"]["properties"]["sources"]
    assert [source["id"] for source in data["sources"]] == sources["items"]["enum"] == [1, 2, 3, 4, 5]
    assert data["findings"]["claims"] == [{"text": "A test failed.", "sources": [1]}]
    texts = (claims["items"]["properties"]["text"], *(prompt.schema["properties"][name] for name in TEXTS))
    bounds = (claims["maxItems"], sources["maxItems"], *(text["maxLength"] for text in texts))
    assert bounds == (4, 3, 300, 300, 300), "a small model would repeat itself without end"


@pytest.mark.parametrize("text", INJECTIONS)
def test_instructions_in_texts_stay_data(text: str) -> None:
    prompt, plain = build_prompt(make_evidence(text, text, text), FINDINGS), build_prompt(make_evidence(), FINDINGS)
    assert (prompt.instructions, prompt.refs, prompt.schema) == (INSTRUCTIONS, plain.refs, plain.schema)
    data, other = data_of(prompt), data_of(plain)
    assert (data.keys(), data["question"].keys()) == (other.keys(), other["question"].keys())
    assert [source["ref"] for source in data["sources"]] == [source["ref"] for source in other["sources"]]
    for token in ("<", "[INST]", "[/INST]", "[TOOL_CALLS]", "[SYSTEM_PROMPT]"):
        assert token not in prompt.data
    assert all(c.isprintable() for c in prompt.data)


def test_secrets_and_people_are_masked() -> None:
    secret, person = "password=hunter22", "ann.lee@mail.example.com"
    prompt = build_prompt(make_evidence(f"{secret} {person} 10.1.2.3", f"{secret} {person}", f"t[{person}]"), FINDINGS)
    for text in ("hunter22", "ann.lee", "10.1.2.3"):
        assert text not in prompt.text


def test_prompts_are_bounded() -> None:
    tests = tuple(FailedTest(number, number, "t" * 300, "word " * 400, "word " * 800) for number in range(1, 200))
    evidence = with_sources(Evidence(Question("chat", 12, 9812, message="why " * 10_000), build=BUILD, failures=tests))
    cited = Answer((AnswerClaim("It failed.", ("test:7",)),))
    prompt = build_prompt(evidence, cited)
    sources = data_of(prompt)["sources"]
    assert len(sources) <= MAX_SOURCES
    lengths = [len(source["text"]) for source in sources]
    assert sum(lengths) <= MAX_SOURCES_TEXT
    assert (sources[0]["ref"], lengths[0], max(lengths[1:])) == ("test:7", 1_999, 599), "more of what the findings cite"
    assert prompt.max_tokens < 11_000


def test_prompts_of_a_conversation_begin_with_the_same_text() -> None:
    """Servers keep the processed beginning of a prompt."""
    first, second = (build_prompt(make_evidence(message=text), FINDINGS).text for text in ("Why?", "Is it flaky?"))
    assert second.startswith(first[: first.index('"question"')])


@hypothesis.given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_data(text: str, name: str) -> None:
    prompt = build_prompt(make_evidence(text, text, name), FINDINGS)
    assert set(data_of(prompt)) == {"question", "sources", "findings"}
    assert "<" not in prompt.data
