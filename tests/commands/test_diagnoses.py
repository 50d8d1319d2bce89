"""Cause of a failed build, given the causes of its failures and its log."""

from itertools import permutations
from typing import Any

import msgspec
import pytest

from domain.assistant.answers import Answer, Question
from domain.assistant.builtin_answers import answer
from domain.assistant.diagnoses import FAR_MORE, Diagnosis, diagnose
from domain.assistant.evidence import (
    BuildFacts,
    Evidence,
    FailedTest,
    FailureGroup,
    FailureStart,
    IssueFacts,
    TestRecord,
    excerpt_log,
    with_sources,
)

COMMAND_FAILED = BuildFacts(9812, 3, "Nightly", "failed", "command_failed", exit_code=1)

SUMMARY = Question("summary", 12, build_id=9812)
TESTS_FAILED = BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", commit_sha="badc0de", failed=3)
BEGAN = FailureStart(9812, "badc0de", 9810, "600d", 1, "commit")
DISK_FULL = FailedTest(
    1, 1, "t::snapshot", "OSError: [Errno 28] No space left on device", signature="d", first_bad=BEGAN
)
TOTAL = FailedTest(2, 2, "t::total", "AssertionError: [1] != [2]", signature="t", first_bad=BEGAN)
TAX = FailedTest(3, 3, "t::tax", "AssertionError: StopIteration not raised", signature="x", first_bad=BEGAN)
FLAKY = FailedTest(4, 4, "t::queue", "AssertionError: 3 != 4", signature="q", record=TestRecord(90, 9, 0.98, 0.1, 0.0))


def diagnose_log(*lines: str) -> Diagnosis:
    evidence = Evidence(Question("diagnosis", 12, build_id=9812), build=COMMAND_FAILED, excerpts=excerpt_log(lines))
    return diagnose(evidence)


@pytest.mark.parametrize("echo", ["==> Command: ", "==> Setup: ", "+ ", "2026-11-28T05:00:00Z ++ "])
def test_what_a_command_would_print_is_not_what_it_printed(echo: str) -> None:
    command = "df / >/dev/null || { echo ERROR: No space left on device; exit 3; }; make"
    found = diagnose_log("started", f"{echo}{command}", "Python 3.11.7", "error: it went wrong", "==> Exit code 1")
    assert found.cause.classification != "infra"
    assert "space" not in found.cause.root_cause
    printed = diagnose_log(f"{echo}{command}", "ERROR: No space left on device", "==> Exit code 3")
    assert printed.cause.classification == "infra"


def find_evidence(*tests: FailedTest, failed: int = 3, **sizes: int) -> Evidence:
    build = TESTS_FAILED if failed == 3 else BuildFacts(9812, 3, "Nightly", "failed", "tests_failed", failed=failed)
    groups = tuple(FailureGroup(test.signature, sizes.get(test.signature, 1), test.message) for test in tests)
    question = Question("diagnosis", 12, build_id=9812)
    issues = (IssueFacts(7, "Cents are lost", "product_bug"),)
    return with_sources(Evidence(question, build=build, failures=tests, groups=groups, issues=issues))


def find_claim(found: Answer, words: str) -> tuple[str, bool]:
    return next((one.text, one.is_guess) for one in found.claims if words in one.text)


@pytest.mark.parametrize(
    "tests", list(permutations((DISK_FULL, TOTAL, TAX))), ids=lambda one: "".join(test.signature for test in one)
)
def test_what_came_with_a_commit_is_the_cause_whatever_the_order(tests: tuple[FailedTest, ...]) -> None:
    found = answer(find_evidence(*tests))
    assert (found.classification, found.affected_tests) == ("product_bug", 2)
    assert "commit badc0de" in found.text
    assert found.next_step is None or found.next_step.action != "rerun"
    text, is_guess = find_claim(found, "probably have this cause")
    assert {"t::total", "t::tax"} <= set(text.replace(".", "").replace(",", "").split())
    assert is_guess
    others, is_guess = find_claim(found, "other causes")
    assert "a problem of the infrastructure" in others
    assert not is_guess


