"""Answers without a language model: diagnoses, summaries and chat replies from given evidence."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.assistant.answers import Answer, Kind, Question
from domain.assistant.builtin_answers import answer
from domain.assistant.chat_intents import find_intent
from domain.assistant.evidence import (
    BuildFacts,
    BuildSummary,
    Evidence,
    FailedTest,
    FailureGroup,
    FailurePatternFacts,
    FailureStart,
    FlakyTestFacts,
    IssueFacts,
    LogExcerpt,
    PastFailure,
    ProjectFacts,
    TestRecord,
    excerpt_log,
    with_sources,
)
from domain.triage import CLASSIFICATIONS, Classification

SIGNATURE = "0123456789abcdef"
ASSERTION = "AssertionError: assert 9 == 10"
BUILD = BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", commit_sha="badc0de", passed=9, failed=1, duration_s=7)
COMMAND_FAILED = BuildFacts(9812, 3, "Nightly", "failed", "command_failed", exit_code=1)
BROKEN_BY_COMMIT = FailureStart(9811, "badc0de", 9810, "600d", 2, "commit")
PASSED_ON_COMMIT = FailureStart(9812, "badc0de", 9810, "badc0de", 1, "same_commit")
FLAKY = TestRecord(100, 9, 0.98, 0.09, 0.01)


def make_test(message: str = ASSERTION, number: int = 1, **fields: Any) -> FailedTest:
    return FailedTest(1000 + number, number, f"tests/test_cart.py::test_{number}", message, **fields)


def ask(*tests: FailedTest, kind: Kind = "diagnosis", message: str = "", **fields: Any) -> Answer:
    question = Question(kind, 12, build_id=9812, message=message)
    return answer(with_sources(Evidence(question, build=fields.pop("build", BUILD), failures=tests, **fields)))


def test_an_assertion_that_fails_since_a_commit_is_a_defect_of_the_product() -> None:
    found = ask(make_test(first_bad=BROKEN_BY_COMMIT, signature=SIGNATURE))
    assert found.classification == "product_bug"
    assert found.root_cause == ASSERTION
    assert 0.6 < found.confidence < 0.9
    assert {"build:9812", "test:1001", "build:9810", "commit:badc0de"} <= set(found.sources)
    assert "passed in build 9810 and fails since build 9811" in found.text
    assert found.next_step is not None
    assert (found.next_step.method, found.next_step.path) == ("POST", "/known-issues")
    assert found.next_step.body["signature"] == SIGNATURE


def test_a_test_that_passed_on_the_commit_is_flaky() -> None:
    found = ask(make_test(first_bad=PASSED_ON_COMMIT))
    assert (found.classification, found.confidence) == ("flaky", 0.85)
    assert "build:9810" in found.sources
    assert found.next_step is not None
    assert found.next_step.action == "quarantine"
    assert found.next_step.body == {
        "job_id": 3,
        "action": "add",
        "node_ids": ["tests/test_cart.py::test_1"],
        "reason": "flaky",
    }


def test_history_says_that_a_test_is_flaky() -> None:
    found = ask(make_test(record=FLAKY))
    assert found.classification == "flaky"
    assert "9 of 100 runs" in found.text
    assert "test_case:1" in found.sources


def test_one_failure_does_not_show_that_a_test_is_flaky() -> None:
    once = TestRecord(100, 1, 0.98, 0.01, 0.01)
    assert ask(make_test(record=once)).classification == "product_bug"
    since = TestRecord(100, 2, 0.98, 0.01, 0.01)
    assert ask(make_test(record=since, first_bad=BROKEN_BY_COMMIT)).classification == "product_bug"


def test_a_broken_test_is_not_flaky_by_its_history() -> None:
    broken = TestRecord(100, 9, 0.98, 0.09, 0.9)
    assert ask(make_test(record=broken)).classification == "product_bug"


@pytest.mark.parametrize(
    ("message", "classification", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "infra", "disk"),
        ("java.lang.OutOfMemoryError: Java heap space", "infra", "memory"),
        ("requests.exceptions.ConnectionError: [Errno 111] Connection refused", "infra", "refused"),
        ("psycopg.OperationalError: could not translate host name: Name or service not known", "infra", "DNS"),
        ("fixture 'databse' not found", "test_bug", "fixture"),
        ("NameError: name 'cart' is not defined", "test_bug", "cart"),
        ("expect(received).toBe(expected)", "product_bug", "toBe"),
        ("StaleElementReferenceException: element is not attached", "flaky", "page"),
        ("AssertionError: assert 'Connection refused' == 'ok'", "product_bug", "assert"),
    ],
)
def test_words_of_a_message_say_the_cause(message: str, classification: str, words: str) -> None:
    found = ask(make_test(message))
    assert found.classification == classification
    assert words in found.root_cause
    assert "test:1001" in found.sources


def test_a_full_disk_counts_more_than_a_flaky_history() -> None:
    found = ask(make_test("OSError: [Errno 28] No space left on device", record=FLAKY))
    assert found.classification == "infra"
    assert found.next_step is not None
    assert (found.next_step.action, found.next_step.path) == ("rerun", "/builds/9812/restart")


def test_a_person_counts_most() -> None:
    found = ask(make_test(first_bad=PASSED_ON_COMMIT, classification="test_bug", classified_by="user"))
    assert (found.classification, found.confidence) == ("test_bug", 0.95)


def test_a_known_issue_is_named() -> None:
    test = make_test(classification="infra", classified_by="rule", known_issue_id=7)
    found = ask(test, issues=(IssueFacts(7, "Payment sandbox down", "infra", "OPS-1"),))
    assert found.classification == "infra"
    assert "Payment sandbox down" in found.root_cause
    assert "known_issue:7" in found.sources


def test_people_have_classified_the_signature_before() -> None:
    given: tuple[Classification, ...] = ("test_bug", "test_bug", "infra")
    past = tuple(
        PastFailure(number, 9000 + number, "test_1", ASSERTION, True, SIGNATURE, which, "user")
        for number, which in enumerate(given)
    )
    found = ask(make_test(signature=SIGNATURE), past=past)
    assert found.classification == "test_bug"
    assert 0.5 < found.confidence < 0.7
    assert {"test:0", "test:1"} <= set(found.sources)
    assert "test:2" not in found.sources[:4]


def test_people_have_classified_similar_failures_of_other_tests() -> None:
    past = PastFailure(7, 9000, "test_2", ASSERTION, False, SIGNATURE, "test_bug", "user")
    found = ask(make_test("strange thing", signature=SIGNATURE), past=(past,))
    assert (found.classification, found.confidence) == ("test_bug", 0.7)
    assert "test:7" in found.sources
    flaky = ask(make_test("strange thing", signature=SIGNATURE, first_bad=PASSED_ON_COMMIT), past=(past,))
    assert flaky.classification == "flaky"


def test_the_cause_of_most_failures_counts() -> None:
    refused = [make_test("ConnectionRefusedError: [Errno 111] Connection refused", number) for number in (1, 2, 3)]
    found = ask(*refused, make_test(number=4, first_bad=BROKEN_BY_COMMIT))
    assert (found.classification, found.affected_tests) == ("infra", 3)
    assert "test:1004" in found.sources
    assert found.confidence < 0.82


def test_equal_failures_that_were_not_looked_at_are_affected() -> None:
    test = make_test("ConnectionRefusedError: [Errno 111] Connection refused", signature=SIGNATURE)
    assert ask(test, groups=(FailureGroup(SIGNATURE, 14, ""),)).affected_tests == 14


@pytest.mark.parametrize(
    ("line", "classification"),
    [
        ("npm ERR! code ENOTFOUND", "infra"),
        ("src/cart.c:12:5: error: expected ';' before 'return'", "product_bug"),
        ("ERROR: No matching distribution found for shop-core==9.9", "product_bug"),
        ("bash: mvn: command not found", "infra"),
        ("ERROR collecting tests/test_cart.py", "test_bug"),
    ],
)
def test_the_log_says_why_a_command_failed(line: str, classification: str) -> None:
    found = ask(build=COMMAND_FAILED, excerpts=excerpt_log(["+ make", "working", line, "make: *** [all] Error 1"]))
    assert found.classification == classification
    assert line[:30].strip() in found.root_cause
    assert any(ref.startswith("log:9812:") for ref in found.sources)


def test_a_log_without_known_words_is_a_guess() -> None:
    found = ask(build=COMMAND_FAILED, excerpts=(LogExcerpt(3, 3, ("frobnication failed",), 0.3, ("error_word",)),))
    assert (found.classification, found.confidence) == (None, 0.3)
    assert found.root_cause == "The command of the job failed: frobnication failed"
    assert found.claims[-1].is_guess
    assert "log:9812:3-3" in found.sources


def test_errors_that_passed_tests_report_are_no_cause() -> None:
    log = [
        "ERROR:shop.disk:No space left on device, as the test wants",
        "FAIL: test_total (t.Test)",
        "AssertionError: 5 != 6",
    ]
    found = ask(build=COMMAND_FAILED, excerpts=excerpt_log(log))
    assert (found.classification, "5 != 6" in found.root_cause) == ("product_bug", True)


@pytest.mark.parametrize(
    ("message", "trace", "classification"),
    [
        ("SyntaxError: expected ':'", 'File "/ci/tests/test_x.py", line 3\nSyntaxError: expected', "test_bug"),
        ("SyntaxError: x", 'File "/ci/tests/test_x.py", line 1\nFile "/ci/shop/cart.py", line 3', "product_bug"),
        ("ReferenceError: total is not defined", "at f (src/cart.test.js:5:3)\nat y (src/x.js:1:1)", "test_bug"),
        ("ReferenceError: total is not defined", "at f (src/cart.js:5:3)\nat y (src/x.test.js:1:1)", "product_bug"),
    ],
)
def test_the_innermost_file_tells_mistakes_of_tests(message: str, trace: str, classification: str) -> None:
    assert ask(make_test(message, trace=trace)).classification == classification


def test_a_line_that_announces_another_is_shown_with_it() -> None:
    log = ["● Test suite failed to run", "", "  Cannot find module '../src/menu' from 'src/menu.test.js'"]
    found = ask(build=COMMAND_FAILED, excerpts=excerpt_log(log))
    assert "Cannot find module '../src/menu'" in found.root_cause


def test_a_failed_test_in_a_log_is_named_with_its_message() -> None:
    log = [
        "______________ test_adds_up ______________",
        "    def test_adds_up():",
        "        cart = Cart()",
        ">       assert cart.total == 12",
        "E       assert 11 == 12",
        "tests/test_cart.py:14: AssertionError",
    ]
    found = ask(build=COMMAND_FAILED, excerpts=excerpt_log(log))
    assert (found.classification, found.confidence) == ("product_bug", 0.6)
    assert found.root_cause == "The command of the job failed: test_adds_up: assert 11 == 12"


def test_an_assertion_in_a_log_is_not_of_the_infrastructure() -> None:
    log = ["FAIL: test_refused (t.Test)", "AssertionError: 'Connection refused' != 'ok'"]
    assert ask(build=COMMAND_FAILED, excerpts=excerpt_log(log)).classification == "product_bug"


def test_the_log_says_why_assertions_failed() -> None:
    log = excerpt_log(["OSError: [Errno 28] No space left on device"])
    found = ask(make_test("AssertionError: assert 500 == 200"), excerpts=log)
    assert found.classification == "infra"
    assert ask(make_test(first_bad=BROKEN_BY_COMMIT), excerpts=log).classification == "product_bug"


def test_nothing_is_certain_without_evidence() -> None:
    unknown = BuildFacts(9812, 3, "Nightly", "failed", None)
    found = ask(build=unknown)
    assert (found.classification, found.next_step) == (None, None)
    assert found.confidence <= 0.2


def test_a_lost_agent_is_of_the_infrastructure() -> None:
    lost = BuildFacts(9812, 3, "Nightly", "aborted", "agent_lost")
    assert ask(build=lost).classification == "infra"


def test_a_summary_says_how_the_tests_did() -> None:
    build = BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", passed=1226, failed=14)
    tests = [make_test("ReadTimeout: read timed out", n, signature=SIGNATURE) for n in (1, 2)]
    reply = ask(*tests, make_test(number=3, record=FLAKY), kind="summary", build=build)
    assert reply.text.startswith("Build 9812 of job Nightly failed. It ran 1,240 tests, 14 failed.")
    assert "1 failed test appears flaky based on history" in reply.text
    assert reply.sources[0] == "build:9812"


def test_a_summary_of_a_build_that_passed_has_no_cause() -> None:
    passed = BuildFacts(9813, 3, "Nightly", "passed", passed=10, quarantined=1)
    reply = ask(kind="summary", build=passed)
    assert reply.text == (
        "Build 9813 of job Nightly passed. It ran 10 tests, 0 failed. Of its failures, 1 quarantined did not count."
    )


@pytest.mark.parametrize(
    ("message", "intent"),
    [
        ("Why did this build fail?", "why"),
        ("why is the nightly red", "why"),
        ("Summarize this build", "summary"),
        ("What happened here?", "summary"),
        ("Is test_login flaky?", "flaky"),
        ("What changed since the last green build?", "changed"),
        ("Which commit broke the test?", "changed"),
        ("Has this failed before?", "history"),
        ("What should I do next?", "next"),
        ("ok, what now?", "next"),
        ("How do I fix it?", "next"),
        ("Which tests failed?", "tests"),
        ("How long did it take?", "duration"),
        ("Write me a poem about ducks", "unknown"),
        ("", "unknown"),
    ],
)
def test_intents(message: str, intent: str) -> None:
    assert find_intent(message) == intent


@pytest.mark.parametrize(
    ("message", "words", "ref"),
    [
        ("Why did it fail?", "a defect of the product", "test:1001"),
        ("Is it flaky?", "it is rather broken than flaky", "test_case:1"),
        ("What changed?", "first failed in build 9811", "build:9810"),
        ("Did this happen before?", "1 earlier build, at last in 9000", "test:41"),
        ("Which tests failed?", f"test_1: {ASSERTION}", "test:1001"),
        ("What next?", "POST /api/v3/known-issues", "test:1001"),
        ("How long did it take?", "7 s", "build:9812"),
    ],
)
def test_replies(message: str, words: str, ref: str) -> None:
    reply = ask(
        make_test(first_bad=BROKEN_BY_COMMIT, record=TestRecord(20, 2, 0.1, 0.01, 0.9), signature=SIGNATURE),
        kind="chat",
        message=message,
        past=(PastFailure(41, 9000, "test_1", ASSERTION, True, SIGNATURE),),
        earlier=(BuildSummary(9810, "passed", commit_sha="600d"),),
    )
    assert words in reply.text
    assert ref in reply.sources


def test_a_reply_says_what_is_not_known() -> None:
    assert "does not know" in ask(kind="chat", message="Will it rain?").text
    assert "No build was found" in answer(Evidence(Question("chat", 12, message="Why did it fail?"))).text
    assert "Nothing is known that says" in ask(make_test(), kind="chat", message="Is it flaky?").text
    assert "not known what changed" in ask(make_test(), kind="chat", message="What changed?").text
    passed = BuildFacts(9813, 3, "Nightly", "passed", passed=10)
    assert "It did not fail." in ask(kind="chat", message="Why did it fail?", build=passed).text
    running = BuildFacts(9813, 3, "Nightly", "running")
    assert "has not ended yet" in ask(kind="chat", message="Why did it fail?", build=running).text


def test_a_project_is_described() -> None:
    facts = ProjectFacts(
        12,
        14,
        82,
        18,
        95,
        5,
        (FlakyTestFacts(5, "test_pay", 0.34, 50, 17),),
        (FailurePatternFacts("Timeout", 4, 9, 8),),
    )
    reply = answer(with_sources(Evidence(Question("chat", 12, message="How are the builds?"), project=facts)))
    assert "82% of 100 builds passed in the last 14 days, down from 95%" in reply.text
    assert reply.sources == ["project:12", "test_case:5", "test:9"]


TESTS = st.builds(
    FailedTest,
    st.integers(1, 50),
    st.integers(1, 9),
    st.sampled_from(["a::test_x", "b::test_y"]),
    st.one_of(st.text(max_size=60), st.sampled_from(["Killed", "assert 1 == 2", "ECONNRESET", "NameError: x"])),
    st.text(max_size=60),
    st.sampled_from(["", SIGNATURE]),
    is_flaky=st.booleans(),
    classification=st.none() | st.sampled_from(CLASSIFICATIONS),
    classified_by=st.sampled_from(["user", "rule", "ai"]),
    known_issue_id=st.none() | st.just(7),
    first_bad=st.none() | st.sampled_from([BROKEN_BY_COMMIT, PASSED_ON_COMMIT]),
    record=st.none() | st.just(FLAKY),
)
EVIDENCE = st.builds(
    Evidence,
    st.builds(
        Question,
        st.sampled_from(["chat", "diagnosis", "summary"]),
        st.just(12),
        message=st.sampled_from(["why", "flaky?", "what changed", "what next", "which tests failed", "hm", "history"]),
    ),
    build=st.none() | st.sampled_from([BUILD, COMMAND_FAILED, BuildFacts(1, 2, "J", "passed")]),
    failures=st.lists(TESTS, max_size=5, unique_by=lambda test: test.result_id).map(tuple),
    excerpts=st.lists(st.lists(st.text(max_size=40), min_size=1, max_size=3), max_size=2).map(
        lambda logs: tuple(LogExcerpt(10 * n, 10 * n + 2, tuple(lines)) for n, lines in enumerate(logs, 1))
    ),
    issues=st.just((IssueFacts(7, "Known", "infra"),)),
    past=st.just((PastFailure(41, 9000, "test_1", ASSERTION, True, SIGNATURE, "infra", "user"),)),
).map(with_sources)


@hypothesis.given(EVIDENCE)
def test_answers_cite_only_what_was_looked_up(evidence: Evidence) -> None:
    reply = answer(evidence)
    assert reply.claims
    assert 0 <= reply.confidence < 1
    known = {source.ref for source in evidence.sources}
    assert set(reply.sources) <= known
    assert all(claim.text.strip() and (claim.sources or evidence.build is None) for claim in reply.claims)
    assert reply.affected_tests <= len(evidence.failures)
    assert answer(evidence) == reply
