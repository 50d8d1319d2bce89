"""Where tests began to fail, as a diagnosis judges it: failures that last count before flaky ones, and no commit is
blamed for a failure that was there before.
"""

from typing import Any

import msgspec
import pytest

from domain.assistant.answers import Answer, Question
from domain.assistant.builtin_answers import answer
from domain.assistant.evidence import (
    MAX_PAST_BUILDS,
    BuildFacts,
    Evidence,
    FailedTest,
    FailureStart,
    IssueFacts,
    PastFailure,
    TestRecord,
    with_sources,
)
from domain.assistant.failure_starts import is_lasting, is_unlike, mark_recurring
from domain.failures.first_failures import LASTING_BUILDS

BUILD = BuildFacts(9812, 3, "Unit", "failed", "tests_failed", commit_sha="badc0de", failed=3)
SINCE_COMMIT = FailureStart(9812, "badc0de", 9810, "600d", 1, "commit")
FLAKY_RECORD = TestRecord(95, 9, 0.98, 0.1, 0.0)
BROKEN_RECORD = TestRecord(31, 31, 0.02, 0.1, 0.99)


def make_test(number: int, message: str, **fields: Any) -> FailedTest:
    return FailedTest(number, number, f"t::{number}", message, signature=f"{number:016x}", **fields)


def fail_since(builds: int, good: int | None = None) -> FailureStart:
    return FailureStart(9812 - builds, "abc", good, None, builds, "unknown")


def make_past(test: FailedTest, build_id: int) -> PastFailure:
    return PastFailure(90, build_id, test.name, test.message, True, test.signature)


def ask(*tests: FailedTest, past: tuple[PastFailure, ...] = (), message: str = "") -> Answer:
    question = Question("chat" if message else "diagnosis", 12, build_id=9812, message=message)
    issues = (IssueFacts(7, "Gateway", "product_bug", "XK-77"),)
    marked = tuple(mark_recurring(tests, past))
    return answer(with_sources(Evidence(question, build=BUILD, failures=marked, past=past, issues=issues)))


@pytest.mark.parametrize(
    "fields",
    [{"first_bad": fail_since(31), "record": BROKEN_RECORD}, {"first_bad": fail_since(23)}, {"record": BROKEN_RECORD}],
    ids=["always failed", "always failed on its branch", "not traced"],
)
def test_a_test_that_fails_in_each_run_counts_before_flaky_ones(fields: dict[str, Any]) -> None:
    flaky = [make_test(number, "AssertionError: race lost", record=FLAKY_RECORD) for number in (1, 2)]
    found = ask(*flaky, make_test(3, "KeyError: 'currency'", **fields))
    assert found.root_cause == "KeyError: 'currency'"
    assert found.next_step is None or found.next_step.action != "quarantine"


def test_a_failure_lasts_if_it_has_been_there_for_some_builds() -> None:
    few, enough = (make_test(1, "x", first_bad=fail_since(builds)) for builds in (LASTING_BUILDS - 1, LASTING_BUILDS))
    assert (is_lasting(few), is_lasting(enough)) == (False, True)
    same = msgspec.structs.replace(fail_since(9, 9801), cause="same_commit")
    assert not is_lasting(make_test(1, "x", first_bad=same))


def test_a_known_issue_that_comes_and_goes_came_with_no_commit() -> None:
    fields = {"classification": "product_bug", "classified_by": "rule", "known_issue_id": 7}
    known = make_test(1, "RuntimeError: XK-77 gateway", first_bad=SINCE_COMMIT, **fields)
    new = make_test(2, "TypeError: None is not callable", first_bad=FailureStart(9811, "b", 9810, "a", 2, "commit"))
    past = tuple(make_past(known, build) for build in (9711, 9722))
    found = ask(known, new, past=past)
    assert found.root_cause == new.message
    assert found.next_step is not None
    alone = ask(known, past=past)
    assert "commit" not in alone.text
    assert "since the last build that passed" not in alone.suggested_fix
    history = ask(known, past=past, message="history of this test").text
    assert "failed again in build 9812. It failed before, too, so the commits in between are probably not" in history