@pytest.mark.parametrize(("other", "size"), [(DISK_FULL, FAR_MORE - 1), (FLAKY, 40)], ids=["disk", "flaky"])
def test_what_came_with_a_commit_counts_before_what_a_second_run_may_mend(other: FailedTest, size: int) -> None:
    found = diagnose(find_evidence(other, TOTAL, **{other.signature: size}))
    assert found.cause.root_cause == TOTAL.message
    assert found.affected == 1


def test_a_full_disk_that_nearly_all_failures_name_is_the_cause_but_the_commit_is_named() -> None:
    found = answer(find_evidence(DISK_FULL, TOTAL, d=FAR_MORE))
    assert found.classification == "infra"
    text, is_guess = find_claim(found, "other causes")
    assert "since build 9812 on commit badc0de" in text
    assert not is_guess
    assert "commit:badc0de" in found.sources


def test_a_commit_is_named_before_other_causes() -> None:
    flaky = [
        FailedTest(10 + n, 10 + n, f"t::flaky_{n}", f"E{n}", signature=f"f{n}", record=FLAKY.record) for n in range(5)
    ]
    known = FailedTest(
        9, 9, "t::known", "1", signature="k", known_issue_id=7, classification="product_bug", classified_by="rule"
    )
    found = answer(find_evidence(*flaky, known, TOTAL, failed=9, k=2))
    text, is_guess = find_claim(found, "other causes")
    assert text.index("since build 9812 on commit badc0de") < text.index("flakiness")
    assert text.endswith("and 3 more.")
    assert is_guess, "a defect of the product may be the one of the known issue"


def test_failures_that_began_in_other_builds_may_have_other_causes() -> None:
    before = FailedTest(
        3,
        3,
        "t::tax",
        "AssertionError: 3 != 4",
        signature="x",
        first_bad=FailureStart(9811, "b", 9810, "a", 2, "commit"),
    )
    found = answer(find_evidence(TOTAL, before))
    assert (found.affected_tests, find_claim(found, "other causes")[1]) == (1, True)


def test_the_commit_of_a_crash_is_named() -> None:
    crash = FailedTest(5, 5, "t::crash", "NullPointerException", signature="n", first_bad=BEGAN)
    found = answer(find_evidence(crash))
    text, _ = find_claim(found, "up to badc0de")
    assert text.startswith("t::crash last passed in build 9810 and first failed in build 9812")


@pytest.mark.parametrize(
    ("failed", "sentence"), [(3, "2 other failures were not looked at."), (2, "1 other failure was not looked at.")]
)
def test_failures_that_were_not_looked_at_are_counted(failed: int, sentence: str) -> None:
    assert sentence in answer(find_evidence(TOTAL, failed=failed)).text
    assert "looked at" not in answer(find_evidence(TOTAL, failed=failed, t=failed)).text


COLLECTION = """\
ImportError while importing test module '/srv/shop/tests/test_cart.py'.
Hint: make sure your test modules/packages have valid Python names.
Traceback:
/usr/lib/python3.11/importlib/__init__.py:126: in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
tests/test_cart.py:1: in <module>
    from shop import cart
"""


@pytest.mark.parametrize(
    ("raised", "classification", "title"),
    [
        (
            "shop/cart.py:1: in <module>\n    import decimals\nE   ModuleNotFoundError: No module named 'decimals'",
            "product_bug",
            "A module that is imported does not exist",
        ),
        (
            "shop/cart.py:1: in <module>\n    from app import shop\n"
            "E   ImportError: cannot import name 'shop' from 'app' (/srv/app.py)",
            "product_bug",
            "A module lacks a name that is imported from it",
        ),
        ('E     File "/srv/shop/cart.py", line 3\nE   SyntaxError: invalid syntax', "product_bug", "does not compile"),
        (
            "shop/cart.py:4: in <module>\n    x = {}['y']\nE   pkg.SettingError: 'y'",
            "product_bug",
            "code that they import",
        ),
        ("E   ModuleNotFoundError: No module named 'shop'", "test_bug", "Tests could not be loaded"),
        ("tests/conftest.py:4: in <module>\nE   ValueError: y", "test_bug", "Tests could not be loaded"),
    ],
)
def test_the_file_that_raised_an_error_says_whether_tests_or_what_they_import_is_wrong(
    raised: str, classification: str, title: str
) -> None:
    test = FailedTest(6, 6, "tests/test_cart.py", "collection failure", COLLECTION + raised, signature="c")
    of_test, of_log = diagnose(find_evidence(test)).cause, diagnose_log(*(COLLECTION + raised).splitlines()).cause
    error = raised.rpartition("E   ")[2]
    for found in (of_test, of_log):
        assert found.classification == classification
        assert title in found.root_cause
        assert error in found.root_cause


