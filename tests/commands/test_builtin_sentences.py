"""Sentences of answers without a language model."""

from typing import Any

import pytest

from domain.assistant.evidence import BuildFacts, ChangeFacts, FailureStart, IssueFacts, LogExcerpt, PastFailure
from domain.triage import Source
from tests.commands.test_builtin_answers import ASSERTION, ask, make_test

CHANGE = ChangeFacts("badc0de", 9810, 9811, "Round sums", "Ann", ("src/cart.py",), 1)
BROKEN = FailureStart(9811, "badc0de", 9810, "600d", 2, "commit")


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
    tests = [make_test(number=number, is_quarantined=True) for number in (1, 2)]
    found = ask(*tests, kind="chat", build=build, message=message)
    assert "did not count: tests/test_cart.py::test_1, tests/test_cart.py::test_2 and 1 more." in found.text
    assert {"build:9813", "test:1001", "test:1002"} <= set(found.sources)


@pytest.mark.parametrize("question", [{"kind": "summary"}, {"kind": "chat", "message": "Did it pass?"}])
def test_what_is_said_of_a_build_that_passed_names_the_results_that_it_lacks(question: Any) -> None:
    detail = "2 quarantined failures were ignored. The report r.xml says that it lacks tests."
    build = BuildFacts(9813, 3, "Nightly", "passed", detail=detail, passed=10, quarantined=2)
    text = ask(build=build, **question).text
    assert text.endswith("Of its failures, 2 quarantined did not count. The report r.xml says that it lacks tests.")
    build = BuildFacts(9813, 3, "Nightly", "passed", detail="1,200 quarantined failures were ignored.")
    assert "ignored" not in ask(build=build, **question).text


def test_a_change_is_named_by_what_shows_the_changed_file() -> None:
    test = make_test(trace='File "/build/src/cart.py", line 3', first_bad=BROKEN)
    claim = "src/cart.py was changed in commit badc0de by Ann (“Round sums”), and"
    assert f"{claim} the trace passes through it." in ask(test, changes=(CHANGE,)).text
    log = LogExcerpt(4, 5, ("src/cart.py:3: error", "make: Error 1"), 0.7, ("source_error",))
    without_tests = BuildFacts(9811, 3, "Nightly", "failed", "command_failed")
    found = ask(build=without_tests, excerpts=(log,), changes=(CHANGE,))
    assert f"{claim} the log names it." in found.text
    assert "log:9811:4-5" in found.sources


def test_a_failure_of_the_network_is_blamed_on_no_change() -> None:
    test = make_test("OSError: connection refused", first_bad=BROKEN)
    assert "badc0de by Ann" not in ask(test, changes=(CHANGE,)).text
    assert "badc0de by Ann" in ask(make_test(first_bad=BROKEN), changes=(CHANGE,)).text


def test_only_earlier_failures_that_are_like_those_of_the_answer_are_named() -> None:
    alike = PastFailure(7, 9000, "test_2", "wrong sum", False, "0123456789abcdef")
    other = PastFailure(8, 9001, "test_3", "no page", False, "fedcba9876543210")
    text = ask(make_test(signature=alike.signature), past=(other, alike)).text
    assert "A similar failure is that of test_2 in build 9000: wrong sum." in text
    assert "test_3" not in text


@pytest.mark.parametrize(("by", "is_named"), [("user", True), ("rule", True), ("statistics", False), ("ai", False)])
def test_only_what_people_and_rules_have_said_is_an_earlier_classification(by: Source, is_named: bool) -> None:
    signature = "0123456789abcdef"
    past = PastFailure(7, 9000, "test_1", ASSERTION, True, signature, "test_bug", by)
    text = ask(make_test(signature=signature), past=(past,)).text
    assert "The same failure was in 1 earlier build, at last in 9000" in text
    assert ("9000, classified as test_bug." in text) is is_named


@pytest.mark.parametrize(
    ("builds", "named"), [("build 7", "build 7 was"), ("build 7 and build 8", "builds 7 and 8 were")]
)
def test_builds_that_are_not_found_are_named(builds: str, named: str) -> None:
    assert f"No {named} found that you can read." in ask(kind="chat", build=None, message=f"Why is {builds} red?").text


def test_a_list_of_failed_tests_says_how_many_it_leaves_out() -> None:
    tests = [make_test(number=number) for number in range(1, 13)]
    build = BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", failed=14)
    text = ask(*tests, kind="chat", build=build, message="Which tests failed?").text
    assert "14 tests of build 9812 failed." in text
    assert "4 failures of the build are not listed here." in text
    assert ("test_10:" in text, "test_11:" in text) == (True, False)


def test_advice_about_a_failure_of_the_network_names_no_change() -> None:
    test = make_test("OSError: connection refused", first_bad=BROKEN)
    advice = ask(test, kind="chat", message="What should I do?", changes=(CHANGE,))
    assert "badc0de by Ann" not in advice.text
    assert "POST /api/v3/builds/9812/restart" in advice.text


def test_what_is_not_understood_says_in_which_language_to_ask() -> None:
    assert ask(kind="chat", message="Warum denn bloss?").text.endswith("It understands English only.")


def test_the_heading_of_a_trace_says_nothing_however_it_is_indented() -> None:
    lines = ("      Traceback (most recent call last):", "        run()", "      RuntimeError: set SHOP_VERSION first")
    build = BuildFacts(9812, 3, "Nightly", "failed", "command_failed")
    found = ask(build=build, excerpts=(LogExcerpt(1, 3, lines, 0.7, ("exception",)),))
    assert found.root_cause == "The command of the job failed: RuntimeError: set SHOP_VERSION first"