def test_a_flaky_test_came_with_no_commit() -> None:
    person = make_test(1, "x", first_bad=SINCE_COMMIT, record=FLAKY_RECORD, classification="test_bug")
    judged = msgspec.structs.replace(person, classified_by="user")
    reply = ask(judged, message="is it flaky?")
    assert reply.next_step is None or "commit" not in reply.next_step.text


def test_only_failures_before_the_last_success_are_earlier_ones() -> None:
    test = make_test(1, "KeyError: 'currency'", first_bad=FailureStart(9811, "b", 9810, "a", 2, "commit"))
    other = msgspec.structs.replace(make_past(test, 9700), name="t::other")
    assert mark_recurring([test], [make_past(test, 9811), other]) == [test]
    (again,) = mark_recurring([test], [make_past(test, 9700)])
    assert again.first_bad is not None
    assert again.first_bad.cause == "recurring"


@pytest.mark.parametrize(
    ("is_first", "words"), [(True, "since its first run on the branch, in build 9789"), (False, "as far back as")]
)
def test_the_first_run_is_named_if_the_test_never_passed(is_first: bool, words: str) -> None:
    began = msgspec.structs.replace(fail_since(23), is_first_run=is_first)
    assert words in ask(make_test(1, "x", first_bad=began), message="when did this test start failing?").text


def test_a_count_that_was_cut_is_a_least_one() -> None:
    test = make_test(1, "KeyError: 'currency'", earlier_failures=MAX_PAST_BUILDS)
    past = tuple(make_past(test, build) for build in (9701, 9702))
    assert "was in at least 2 earlier builds" in ask(test, past=past).text
    whole = msgspec.structs.replace(test, earlier_failures=MAX_PAST_BUILDS - 1)
    assert "was in 2 earlier builds" in ask(whole, past=past).text


def test_running_a_build_again_does_not_mend_what_came_with_a_commit() -> None:
    refused = [make_test(n, "ConnectionRefusedError: [Errno 111] Connection refused") for n in (1, 2, 3)]
    step = ask(*refused, make_test(4, "AssertionError: tax is 0", first_bad=SINCE_COMMIT)).next_step
    assert step is not None
    assert step.action == "rerun"
    assert "What came with commit badc0de will fail again" in step.text


def test_an_outage_came_with_no_commit() -> None:
    began = msgspec.structs.replace(SINCE_COMMIT, cause="unknown")
    test = make_test(1, "OSError: [Errno 28] No space left on device", first_bad=began)
    assert "came with a commit" not in ask(test, message="when did this test start failing?").text


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        (["AssertionError: race lost"] * 2, True),
        (["AssertionError: race lost"], False),
        (["AssertionError: race lost", "TypeError: y"], False),
        (["AssertionError: race lost", "race lost"], False),
        (["", ""], False),
    ],
)
def test_a_failure_is_unlike_earlier_ones_with_errors_of_other_types(earlier: list[str], expected: bool) -> None:
    assert is_unlike(make_test(1, "TypeError: 'NoneType' object is not iterable"), earlier) is expected


def test_a_failure_unlike_the_earlier_ones_of_a_flaky_test_is_not_one_of_them() -> None:
    test = make_test(1, "TypeError: None is not callable", first_bad=SINCE_COMMIT, record=FLAKY_RECORD)
    (unlike,) = mark_recurring([test], (), {test.result_id})
    assert unlike.first_bad == SINCE_COMMIT
    question = Question("diagnosis", 12, build_id=9812)
    found = answer(with_sources(Evidence(question, build=BUILD, failures=(unlike,))))
    assert found.classification == "product_bug"
    assert "Its earlier failures that were looked at had errors of other types." in found.text
    asked = Question("chat", 12, build_id=9812, message="is it flaky?")
    reply = answer(with_sources(Evidence(asked, build=BUILD, failures=(unlike,)))).text
    assert "but this failure is unlike those before" in reply
