"""Sentences of answers without a language model."""

import pytest

from domain.assistant.evidence import BuildFacts, IssueFacts, LogExcerpt
from tests.commands.test_builtin_answers import ASSERTION, ask, make_test


def test_a_known_issue_is_not_named_twice() -> None:
    issue = IssueFacts(7, ASSERTION, "infra")
    test = make_test(classification="infra", classified_by="rule", known_issue_id=7)
    assert ask(test, issues=(issue,)).root_cause == f"Known issue: {ASSERTION}"
    assert ask(test, issues=(IssueFacts(7, "Sums", "infra"),)).root_cause == f"Known issue: Sums: {ASSERTION}"


def test_a_build_that_never_ran_took_no_time() -> None:
    build = BuildFacts(9812, 3, "Nightly", "aborted", "stopped_by_user")
    assert "after" not in ask(kind="summary", build=build).claims[0].text
    assert ask(kind="chat", build=build, message="How long did it take?").text == "Build 9812 has not run."


@pytest.mark.parametrize("message", ["Why did it fail?", "Which tests failed?"])
def test_a_reply_about_a_build_that_passed_names_failures_that_did_not_count(message: str) -> None:
    build = BuildFacts(9813, 3, "Nightly", "passed", passed=10, quarantined=2, known_issues=1)
    text = ask(kind="chat", build=build, message=message).text
    assert "It did not fail. Of its failures, 2 quarantined and 1 known to the reporter did not count." in text


def test_what_is_not_understood_says_in_which_language_to_ask() -> None:
    assert ask(kind="chat", message="Warum denn bloss?").text.endswith("It understands English only.")


def test_the_heading_of_a_trace_says_nothing_however_it_is_indented() -> None:
    lines = ("      Traceback (most recent call last):", "        run()", "      RuntimeError: set SHOP_VERSION first")
    build = BuildFacts(9812, 3, "Nightly", "failed", "command_failed")
    found = ask(build=build, excerpts=(LogExcerpt(1, 3, lines, 0.7, ("exception",)),))
    assert found.root_cause == "The command of the job failed: RuntimeError: set SHOP_VERSION first"
