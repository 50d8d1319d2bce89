"""Names of projects, jobs and branches in chat messages."""

import pytest

from domain.assistant.chat_intents import find_intent
from domain.assistant.chat_names import (
    NameKind,
    describe_missing,
    find_branch_words,
    find_marked_names,
    find_misspelt,
    names,
)


@pytest.mark.parametrize(
    ("message", "kind", "name", "named"),
    [
        ("Which tests failed?", "job", "Tests", False),
        ("Why is Tests red?", "job", "Tests", False),
        ("Which tests failed in job Tests?", "job", "Tests", True),
        ("Why is the tests job red?", "job", "Tests", True),
        ('Why did "Tests" fail?', "job", "Tests", True),
        ("Did all tests of this project pass?", "job", "All tests", False),
        ("Why did the unit tests fail?", "job", "Unit tests", True),
        ("Why is the nightly red?", "job", "Nightly", True),
        ("What is the capital?", "job", "api", False),
        ("Is it a circle?", "job", "ci", False),
        ("Why is job CI red?", "job", "CI", True),
    ],
)
def test_a_common_word_is_a_name_only_if_it_is_marked(message: str, kind: NameKind, name: str, named: bool) -> None:
    assert names(message, kind, name) is named


@pytest.mark.parametrize(
    ("message", "marked"),
    [
        ("Why did job vault fail?", "job vault"),
        ("Why did the job hang?", ""),
        ("Why did the job Vault hang?", "job Vault"),
        ("Why is the feature branch of job Tests of project Shop red?", "branch feature, job Tests, project Shop"),
        ("Which branch is red, and which job failed?", ""),
        ("Why is the main branch red?", ""),
        ("What changed on branch feature/pay-2?", "branch feature/pay-2"),
        ("Why is the `unit tests` job red?", "job unit tests"),
        ("Is this job stuck?", ""),
        ("Why is release/1.0 branch red?", "branch release/1.0"),
        ("Did it fail on another branch?", ""),
    ],
)
def test_marked_names(message: str, marked: str) -> None:
    assert ", ".join(f"{one.kind} {one.name}" for one in find_marked_names(message)) == marked


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("Why did Vualt fail?", "Vualt"),
        ("Why did vaullt fail?", "vaullt"),
        ("Why did the vault fail?", None),
        ("Why did the vaults fail?", None),
        ("Why did fault 3 happen?", None),
    ],
)
def test_misspelt_names(message: str, written: str | None) -> None:
    assert find_misspelt(message, ["Lint", "Vault"]) == (None if written is None else (written, 1))


def test_branches_that_a_message_may_name() -> None:
    assert find_branch_words("Why is release/2.1 red, and the hotfix branch?") == ["hotfix", "release/2.1"]
    assert find_branch_words("Which tests failed in the last build of the job?") == []


def test_what_is_missing_is_named() -> None:
    assert describe_missing("Why did build 99 fail in job Tests?") == "No build 99 was found that you can read."
    assert describe_missing("Compare build 98 and build 99") == "No builds 98 and 99 were found that you can read."
    assert "No branch feature of job Lint was found" in describe_missing("Is branch feature of job Lint green?")
    assert describe_missing("Is Vualt red?", "Vault") == (
        "No job Vualt was found that you can read; there is a job Vault."
    )
    assert describe_missing("Is it red?", "Vault") == ""


@pytest.mark.parametrize(
    ("message", "intent"),
    [
        ("What is the slowest test?", "times"),
        ("Which tests take the longest?", "times"),
        ("How long did it take?", "duration"),
        ("Did build 14 pass?", "summary"),
        ("Is the nightly job ok?", "summary"),
        ("Which tests passed?", "summary"),
        ("Which tests failed?", "tests"),
        ("Did it ever pass before?", "history"),
    ],
)
def test_what_is_asked(message: str, intent: str) -> None:
    assert find_intent(message) == intent


@pytest.mark.parametrize("part", ["a", "job ", "the job ", "a.", "'", "/", "branch:", "\u2018"])
def test_a_hostile_message_has_few_names(part: str) -> None:
    message = (part * 4_000)[:4_000]
    assert len(find_branch_words(message)) <= 100
    assert find_misspelt(message, ["Vault", "Unit tests"]) is None
    assert len(find_marked_names(message)) <= 2