def test_a_killed_process_does_not_say_that_memory_was_short() -> None:
    found = diagnose_log("working", "==> Exit code 137")
    assert found.cause.classification == "infra"
    assert "perhaps" in found.cause.root_cause
    assert found.confidence < 0.6
    known = diagnose_log("Out of memory: Killed process 81 (python)", "==> Exit code 137")
    assert "perhaps" not in known.cause.root_cause
    assert known.confidence > 0.8


def test_the_last_line_before_the_end_says_more_than_passed_tests() -> None:
    found = diagnose_log("6 passed, 1 deselected in 0.2s", "coverage 61% is below 80%", "==> Exit code 1")
    assert found.cause.root_cause == "The command of the job failed: coverage 61% is below 80%"
    assert found.cause.is_guess


@pytest.mark.parametrize(
    ("line", "classification"),
    [
        ("WARNING: connection refused, retrying", "product_bug"),
        ("connection refused, trying again (attempt 1 of 3)", "product_bug"),
        ("ERROR: connection refused", "infra"),
    ],
)
def test_a_warning_in_the_log_does_not_say_why_a_test_failed(line: str, classification: str) -> None:
    test = FailedTest(6, 6, "t::total", "AssertionError: assert 1 == 2", signature="a")
    evidence = find_evidence(test)
    found = diagnose(msgspec.structs.replace(evidence, excerpts=excerpt_log(["began", line, "ok"])))
    assert found.cause.classification == classification


def test_the_reason_of_the_end_counts_where_only_the_agent_has_written_to_the_log() -> None:
    detail = "The report report.xml is incomplete or cannot be read."
    build = BuildFacts(9812, 3, "Nightly", "failed", "reports_unreadable", detail)
    log = excerpt_log(["==> Command: make", "==> Exit code 0", f"==> Reports unreadable: {detail}"])
    found = diagnose(Evidence(Question("diagnosis", 12, build_id=9812), build=build, excerpts=log)).cause
    assert found.root_cause == f"A test report is missing or cannot be read, so results are missing: {detail[:-1]}"
    assert found.refs == ("build:9812",)


def fail_alike(message: str, *numbers: int, **fields: Any) -> list[FailedTest]:
    """Returns failures of different tests with the same message, each with a signature of its own."""
    return [FailedTest(n, n, f"t::{n}", message, signature=f"s{n}", **fields) for n in numbers]


def test_equal_messages_are_one_cause_and_no_flakiness_of_some_of_the_tests() -> None:
    message = "ImportError: cannot import name 'shop' from 'app'"
    tests = (*fail_alike(message, 1, 2, 3), *fail_alike(message, 4, 5, record=FLAKY.record))
    found = answer(find_evidence(*tests, failed=5))
    assert (found.classification, found.affected_tests) == ("product_bug", 5)
    assert "flak" not in found.text
    assert "other causes" not in found.text
    assert "flaky" not in answer(msgspec.structs.replace(find_evidence(*tests), question=SUMMARY)).text
    all_flaky = diagnose(find_evidence(*fail_alike(message, 4, 5, record=FLAKY.record)))
    assert (all_flaky.cause.classification, all_flaky.affected) == ("flaky", 2)


def test_messages_that_tell_nothing_are_no_common_cause() -> None:
    found = diagnose(find_evidence(*fail_alike("AssertionError: assert 1 == 2", 1, 2)))
    assert (found.affected, len(found.others)) == (1, 1)


def test_what_a_person_said_of_one_failure_is_not_said_of_its_like() -> None:
    judged = fail_alike("KeyError: 'currency'", 1, classification="test_bug", classified_by="user")
    found = diagnose(find_evidence(*judged, *fail_alike("KeyError: 'currency'", 2)))
    assert (found.cause.classification, found.affected) == ("test_bug", 1)
