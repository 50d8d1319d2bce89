"""Most likely cause of one failure, by the evidence that counts most."""

import msgspec
import pytest

from domain.assistant.answers import Question
from domain.assistant.evidence import BuildSummary, Evidence, FailedTest, PastFailure, TestRecord
from domain.assistant.failure_causes import BY_ESTIMATE, BY_PAST, FIXES, QUARANTINED_FIX, ProbableCause, judge
from domain.test_health import BROKEN_FROM, FLAKY_FROM
from domain.triage import Classification, Source

SIGNATURE = "0123456789abcdef"
MESSAGE = "AssertionError: assert 9 == 10"


def make_test(message: str = MESSAGE, **fields: object) -> FailedTest:
    return FailedTest(1001, 1, "t.py::test_total", message, signature=SIGNATURE, **fields)  # type: ignore[arg-type]


def make_past(number: int, classification: Classification, by: Source) -> PastFailure:
    return PastFailure(number, 9000 + number, "t.py::test_total", MESSAGE, True, SIGNATURE, classification, by)


def judge_with(test: FailedTest, *past: PastFailure) -> ProbableCause:
    return judge(Evidence(Question("diagnosis", 12, build_id=9812), past=past), test)


@pytest.mark.parametrize("by", ["statistics", "ai"])
def test_what_people_said_of_earlier_failures_counts_more_than_an_estimate(by: Source) -> None:
    estimated = make_test(classification="test_bug", classified_by=by)
    earlier = [make_past(number, "test_bug", "user") for number in range(3)]
    assert judge_with(estimated, *earlier).confidence == BY_PAST
    alone = judge_with(estimated, make_past(4, "infra", by))
    assert (alone.classification, alone.confidence) == ("test_bug", BY_ESTIMATE)


@pytest.mark.parametrize(
    ("flaky", "broken", "is_flaky"),
    [
        (FLAKY_FROM, 0.0, True),
        (FLAKY_FROM - 0.01, 0.0, False),
        (0.9, BROKEN_FROM, False),
        (0.9, BROKEN_FROM - 0.01, True),
    ],
)
def test_a_test_is_flaky_by_its_history_from_a_probability_on(flaky: float, broken: float, is_flaky: bool) -> None:
    record = TestRecord(50, 2, flaky, 0.04, broken)
    found = judge_with(make_test(record=record))
    assert (found.classification == "flaky") is is_flaky
    assert judge_with(make_test(record=msgspec.structs.replace(record, failed_runs=1))).classification == "product_bug"


@pytest.mark.parametrize(
    ("message", "classification"),
    [("NameError: name {} is not defined", "test_bug"), ("AssertionError: no {}", "product_bug")],
)
def test_failures_without_a_signature_are_one_cause_if_they_are_equal(
    message: str, classification: Classification
) -> None:
    one, same, other = (
        judge_with(FailedTest(number, number, f"t.py::test_{number}", message.format(name)))
        for number, name in enumerate(("cart", "cart", "shop"))
    )
    assert one.classification == classification
    assert (one.key == same.key, one.key == other.key) == (True, False)


def test_the_suggested_fix_is_that_of_the_words_if_they_agree_with_the_class() -> None:
    agreeing, other = (
        judge_with(make_test("OSError: connection refused", classification=given, classified_by="user"))
        for given in ("infra", "product_bug")
    )
    assert agreeing.fix.startswith("Check that the service is started")
    assert other.fix == FIXES["product_bug"]


def test_the_build_that_passed_on_the_commit_is_named() -> None:
    failed, passed = BuildSummary(9805, "failed"), BuildSummary(9804, "passed")
    test = make_test(is_flaky=True)
    found = judge(Evidence(Question("diagnosis", 12, build_id=9812), same_commit=(failed, passed)), test)
    assert "on the same commit in build 9804, so" in found.why
    assert found.why_refs == ("test:1001", "build:9804")
    assert judge_with(test).why_refs == ("test:1001",)


def test_estimates_are_called_what_they_are() -> None:
    assert judge_with(make_test(classification="infra", classified_by="statistics")).why == (
        "The statistics have classified this failure as infra."
    )
    assert judge_with(make_test(classification="infra", classified_by="ai")).why == (
        "The assistant has classified this failure as infra."
    )


def test_a_test_in_quarantine_is_to_stay_there() -> None:
    assert judge_with(make_test(is_flaky=True)).fix == FIXES["flaky"]
    assert judge_with(make_test(is_flaky=True, is_quarantined=True)).fix == QUARANTINED_FIX
